"""Texts that threads share: the vectors are those of one thread, and who counts may stop."""

from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from prefprobe.features.encoder import embed
from tests.encoders import write_bert

TEXTS = [f"{chr(97 + i % 26)} story {chr(97 + i // 26)} the sea" for i in range(150)]


def embedded(source: str, threads: int) -> np.ndarray:
    with threadpool_limits(threads, user_api="blas"):
        assert max(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas") == threads
        return embed(source, TEXTS)


def test_any_number_of_threads_gives_the_same_bits_in_the_order_of_texts(tmp_path: Path) -> None:
    source = write_bert(tmp_path / "bert")
    one = embedded(source, 1)
    assert len(np.unique(one, axis=0)) > 100
    assert np.array_equal(embedded(source, 2), one)
    assert np.array_equal(embed(source, TEXTS[70:71]), one[70:71])


def test_whoever_counts_may_stop_it(tmp_path: Path) -> None:
    counted: list[int] = []

    def advance(n: int) -> None:
        counted.append(n)
        if len(counted) == 70:
            raise InterruptedError

    with threadpool_limits(2, user_api="blas"), pytest.raises(InterruptedError):
        embed(write_bert(tmp_path / "bert"), TEXTS, advance=advance)
    assert len(counted) == 70
