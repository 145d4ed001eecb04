"""Training a head on vectors whose truth is known, and its ONNX graph against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.training.common import TrainingError, need, no_progress
from backends.training.graph import head_graph
from backends.training.head import FitSettings, Fitted, Head, find_temperature, fit
from backends.training.measures import calibration_error, softmax
from backends.training.split import folds, split


def clouds(rows: int, labels: int, spread: float, seed: int = 0) -> tuple[list[str], np.ndarray, list[str]]:
    """Texts, unit vectors [rows, 16] around a centre for each label, and labels."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(labels, 16))
    truth = np.arange(rows) % labels
    vectors = centres[truth] + spread * rng.normal(size=(rows, 16))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    texts = [f"text {seed} {row}" for row in range(rows)]
    return texts, vectors.astype(np.float32), [f"label {index}" for index in truth]


def fitted(rows: int = 300, labels: int = 4, spread: float = 0.8, **options: float) -> Fitted:
    texts, vectors, names = clouds(rows, labels, spread)
    return fit(texts, vectors, names, FitSettings(**options), no_progress)  # type: ignore[arg-type]


def test_what_can_be_told_apart_is() -> None:
    found = fitted()
    assert found.held_out.accuracy > 0.95
    assert found.held_out.rows == 60
    assert found.train_rows == 240
    assert found.head.labels == ("label 0", "label 1", "label 2", "label 3")
    assert 0 < found.confidence < 1
    assert found.sure.accuracy >= found.held_out.accuracy - 0.02


def test_noise_is_not_taken_for_knowledge() -> None:
    """Vectors that say nothing of their labels: near chance, unsure, and all would be passed on."""
    texts, vectors, names = clouds(400, 4, 1.0)
    shuffled = list(np.random.default_rng(1).permutation(names))
    found = fit(texts, vectors, shuffled, FitSettings(), no_progress)
    assert found.held_out.accuracy < 0.5
    assert found.head.probabilities(vectors).max(axis=1).mean() < 0.5
    assert not found.reached
    assert found.confidence == 1.0


def test_the_probabilities_are_calibrated_on_rows_that_it_never_saw() -> None:
    texts, vectors, names = clouds(600, 4, 2.0)
    found = fit(texts, vectors, names, FitSettings(), no_progress)
    _, others, others_names = clouds(4000, 4, 2.0, seed=7)
    truth = np.array([found.head.labels.index(name) for name in others_names])
    probabilities = found.head.probabilities(others)
    assert 0.6 < (probabilities.argmax(axis=1) == truth).mean() < 0.95
    assert calibration_error(probabilities, truth) < 0.06


def test_the_same_data_give_the_same_head() -> None:
    one, two = fitted(), fitted()
    assert np.array_equal(one.head.weights, two.head.weights)
    assert (one.held_out, one.confidence) == (two.held_out, two.confidence)


@pytest.mark.parametrize("labels", [2, 5])
def test_the_graph_computes_what_the_head_does(labels: int) -> None:
    import onnxruntime

    found = fitted(labels=labels)
    session = onnxruntime.InferenceSession(head_graph(found.head), providers=["CPUExecutionProvider"])
    vectors = clouds(50, labels, 1.0, seed=3)[1]
    (logits,) = session.run(["logits"], {"embedding": vectors})
    assert logits.shape == (50, labels)
    assert np.allclose(softmax(logits.astype(np.float64), found.head.temperature), found.head.probabilities(vectors))


def test_a_temperature_undoes_what_was_done_to_the_logits() -> None:
    rng = np.random.default_rng(5)
    honest = rng.normal(size=(5000, 3)) * 2
    probabilities = softmax(honest)
    truth = np.array([rng.choice(3, p=row) for row in probabilities])
    assert find_temperature(honest, truth) == pytest.approx(1.0, abs=0.08)
    assert find_temperature(honest * 5, truth) == pytest.approx(5.0, abs=0.4)


def test_all_right_is_no_reason_for_certainty() -> None:
    """Twenty rows, all told right by a margin: the probability stays below 1."""
    logits = np.where(np.eye(2)[np.arange(20) % 2] > 0, 3.0, 0.0)
    temperature = find_temperature(logits, np.arange(20) % 2)
    assert 0.9 < softmax(logits, temperature).max() < 0.99


def test_broken_vectors_are_refused() -> None:
    texts, vectors, names = clouds(40, 2, 1.0)
    vectors[3, 3] = np.nan
    with pytest.raises(TrainingError, match="not numbers"):
        fit(texts, vectors, names, FitSettings(), no_progress)


def test_a_missing_package_is_named_with_its_command() -> None:
    with pytest.raises(TrainingError, match=r"pip install 'outstation\[train\]'"):
        need("no_such_package.at_all", "train")


def test_progress_goes_forward_and_ends() -> None:
    told: list[tuple[str, int, int]] = []
    texts, vectors, names = clouds(40, 2, 1.0)
    fit(texts, vectors, names, FitSettings(), lambda *step: told.append(step))
    assert told[-1] == ("learning", 1, 1)
    assert [done for phase, done, _ in told if phase == "cross-validating"][:3] == [0, 1, 2]


@settings(max_examples=50)
@given(st.lists(st.integers(8, 30), min_size=2, max_size=5), st.floats(0.05, 0.5), st.integers(0, 5))
def test_no_row_is_in_both_parts_and_each_label_is_in_both(counts: list[int], test: float, seed: int) -> None:
    truth = np.repeat(np.arange(len(counts)), counts)
    texts = [f"row {index}" for index in range(len(truth))]
    parts = split(texts, truth, test, seed)
    assert sorted([*parts.train, *parts.test]) == list(range(len(truth)))
    assert set(truth[parts.train]) == set(truth[parts.test]) == set(range(len(counts)))
    place = folds(texts, truth, 4, seed)
    for label in range(len(counts)):
        spread = np.bincount(place[truth == label], minlength=4)
        assert spread.max() - spread.min() <= 1


def test_a_row_that_tested_keeps_testing_when_others_come() -> None:
    texts, truth = [f"row {index}" for index in range(100)], np.zeros(100, dtype=np.int64)
    before = {texts[index] for index in split(texts, truth, 0.2, 0).test}
    more = [*(f"new {index}" for index in range(5)), *texts]
    after = {more[index] for index in split(more, np.zeros(105, dtype=np.int64), 0.2, 0).test}
    assert len(before & after) >= 18


def test_many_rows_are_thinned_for_the_choice_only() -> None:
    texts, vectors, names = clouds(1500, 3, 0.8)
    # A rare label is kept whole.
    names[:9] = ["rare"] * 9
    vectors[:9] = -vectors[:9]
    found = fit(texts, vectors, names, FitSettings(fold_rows=200), no_progress)
    assert found.train_rows > 1190
    assert found.held_out.accuracy > 0.9


def test_a_head_of_other_shapes() -> None:
    head = Head(("a", "b"), np.eye(2, 3, dtype=np.float32), np.array([0, 1], dtype=np.float32), 1.0)
    assert head.logits(np.array([[1, 2, 3]], dtype=np.float32)).tolist() == [[1.0, 3.0]]
