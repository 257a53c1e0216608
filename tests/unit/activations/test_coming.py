"""What a GPU has begun is ended in its order, one behind; nothing that was begun is lost at a stop."""

from collections.abc import Iterator

import pytest

torch = pytest.importorskip("torch")

from prefprobe.activations.coming import one_behind  # noqa: E402
from prefprobe.progress import Stopped  # noqa: E402

pytestmark = pytest.mark.model


@pytest.mark.parametrize(("device", "ahead"), [("cpu", 1), ("cuda", 2)])
@pytest.mark.parametrize("n", [0, 1, 5])
def test_all_are_ended_in_order_and_a_gpu_has_one_more_to_do(device: str, ahead: int, n: int) -> None:
    begun: list[int] = []
    ended: list[int] = []

    def end(one: int) -> None:
        assert one == len(ended)
        assert len(begun) == min(n, one + ahead)
        ended.append(one)

    def begin() -> Iterator[int]:
        for k in range(n):
            begun.append(k)
            yield k

    one_behind(torch.device(device), begin(), end)
    assert ended == list(range(n))


@pytest.mark.parametrize(("device", "done"), [("cpu", [0, 1]), ("cuda", [0, 1, 2])])
def test_a_stop_ends_what_was_begun_and_an_error_does_not(device: str, done: list[int]) -> None:
    ended: list[int] = []

    def stopped(one: int) -> None:
        ended.append(one)
        if one:
            raise Stopped("asked to")

    with pytest.raises(Stopped):
        one_behind(torch.device(device), range(9), stopped)
    assert ended == done

    def broken(one: int) -> None:
        ended.append(one)
        raise ValueError("broken")

    ended.clear()
    with pytest.raises(ValueError, match="broken"):
        one_behind(torch.device(device), range(9), broken)
    assert ended == [0]
