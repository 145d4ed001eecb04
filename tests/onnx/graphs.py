"""Tiny graphs, made for a test, with their manifests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def write(
    folder: Path, model: onnx.ModelProto | bytes, others: dict[str, bytes] | None = None, **manifest: Any
) -> Path:
    """A model's folder; a classifier of two features unless the manifest says otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    data = model if isinstance(model, bytes) else model.SerializeToString()
    files = {"model.onnx": data, **(others or {})}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    table = {
        "name": folder.name,
        "task": "classify",
        "input": "features",
        "features": ["a", "b"],
        "labels": ["no", "yes"],
        "activation": "softmax",
        **manifest,
        "files": {name: {"sha256": hashlib.sha256(c).hexdigest(), "size": len(c)} for name, c in files.items()},
    }
    (folder / "manifest.json").write_text(json.dumps(table))
    return folder


def graph(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: Sequence[onnx.TensorProto] = (),
    domains: Sequence[str] = ("",),
) -> onnx.ModelProto:
    made = helper.make_graph(nodes, "g", inputs, outputs, weights)
    opsets = [helper.make_opsetid(domain, 17 if not domain else 1) for domain in domains]
    return helper.make_model(made, opset_imports=opsets, ir_version=9)


def floats(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def linear(weights: Sequence[Sequence[float]] = ((1, 0), (0, 1)), domain: str = "") -> onnx.ModelProto:
    """logits = features @ weights."""
    w = np.array(weights, np.float32)
    return graph(
        [helper.make_node("MatMul", ["x", "w"], ["logits"], domain=domain)],
        [floats("x", "n", w.shape[0])],
        [floats("logits", "n", w.shape[1])],
        [numpy_helper.from_array(w, "w")],
        sorted({"", domain}),
    )


def means(size: int) -> onnx.ModelProto:
    """Of a picture: the mean of each channel."""
    return graph(
        [
            helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["logits"]),
        ],
        [floats("image", "n", 3, size, size)],
        [floats("logits", "n", 3)],
    )


def endless() -> onnx.ModelProto:
    """It computes for as long as its first feature says: a loop of so many rounds."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["still"]),
            helper.make_node("MatMul", ["value", "square"], ["product"]),
            helper.make_node("Tanh", ["product"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            floats("value", 64, 64),
        ],
        [helper.make_tensor_value_info("still", TensorProto.BOOL, []), floats("next", 64, 64)],
    )
    first = [numpy_helper.from_array(np.array(v, np.int64), n) for n, v in {"zero": [0], "two": [0, 0]}.items()]
    return graph(
        [
            helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
            helper.make_node("Cast", ["most"], ["rounds"], to=TensorProto.INT64),
            helper.make_node("Loop", ["rounds", "yes", "square"], ["last"], body=body),
            helper.make_node("ReduceMean", ["last"], ["mean"], keepdims=0),
            helper.make_node("Mul", ["mean", "none"], ["nothing"]),
            helper.make_node("Add", ["x", "nothing"], ["logits"]),
        ],
        [floats("x", "n", 2)],
        [floats("logits", "n", 2)],
        [
            *first,
            numpy_helper.from_array(np.array(True), "yes"),
            numpy_helper.from_array(np.array(0, np.float32), "none"),
            numpy_helper.from_array(np.eye(64, dtype=np.float32), "square"),
        ],
    )
