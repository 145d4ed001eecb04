"""Pooling, norms and calibration, against what they are by definition."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from backends.errors import InvalidRequest
from backends.onnx import answers
from backends.onnx.manifest import Manifest
from tests.onnx.conftest import vector

FILES = {"model.onnx": {"sha256": "0" * 64, "size": 1}}


def manifest(**table: object) -> Manifest:
    given = {"name": "m", "task": "classify", "input": "features", "features": ["a"], "labels": ["no", "yes"], **table}
    return Manifest.model_validate({**given, "files": FILES})


def test_pooling_leaves_padding_out() -> None:
    hidden = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    mask = np.array([[1, 1, 0], [0, 1, 1]])
    assert answers.pool(hidden, mask, "mean").tolist() == [[1, 2], [9, 10]]
    assert answers.pool(hidden, mask, "cls").tolist() == [[0, 1], [8, 9]], "of one that is padded at its left too"


def test_a_text_of_padding_only_has_no_mean_and_harms_nobody() -> None:
    pooled = answers.unit(answers.pool(np.ones((1, 2, 2), np.float32), np.zeros((1, 2), np.int64), "mean"))
    assert pooled.tolist() == [[0, 0]]


@given(st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=2), st.floats(0.1, 10))
def test_softmax_with_temperature_and_bias(z: list[float], t: float) -> None:
    model = manifest(activation="softmax", temperature=t, bias=[0.5, -0.5])
    no, yes = answers.probabilities(np.array([z], np.float32), model)[0]
    assert no + yes == pytest.approx(1.0, abs=1e-5)
    gap = ((z[1] - 0.5) - (z[0] + 0.5)) / t
    assert yes == pytest.approx(1 / (1 + np.exp(-np.clip(gap, -80, 80))), abs=1e-5)


def test_a_sigmoid_of_far_out_logits_is_a_number() -> None:
    model = manifest(activation="sigmoid", exclusive=False)
    assert answers.probabilities(np.array([[-1e30, 1e30]], np.float32), model).tolist() == [[0, 1]]


def test_one_column_for_two_labels_is_the_seconds() -> None:
    assert answers.labelled(np.array([0.25]), manifest()) == {"probabilities": {"no": 0.75, "yes": 0.25}}


def test_fewer_dimensions_are_of_length_one_again() -> None:
    model = manifest(task="embed", dimensions=3)
    made = vector(answers.embedding(np.array([0.6, 0.0, 0.8], np.float32), model, {"dimensions": 2}))  # type: ignore[arg-type]
    assert made.tolist() == [1, 0]
    for wrong in (0, 4, -1, "2", 1.5):
        with pytest.raises(InvalidRequest) as caught:
            answers.check_dimensions(model, {"dimensions": wrong})
        assert caught.value.param == "dimensions"
    answers.check_dimensions(model, {"dimensions": 3})


def test_a_text_in_pieces_is_judged_by_its_worst() -> None:
    parts = [{"probabilities": {"a": 0.1, "b": 0.6}}, {"probabilities": {"a": 0.9, "b": 0.2}}]
    assert answers.highest(parts) == {"probabilities": {"a": 0.9, "b": 0.6}}
    assert answers.highest(parts[:1]) is parts[0]
