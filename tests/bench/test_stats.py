"""The figures, from answers whose times are made up."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.client import Answer
from bench.stats import Figures, Wave, middle, percentile, summarise


def answer(sent: float, arrivals: list[float], tokens: int | None = None) -> Answer:
    usage = None if tokens is None else {"completion_tokens": tokens}
    return Answer(sent=sent, arrivals=arrivals, usage=usage, status=200, complete=True, ended=arrivals[-1])


def test_one_wave() -> None:
    figures = summarise([Wave([answer(0.0, [1.0, 1.5, 2.5], 3), answer(0.0, [2.0, 2.25], 5)], seconds=4.0)])
    assert figures.tokens_per_s == 2.0
    assert figures.ttft_p50 == 1.5
    assert figures.ttft_p95 == pytest.approx(1.95)
    assert figures.gap_p50 == 0.5
    assert figures.gap_p99 == pytest.approx(0.99)
    assert figures.failed == 0


def test_pauses_between_waves_do_not_count() -> None:
    waves = [Wave([answer(0.0, [1.0], 10)], 1.0), Wave([answer(100.0, [101.0], 10)], 1.0)]
    assert summarise(waves).tokens_per_s == 10.0


def test_a_failed_answer_is_counted_and_gives_no_figure() -> None:
    broken = answer(0.0, [50.0], 99)
    broken.error = "engine died"
    figures = summarise([Wave([answer(0.0, [1.0], 4), broken], 2.0)])
    assert (figures.failed, figures.tokens_per_s, figures.ttft_p95) == (1, 2.0, 1.0)


def test_the_middle_of_three_rounds_keeps_every_failure() -> None:
    rounds = [Figures(v, v, v, v, v, failed) for v, failed in ((1.0, 0), (9.0, 2), (3.0, 1))]
    assert middle(rounds) == Figures(3.0, 3.0, 3.0, 3.0, 3.0, failed=3)


def test_a_percentile_of_nothing() -> None:
    assert math.isnan(percentile([], 50))


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.floats(0, 100))
def test_a_percentile_lies_within(values: list[float], q: float) -> None:
    assert min(values) <= percentile(values, q) <= max(values)
    assert percentile(values, 0) == min(values)
    assert percentile(values, 100) == max(values)
