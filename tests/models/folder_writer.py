"""Folders with small models, as somebody might bring them; the graphs are honest and tiny, or bytes as given."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def tiny_graph(weight: float = 1.0) -> bytes:
    """A head from an embedding [b, 4], whose first number counts `weight`, to one probability [b, 1]."""
    import onnx
    from onnx import TensorProto, helper

    weights = helper.make_tensor("w", TensorProto.FLOAT, (4, 1), [weight, -1.0, 0.5, 0.0])
    product = helper.make_node("MatMul", ["embedding", "w"], ["logit"])
    squashed = helper.make_node("Sigmoid", ["logit"], ["p"])
    seen = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ("batch", 4))
    told = helper.make_tensor_value_info("p", TensorProto.FLOAT, ("batch", 1))
    graph = helper.make_graph([product, squashed], "head", [seen], [told], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def write_model(folder: Path, files: dict[str, bytes] | None = None, **manifest: Any) -> Path:
    """A folder with `files` and a manifest that is right about them, unless `manifest` says otherwise."""
    contents = {"model.onnx": tiny_graph()} if files is None else files
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    hashes = {name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in contents.items()}
    described = {
        "name": folder.name,
        "task": "classify",
        "files": hashes,
        "input": "embedding",
        "base": "some-base",
        "labels": ["leak"],
        "exclusive": False,
        "licence": "MIT",
        "metrics": [{"name": "recall", "value": 0.9, "on": "a test"}],
        **manifest,
    }
    (folder / "manifest.json").write_text(json.dumps(described))
    return folder
