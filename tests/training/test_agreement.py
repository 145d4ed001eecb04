"""Agreement of answers with the original's."""

from __future__ import annotations

import numpy as np
import pytest

from backends.training.agreement import agreement

RNG = np.random.default_rng(0)


def test_the_same_vectors_agree_whatever_their_length() -> None:
    vectors = RNG.normal(size=(20, 8)).astype(np.float32)
    found = agreement("embed", vectors, 3 * vectors)
    assert found.worst == pytest.approx(1.0)
    assert found.same_neighbour == 1.0


def test_one_wrong_vector_decides() -> None:
    vectors = RNG.normal(size=(100, 8)).astype(np.float32)
    other = vectors.copy()
    other[7] = -other[7]
    found = agreement("embed", vectors, other)
    assert found.mean == pytest.approx(0.98)
    assert found.judged == found.worst == pytest.approx(-1.0)


def test_classifiers_agree_by_their_labels() -> None:
    original = np.array([[0.6, 0.4], [0.2, 0.8]], np.float32)
    found = agreement("classify", original, np.array([[0.4, 0.6], [0.3, 0.7]], np.float32))
    assert (found.judged, found.worst) == (0.5, pytest.approx(0.8))


def test_rerankers_agree_by_their_scores() -> None:
    found = agreement("rerank", np.array([0.5, 0.9], np.float32), np.array([0.4, 0.9], np.float32))
    assert (found.mean, found.worst) == (pytest.approx(0.95), pytest.approx(0.9))
