"""The weights of an ONNX graph: where they lie, and whether they have the bytes that their shapes say. Not trusted."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from backends.errors import BadModelFile
from backends.onnx.manifest import Manifest


def check_weights(graph: Any, folder: Path, manifest: Manifest) -> bool:
    """Whether some lie outside the graph's file, of branches and loop bodies too.

    Raises:
        BadModelFile: some are not what they claim, or lie where no file of the manifest is.
    """
    external = False
    for tensor in _tensors(graph):
        if tensor.data_location == tensor.EXTERNAL:
            _check_external(tensor, folder, manifest)
            external = True
        else:
            _check_inline(tensor)
    return external


def _tensors(graph: Any) -> Iterator[Any]:
    waiting = [graph]
    while waiting:
        current = waiting.pop()
        yield from current.initializer
        for sparse in current.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        for node in current.node:
            for attribute in node.attribute:
                yield from _attached(attribute)
                waiting += [inner for inner in (attribute.g, *attribute.graphs) if inner.node or inner.initializer]


def _attached(attribute: Any) -> Iterator[Any]:
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors
    for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
        yield from (sparse.values, sparse.indices)


def _check_external(tensor: Any, folder: Path, manifest: Manifest) -> None:
    told = {entry.key: entry.value for entry in tensor.external_data}
    name = told.get("location", "")
    if name not in manifest.files:  # file names have no separators, so nothing outside the folder can be among them
        raise BadModelFile(f"The weights {tensor.name!r} lie in {name!r}, which is no file of the manifest.")
    try:
        offset, length = int(told.get("offset", 0)), int(told.get("length", _bytes_of(tensor)))
    except ValueError:
        raise BadModelFile(f"The weights {tensor.name!r} lie at a place that is no number.") from None
    size = (folder / name).stat().st_size
    if offset < 0 or length < 0 or offset + length > size:
        raise BadModelFile(f"The weights {tensor.name!r} lie at {offset}+{length} of {name}, which has {size} bytes.")
    if length != _bytes_of(tensor):
        raise BadModelFile(f"The weights {tensor.name!r} have {length} bytes; their shape says {_bytes_of(tensor)}.")


def _check_inline(tensor: Any) -> None:
    if any(dim < 0 for dim in tensor.dims):
        raise BadModelFile(f"The weights {tensor.name!r} have a negative dimension.")
    if tensor.HasField("raw_data") and len(tensor.raw_data) != _bytes_of(tensor):
        raise BadModelFile(
            f"The weights {tensor.name!r} have {len(tensor.raw_data)} bytes; their shape says {_bytes_of(tensor)}."
        )


def _bytes_of(tensor: Any) -> int:
    """By its type and shape. Types of less than a byte are packed."""
    import onnx

    bits = {
        onnx.TensorProto.UINT4: 4,
        onnx.TensorProto.INT4: 4,
        onnx.TensorProto.FLOAT4E2M1: 4,
        getattr(onnx.TensorProto, "UINT2", -1): 2,
        getattr(onnx.TensorProto, "INT2", -1): 2,
    }.get(tensor.data_type)
    if bits is None:
        try:
            bits = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize * 8
        except KeyError:
            raise BadModelFile(f"The weights {tensor.name!r} have an unknown type ({tensor.data_type}).") from None
    count: int = math.prod(tensor.dims)
    return -(-count * bits // 8)
