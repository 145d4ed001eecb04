"""What calibration texts tell of a graph: how large the inputs of its matrix products are, and which products int8
would hurt the most."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.training.quantize import PRODUCT, Feed

Floats = NDArray[np.float32]
JUDGED = 12
"""Texts by which products are compared: more do not change which are the worst."""


@dataclass(frozen=True, slots=True)
class Product:
    """A matrix product with weights [channels, columns]; its node, its input and its weights by their names."""

    node: str
    input: str
    weights: str


def products_of(model: Any) -> list[Product]:
    """Those of an ONNX model whose right side never changes."""
    fixed = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 2}
    return [
        Product(node.name, node.input[0], node.input[1])
        for node in model.graph.node
        if node.op_type == PRODUCT and node.input[1] in fixed and node.input[0] not in fixed
    ]


def largest_inputs(graph: Path, feeds: Sequence[Feed]) -> dict[str, Floats]:
    """Of each product's input, by name, the largest magnitude of each channel."""
    found: dict[str, Floats] = {}
    for seen in _inputs(graph, feeds):
        for name, rows in seen.items():
            most = np.abs(rows).max(axis=0)
            found[name] = np.maximum(found[name], most) if name in found else most
    return found


def errors(graph: Path, feeds: Sequence[Feed]) -> dict[str, float]:
    """By node, how far int8 moves what the product gives, relative to what it gives (1: as far as that is large)."""
    import onnx

    model = onnx.load(str(graph))
    there = {tensor.name: tensor for tensor in model.graph.initializer}
    products = products_of(model)
    weights = {one.weights: onnx.numpy_helper.to_array(there[one.weights]) for one in products}
    rounded = {name: _rounded_columns(matrix) for name, matrix in weights.items()}
    moved, size = dict.fromkeys((one.node for one in products), 0.0), dict.fromkeys((o.node for o in products), 1e-12)
    for seen in _inputs(graph, feeds[:JUDGED]):
        coarse = {name: _rounded(rows) for name, rows in seen.items()}
        for one in products:
            exact = seen[one.input] @ weights[one.weights]
            moved[one.node] += float(((coarse[one.input] @ rounded[one.weights] - exact) ** 2).sum())
            size[one.node] += float((exact**2).sum())
    return {node: (moved[node] / size[node]) ** 0.5 for node in moved}


def most_sensitive(errors: Mapping[str, float], share: float) -> list[str]:
    """That part of them, the worst first; at least one."""
    return sorted(errors, key=errors.__getitem__, reverse=True)[: max(1, round(share * len(errors)))]


def _inputs(graph: Path, feeds: Sequence[Feed]) -> Iterator[dict[str, Floats]]:
    """Of each text what every product sees: by name, [tokens, channels]."""
    import onnx
    import onnxruntime  # type: ignore[import-untyped]

    model = onnx.load(str(graph))
    names = list(dict.fromkeys(one.input for one in products_of(model)))
    given = {port.name for port in model.graph.output}
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names if name not in given)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for feed in feeds:
        found = session.run(names, dict(feed)) if names else []
        yield {name: value.reshape(-1, value.shape[-1]) for name, value in zip(names, found, strict=True)}


def _rounded(values: Floats) -> Floats:
    """As uint8 keeps them, one scale for all."""
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    scale = (high - low) / 255 or 1.0
    zero = round(-low / scale)
    kept: Floats = ((np.clip(np.rint(values / scale) + zero, 0, 255) - zero) * scale).astype(np.float32)
    return kept


def _rounded_columns(matrix: Floats) -> Floats:
    """As int8 keeps it, one scale a column."""
    scales = np.maximum(np.abs(matrix).max(axis=0), 1e-12) / 127
    kept: Floats = (np.rint(matrix / scales) * scales).astype(np.float32)
    return kept
