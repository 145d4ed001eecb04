"""A loaded model, in this process: what a run gives, and whom a failure concerns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from backends.errors import BadModelFile, EngineFailed
from backends.onnx.room import Room, checked_providers
from tests.onnx import graphs


def room() -> Room:
    return Room(threads=1, providers=("cpu",), alive=lambda: None)


def picky() -> onnx.ModelProto:
    """It fails at a feature above 1: there is no such row to gather."""
    return graphs.graph(
        [
            helper.make_node("ReduceMax", ["x"], ["most"], axes=[1], keepdims=0),
            helper.make_node("Cast", ["most"], ["at"], to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "at"], ["logits"]),
        ],
        [graphs.floats("x", "n", 2)],
        [graphs.floats("logits", "n", 2)],
        [numpy_helper.from_array(np.array([[0, 1], [1, 0]], np.float32), "table")],
    )


def test_who_shares_a_run_with_a_bad_input_is_answered(tmp_path: Path) -> None:
    folder = graphs.write(tmp_path / "picky", picky(), activation="none")
    model = room().load(str(folder), "")
    inputs = [np.array([value, 0], np.float32) for value in (0, 5, 1)]
    with pytest.raises(EngineFailed):
        model.compute(inputs)
    first, second, third = model.outcomes(inputs)
    assert isinstance(second, EngineFailed)
    assert (first.tolist(), third.tolist()) == ([0, 1], [1, 0])


def test_no_number_concerns_its_own_input(tmp_path: Path) -> None:
    folder = graphs.write(tmp_path / "big", graphs.linear([[3e38, 0], [0, 1]]), activation="none")
    first, second = room().load(str(folder), "").compute([np.array([v, 1], np.float32) for v in (9, 0)])
    assert isinstance(first, EngineFailed)
    assert second.tolist() == [0, 1]


def test_a_model_is_loaded_once_and_again_after_it_was_unloaded(tmp_path: Path) -> None:
    folder = str(graphs.write(tmp_path / "m", graphs.linear()))
    its = room()
    model = its.load(folder, "")
    assert its.load(folder, "") is model
    its.unload(folder)
    assert its.load(folder, "") is not model


def test_a_failure_is_remembered_until_the_manifest_changes(tmp_path: Path) -> None:
    folder = graphs.write(tmp_path / "m", b"GGUF")
    its = room()
    for _ in range(2):
        with pytest.raises(BadModelFile, match="a GGUF file"):
            its.load(str(folder), "")
    graphs.write(folder, graphs.linear())
    assert its.load(str(folder), "")


def test_a_base_must_make_embeddings(tmp_path: Path) -> None:
    base = graphs.write(tmp_path / "base", graphs.linear())
    head = graphs.write(tmp_path / "head", graphs.linear(), input="embedding", base="base", features=[])
    with pytest.raises(BadModelFile, match="makes no embeddings"):
        room().load(str(head), str(base))


def test_execution_providers_by_short_names_and_by_their_own() -> None:
    assert checked_providers(["CPU"]) == checked_providers(["CPUExecutionProvider"]) == ["CPUExecutionProvider"]
    with pytest.raises(BadModelFile, match=r"'qnn' is not in this build of onnxruntime. It has: .*CPUExecution"):
        checked_providers(["cpu", "qnn"])


def test_finding_needs_a_tokenizer_that_says_where_words_stand(tmp_path: Path) -> None:
    folder = graphs.write(
        tmp_path / "find",
        graphs.linear(),
        {"vocab.json": b'{"vocab": {}}'},
        task="find",
        input="text",
        tokenizer={"kind": "words", "file": "vocab.json", "max_tokens": 8},
    )
    with pytest.raises(BadModelFile, match="where words stand"):
        room().load(str(folder), "")
