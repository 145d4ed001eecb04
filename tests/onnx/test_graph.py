"""A file is believed nothing: each lie has its refusal, each refusal its reason."""

from __future__ import annotations

import contextlib
import pickle
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import onnx
import pytest
from hypothesis import given
from onnx import TensorProto, helper, numpy_helper

from backends.errors import BadModelFile
from backends.onnx import graph
from backends.onnx.manifest import read_manifest
from tests.onnx import graphs
from tests.onnx.conftest import MODELS, Folder


def check(folder: Path) -> graph.Graph:
    return graph.check(folder, read_manifest(folder))


def refusal(folder: Path) -> str:
    with pytest.raises(BadModelFile) as caught:
        check(folder)
    return caught.value.message


@pytest.mark.parametrize("name", MODELS)
def test_the_real_models_pass(folder: Folder, name: str) -> None:
    checked = check(folder(name))
    assert isinstance(checked.source, bytes)
    assert checked.inputs


def test_a_tiny_one_passes(tmp_path: Path) -> None:
    checked = check(graphs.write(tmp_path / "m", graphs.linear()))
    assert checked.output == graph.Port("logits", "float", (0, 2))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (pickle.dumps({"weights": [1, 2, 3]}), "a Python pickle"),
        (b"PK\x03\x04rest", "a zip archive"),
        (b"GGUF\x03\x00\x00\x00", "a GGUF file"),
        (b'\x10\x00\x00\x00\x00\x00\x00\x00{"a":{}}' + b" " * 20, "a safetensors file"),
        (b"\x1c\x00\x00\x00TFL3rest", "a TensorFlow Lite file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (b"<!DOCTYPE html><html></html>", "a web page"),
        (b"no graph at all", "cannot be parsed"),
        (onnx.ModelProto().SerializeToString() or b"\x08\x09", "holds no graph"),
    ],
)
def test_another_format_is_named(tmp_path: Path, content: bytes, what: str) -> None:
    assert what in refusal(graphs.write(tmp_path / "m", content))


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    trap = tmp_path / "sprung"

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (trap,)

    assert "pickle" in refusal(graphs.write(tmp_path / "m", pickle.dumps(Trap())))
    assert not trap.exists()


# -- the files -------------------------------------------------------------------------------------------------------


def test_another_file_than_the_manifests(tmp_path: Path) -> None:
    folder = graphs.write(tmp_path / "m", graphs.linear())
    data = bytearray((folder / "model.onnx").read_bytes())
    data[-1] ^= 1
    (folder / "model.onnx").write_bytes(data)
    assert "sha256 differs" in refusal(folder)
    (folder / "model.onnx").write_bytes(data[:-1])
    assert "the manifest says" in refusal(folder)
    (folder / "model.onnx").unlink()
    assert "is missing" in refusal(folder)


def test_a_link_out_of_the_folder(tmp_path: Path) -> None:
    folder = graphs.write(tmp_path / "m", graphs.linear())
    (folder / "model.onnx").rename(tmp_path / "elsewhere")
    (folder / "model.onnx").symlink_to(tmp_path / "elsewhere")
    assert "is missing" in refusal(folder)


def external(location: str, offset: object = 0, length: object = 16) -> onnx.ModelProto:
    """The tiny one, with its weights in another file."""
    model = graphs.linear()
    weights = model.graph.initializer[0]
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": offset, "length": length}.items():
        weights.external_data.add(key=key, value=str(value))
    return model


def test_weights_in_a_file_of_the_folder(tmp_path: Path) -> None:
    data = np.eye(2, dtype=np.float32).tobytes()
    folder = graphs.write(tmp_path / "m", external("w.bin"), {"w.bin": data})
    assert check(folder).source == str(folder / "model.onnx")


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "a/../../secret", "other.bin", ""])
def test_weights_elsewhere(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret").write_bytes(bytes(16))
    folder = graphs.write(tmp_path / "m", external(location), {"w.bin": bytes(16)})
    (folder / "other.bin").write_bytes(bytes(16))
    assert "no file of the manifest" in refusal(folder)


@pytest.mark.parametrize(
    ("offset", "length", "why"),
    [
        (8, 16, "has 16 bytes"),
        (0, 17, "has 16 bytes"),
        (-8, 16, "has 16 bytes"),
        (0, 8, "shape says"),
        ("x", 16, "no number"),
    ],
)
def test_weights_past_the_end(tmp_path: Path, offset: object, length: object, why: str) -> None:
    folder = graphs.write(tmp_path / "m", external("w.bin", offset, length), {"w.bin": bytes(16)})
    assert why in refusal(folder)


# -- the graph -------------------------------------------------------------------------------------------------------


def test_operators_that_onnxruntime_does_not_bring(tmp_path: Path) -> None:
    assert "'my.own'" in refusal(graphs.write(tmp_path / "m", graphs.linear(domain="my.own")))


def test_an_operator_that_reads_files(tmp_path: Path) -> None:
    model = graphs.linear()
    model.graph.node[0].op_type = "EPContext"
    assert "EPContext" in refusal(graphs.write(tmp_path / "m", model))


def branch(depth: int, hidden: list[onnx.NodeProto] | None = None) -> list[onnx.NodeProto]:
    """`If` in `If`, so deep; the innermost holds `hidden`."""
    nodes = hidden or [helper.make_node("Identity", ["x"], ["logits"])]
    for _ in range(depth):
        inner = helper.make_graph(nodes, "branch", [], [graphs.floats("logits", "n", 2)])
        nodes = [helper.make_node("If", ["c"], ["logits"], then_branch=inner, else_branch=inner)]
    return nodes


def nested(nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    return graphs.graph(
        nodes,
        [graphs.floats("x", "n", 2)],
        [graphs.floats("logits", "n", 2)],
        [numpy_helper.from_array(np.array(True), "c")],
    )


def test_branches_in_branches(tmp_path: Path) -> None:
    assert check(graphs.write(tmp_path / "some", nested(branch(3))))
    assert "deep" in refusal(graphs.write(tmp_path / "m", nested(branch(9))))


def test_what_hides_in_a_branch_is_found(tmp_path: Path) -> None:
    hidden = [helper.make_node("Spy", ["x"], ["logits"], domain="my.own")]
    assert "'my.own'" in refusal(graphs.write(tmp_path / "m", nested(branch(2, hidden))))
    constant = external("../secret").graph.initializer[0]
    spy = [helper.make_node("Constant", [], ["w"], value=constant), helper.make_node("MatMul", ["x", "w"], ["logits"])]
    assert "no file of the manifest" in refusal(graphs.write(tmp_path / "n", nested(branch(2, spy))))


def test_functions(tmp_path: Path) -> None:
    model = graphs.linear()
    model.functions.add(name="f", domain="")
    assert "functions of its own" in refusal(graphs.write(tmp_path / "m", model))


def test_weights_that_are_not_as_large_as_their_shape(tmp_path: Path) -> None:
    model = graphs.linear()
    model.graph.initializer[0].dims[0] = 1 << 40
    assert "their shape says" in refusal(graphs.write(tmp_path / "m", model))
    model.graph.initializer[0].dims[0] = -2
    assert "negative" in refusal(graphs.write(tmp_path / "n", model))
    model.graph.initializer[0].dims[0] = 2
    model.graph.initializer[0].data_type = 999
    assert "unknown type" in refusal(graphs.write(tmp_path / "o", model))


# -- the manifest ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("manifest", "why"),
    [
        ({"labels": ["a", "b", "c"]}, "2 wide; by the manifest it should be 3"),
        ({"features": ["a", "b", "c"]}, "2 wide; by the manifest it should be 3"),
        ({"output": "scores"}, "no output 'scores', but logits"),
        ({"task": "find"}, "2 dimensions; find needs 3"),
        ({"task": "rerank"}, "it should be 1"),
        ({"input": "image", "image": {"size": 8}}, "4 dimensions"),
        ({"input": "text", "tokenizer": {"max_tokens": 8, "file": "model.onnx"}}, "no tokenizer fills"),
    ],
)
def test_a_graph_that_is_not_what_the_manifest_says(tmp_path: Path, manifest: dict[str, Any], why: str) -> None:
    assert why in refusal(graphs.write(tmp_path / "m", graphs.linear(), **manifest))


def test_one_logit_for_two_labels_is_enough(tmp_path: Path) -> None:
    one = graphs.linear([[1.0], [2.0]])
    assert check(graphs.write(tmp_path / "m", one, activation="sigmoid"))


def test_an_output_that_is_no_number(tmp_path: Path) -> None:
    model = graphs.graph(
        [helper.make_node("ArgMax", ["x"], ["label"], axis=1, keepdims=1)],
        [graphs.floats("x", "n", 2)],
        [helper.make_tensor_value_info("label", TensorProto.INT64, ["n", 1])],
    )
    assert "int64" in refusal(graphs.write(tmp_path / "m", model))


@given(st.data())
def test_a_mutated_graph_passes_or_is_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Never another error."""
    raw = bytearray(graphs.linear().SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(raw[: data.draw(st.integers(1, len(raw)))])
    folder = graphs.write(tmp_path_factory.mktemp("mutated") / "m", cut)
    with contextlib.suppress(BadModelFile):
        assert check(folder).inputs
