"""Figures of a classifier, against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.training.measures import (
    at_confidence,
    calibration_error,
    figures,
    log_loss,
    risk_coverage,
    softmax,
    suggest_confidence,
)

LABELS = ("leak", "noise", "power")
P = np.array([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.3, 0.5, 0.2], [0.2, 0.2, 0.6]])
TRUTH = np.array([0, 1, 1, 2])


def test_by_hand() -> None:
    found = figures(P, TRUTH, LABELS)
    assert found.rows == 4
    assert found.accuracy == 0.75
    assert found.confusion == ((1, 0, 0), (1, 1, 0), (0, 0, 1))
    leak, noise, power = found.labels
    assert (leak.precision, leak.recall, leak.rows) == (0.5, 1.0, 1)
    assert (noise.precision, noise.recall, noise.rows) == (1.0, 0.5, 2)
    assert (power.precision, power.recall, power.f1) == (1.0, 1.0, 1.0)
    assert found.macro_f1 == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert found.log_loss == pytest.approx(-np.log([0.8, 0.3, 0.5, 0.6]).mean())


def test_a_label_that_is_never_called_has_no_precision() -> None:
    found = figures(np.array([[0.9, 0.1], [0.9, 0.1]]), np.array([0, 1]), ("a", "b"))
    assert (found.labels[1].precision, found.labels[1].recall, found.labels[1].f1) == (0.0, 0.0, 0.0)


def test_the_calibration_error_by_hand() -> None:
    # Ten answers of confidence .85, six of them right: off by a quarter.
    probabilities = np.tile([0.85, 0.15], (10, 1))
    assert calibration_error(probabilities, np.array([0] * 6 + [1] * 4)) == pytest.approx(0.25)
    # Certain and right: nothing is off, and confidence 1.0 falls into the last bin.
    assert calibration_error(np.tile([1.0, 0.0], (4, 1)), np.zeros(4, dtype=np.int64)) == 0.0


def test_certain_and_wrong_has_a_finite_loss() -> None:
    assert log_loss(np.array([[1.0, 0.0]]), np.array([1])) == pytest.approx(-np.log(1e-12))


def test_softmax_of_large_logits_and_a_temperature() -> None:
    found = softmax(np.array([[1000.0, 1002.0]]), temperature=2.0)
    assert found[0] == pytest.approx([1 / (1 + np.e), np.e / (1 + np.e)])


def test_the_curve_joins_equal_confidences() -> None:
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.8, 0.2], [0.4, 0.6]])
    points = risk_coverage(probabilities, np.array([0, 0, 1, 0]))
    assert [(p.confidence, p.coverage) for p in points] == [(0.9, 0.25), (0.8, 0.75), (0.6, 1.0)]
    assert [p.accuracy for p in points] == pytest.approx([1.0, 2 / 3, 0.5])


def test_the_confidence_that_gives_what_is_wanted() -> None:
    sure, unsure = np.tile([0.95, 0.05], (50, 1)), np.tile([0.6, 0.4], (50, 1))
    probabilities = np.concatenate([sure, unsure])
    truth = np.array([0] * 50 + [0] * 30 + [1] * 20)
    point = suggest_confidence(probabilities, truth, 0.95)
    assert point is not None
    assert (point.confidence, point.coverage, point.accuracy) == (0.95, 0.5, 1.0)
    all_of_it = suggest_confidence(probabilities, truth, 0.8)
    assert all_of_it is not None
    assert (all_of_it.confidence, all_of_it.coverage, all_of_it.accuracy) == (0.6, 1.0, 0.8)


def test_where_all_is_right_some_confidence_is_still_asked_for() -> None:
    probabilities = np.stack([np.linspace(0.7, 1, 101), 1 - np.linspace(0.7, 1, 101)], axis=1)
    point = suggest_confidence(probabilities, np.zeros(101, dtype=np.int64), 0.9)
    assert point is not None
    assert point.confidence == pytest.approx(0.706)


def test_no_confidence_is_good_enough() -> None:
    assert suggest_confidence(np.tile([0.9, 0.1], (40, 1)), np.array([0, 1] * 20), 0.95) is None
    assert at_confidence(np.tile([0.9, 0.1], (4, 1)), np.zeros(4, dtype=np.int64), 1.0).accuracy == 1.0


@given(st.lists(st.tuples(st.floats(0.5, 1), st.booleans()), min_size=1, max_size=60), st.floats(0.5, 1))
def test_a_suggestion_holds_on_the_rows_that_it_came_from(rows: list[tuple[float, bool]], wanted: float) -> None:
    probabilities = np.array([[p, 1 - p] for p, _ in rows])
    truth = np.array([0 if right else 1 for _, right in rows])
    for point in risk_coverage(probabilities, truth):
        seen = at_confidence(probabilities, truth, point.confidence)
        assert (seen.coverage, seen.accuracy) == (pytest.approx(point.coverage), pytest.approx(point.accuracy))
    point = suggest_confidence(probabilities, truth, wanted) or None
    if point is not None:
        assert 0.5 <= point.confidence <= 1
