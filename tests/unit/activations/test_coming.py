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
@pytest.mark.parametrize("error", [Stopped("asked to"), ValueError("broken")])
def test_whatever_stops_it_what_was_begun_is_ended_and_the_first_error_told(
    device: str, done: list[int], error: Exception
) -> None:
    ended: list[int] = []

    def stopped(one: int) -> None:
        ended.append(one)
        if one:
            raise error if one == 1 else ValueError("a second one")

    with pytest.raises(type(error), match=str(error)):
        one_behind(torch.device(device), range(9), stopped)
    assert ended == done


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_was_begun_is_ended_where_the_next_cannot_be_begun(device: str) -> None:
    ended: list[int] = []

    def begin() -> Iterator[int]:
        yield from range(3)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        one_behind(torch.device(device), begin(), ended.append)
    assert ended == [0, 1, 2]


def test_a_second_interrupt_ends_at_once() -> None:
    ended: list[int] = []

    def interrupted(one: int) -> None:
        ended.append(one)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        one_behind(torch.device("cuda"), range(9), interrupted)
    assert ended == [0]
