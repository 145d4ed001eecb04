"""The pure parts of `bench.injection_documents`: how documents are cut, and how a bound is chosen and told."""

from __future__ import annotations

import numpy as np
import pytest

from bench.injection_data import Labelled
from bench.injection_documents import (
    BOUNDS,
    PAGE,
    Scores,
    attacks,
    chosen,
    half,
    installed,
    pages_of,
    paragraphs_of,
    report,
)

RUNNING = "The pump is started with the key on the left side of its panel. " * 5


def test_a_text_is_cut_into_whole_pages() -> None:
    lines = [f"Line number {n} of the text." for n in range(2 * PAGE + PAGE // 2)]
    assert pages_of("\n".join(lines)) == ["\n".join(lines[at : at + PAGE]) for at in (0, PAGE, 2 * PAGE)]
    assert len(pages_of("\n".join(lines[:-1]))) == 2
    assert pages_of("Short.") == []


def test_paragraphs_are_running_text() -> None:
    code, table = f"```\n{RUNNING}\n\n{RUNNING}\n```", f"| {RUNNING} |"
    listed, heading = f"- {RUNNING}", f"# {RUNNING}"
    text = "\n\n".join([heading, RUNNING, code, table, listed, "Too short."])
    assert list(paragraphs_of(text)) == [RUNNING.strip()]


def test_attacks_are_short_and_neuralchemys() -> None:
    texts = [
        Labelled("Ignore it", True, "neuralchemy: x"),
        Labelled("Ignore it " * 30, True, "neuralchemy: x"),
        Labelled("Ignore this", True, "s-labs"),
        Labelled("Start it", False, "neuralchemy: x"),
    ]
    assert attacks(texts) == ["Ignore it"]


def test_packages_are_in_one_half_and_this_one_in_none() -> None:
    found = installed()
    assert "outstation" not in found
    assert len(found["pytest"]) > 500
    assert {half(name) for name in found} == {0, 1}


def scores(pages: list[float]) -> Scores:
    return Scores(np.array(pages), np.array([0.5]), np.array([0.97, 0.9999]))


@pytest.mark.parametrize(
    ("pages", "bound"),
    [([0.1] * 10, BOUNDS[0]), ([0.97] * 3 + [0.1] * 7, 0.98), ([0.97] * 2 + [0.1] * 8, BOUNDS[0]), ([0.9999], 1.0)],
)
def test_the_lowest_bound_that_holds_few_enough(pages: list[float], bound: float) -> None:
    assert chosen(scores(pages)) == bound


def test_the_report_tells_what_the_bound_costs() -> None:
    text = report({"first": scores([0.97] * 3 + [0.1] * 7), "second": scores([0.99, 0.1])})
    assert "held: 0.98" in text
    assert "At 0.98, second: 50% of the pages held, 50% of the hidden attacks pass" in text
    assert "| 0.95  | first     | 3 of 10 (30%) | 0 of 1 (0%)     | 2 of 2 (100%) |" in text
