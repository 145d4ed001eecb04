"""How many lanes there are, and of how many threads."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from backends.onnx.lanes import MOST_LANES, shape


@pytest.mark.parametrize(
    ("cores", "threads", "expected"),
    [(1, 0, (1, 1)), (2, 0, (2, 1)), (4, 0, (4, 1)), (8, 0, (4, 2)), (64, 0, (4, 4)), (8, 8, (1, 8)), (4, 3, (1, 3))],
)
def test_lanes_and_their_threads(cores: int, threads: int, expected: tuple[int, int]) -> None:
    assert shape(cores, threads) == expected


@given(st.integers(1, 256), st.integers(0, 256))
def test_no_more_threads_than_cores(cores: int, threads: int) -> None:
    lanes, each = shape(cores, threads)
    assert 1 <= lanes <= MOST_LANES
    assert 1 <= lanes * each <= cores
