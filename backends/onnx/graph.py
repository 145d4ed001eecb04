"""What an ONNX file claims, checked before onnxruntime sees it: untrusted input.

A graph that passes names only operators that onnxruntime brings along, reads only files of its own folder that are in
the manifest, and has the inputs and outputs that the manifest says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.errors import BadModelFile
from backends.onnx.graph_weights import check_weights
from backends.onnx.manifest import Manifest

MOST_BYTES = 2 << 30
"""Of the graph's own file, weights included (protobuf's limit); of all files together eight times as many."""
MOST_NODES = 200_000
MOST_DEPTH = 8
DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
REFUSED_OPERATORS = frozenset({"EPContext", "PyOp", "PythonOp"})
"""They read files of their own, or run code."""
TEXT_INPUTS = frozenset({"input_ids", "attention_mask", "token_type_ids", "position_ids"})
MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x80\x02", "a Python pickle"),
    (b"\x80\x03", "a Python pickle"),
    (b"\x80\x04", "a Python pickle"),
    (b"\x80\x05", "a Python pickle"),
    (b"PK\x03\x04", "a zip archive (PyTorch saves its pickles so)"),
    (b"GGUF", "a GGUF file"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself"),
    (b"<!DOCTYPE", "a web page"),
    (b"<html", "a web page"),
    (b"ORTM", "an ORT file"),
)


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output as the graph declares it; a dimension of 0 is open."""

    name: str
    kind: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Graph:
    """A checked graph.

    Attributes:
        source: the very bytes that were checked; a path where weights lie in files of their own.
    """

    source: bytes | str
    inputs: tuple[Port, ...]
    output: Port


def check(folder: Path, manifest: Manifest) -> Graph:
    """Reads and checks all files of a model.

    Raises:
        BadModelFile: with the reason.
    """
    _check_files(folder, manifest)
    path = folder / manifest.graph
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != manifest.files[manifest.graph].sha256:
        raise BadModelFile(f"{path.name} is not the file that the manifest names: its sha256 differs.")
    if what := _foreign(data):
        raise BadModelFile(f"{path.name} is {what}, not an ONNX graph.")
    model = _parse(data, path.name)
    external = _check_model(model, folder, manifest)
    inputs, outputs = _ports(model)
    output = _fit(manifest, inputs, outputs)
    return Graph(str(path) if external else data, inputs, output)


def _check_files(folder: Path, manifest: Manifest) -> None:
    total = 0
    for name, file in manifest.files.items():
        path = folder / name
        if not path.is_file() or path.is_symlink():
            raise BadModelFile(f"{name} is missing from {folder.name}.")
        size = path.stat().st_size
        total += size
        if size != file.size:
            raise BadModelFile(f"{name} has {size} bytes; the manifest says {file.size}.")
        if (name == manifest.graph and size > MOST_BYTES) or total > 8 * MOST_BYTES:
            raise BadModelFile(f"{name} is larger than a small model may be ({size} bytes).")
        if name != manifest.graph and _digest(path) != file.sha256:
            raise BadModelFile(f"{name} is not the file that the manifest names: its sha256 differs.")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _foreign(data: bytes) -> str:
    """What the file is instead, by its first bytes; empty: it may be a graph."""
    for magic, what in MAGIC:
        if data.startswith(magic):
            return what
    if data[4:8] == b"TFL3":
        return "a TensorFlow Lite file"
    if data[8:10] == b'{"' and int.from_bytes(data[:8], "little") < len(data):
        return "a safetensors file"
    return ""


def _parse(data: bytes, name: str) -> Any:
    import onnx

    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # noqa: BLE001 - protobuf's errors have no base of their own
        raise BadModelFile(f"{name} is no ONNX graph ({type(error).__name__}: it cannot be parsed).") from None
    if not model.HasField("graph") or not model.opset_import:
        raise BadModelFile(f"{name} is no ONNX graph: it holds no graph, or names no operator set.")
    return model


def _check_model(model: Any, folder: Path, manifest: Manifest) -> bool:
    """Whether weights lie outside the graph's file."""
    if model.functions:
        raise BadModelFile("The graph defines functions of its own; export it with them inlined.")
    named = [*(opset.domain for opset in model.opset_import), *(node.domain for node in _nodes(model.graph))]
    if unknown := sorted(set(named) - DOMAINS):
        raise BadModelFile(f"The graph needs operators that are not part of onnxruntime: domain {unknown[0]!r}.")
    return check_weights(model.graph, folder, manifest)


def _nodes(graph: Any) -> Iterator[Any]:
    """Every node, of branches and loop bodies too."""
    waiting, seen = [(graph, 1)], 0
    while waiting:
        current, depth = waiting.pop()
        if depth > MOST_DEPTH:
            raise BadModelFile(f"The graph nests branches and loops more than {MOST_DEPTH} deep.")
        seen += len(current.node)
        if seen > MOST_NODES:
            raise BadModelFile(f"The graph has more than {MOST_NODES} nodes.")
        for node in current.node:
            if node.op_type in REFUSED_OPERATORS:
                raise BadModelFile(f"The graph uses the operator {node.op_type}, which reads other files or runs code.")
            for attribute in node.attribute:
                waiting += [(inner, depth + 1) for inner in (attribute.g, *attribute.graphs) if inner.node]
            yield node


def _ports(model: Any) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = tuple(_port(value) for value in model.graph.input if value.name not in weights)
    return inputs, tuple(_port(value) for value in model.graph.output)


def _port(value: Any) -> Port:
    import onnx

    tensor = value.type.tensor_type
    kind = onnx.TensorProto.DataType.Name(tensor.elem_type).lower() if value.type.HasField("tensor_type") else "other"
    return Port(value.name, kind, tuple(dim.dim_value for dim in tensor.shape.dim))


# -- does it fit the manifest? -------------------------------------------------------------------------------------


def _fit(manifest: Manifest, inputs: tuple[Port, ...], outputs: tuple[Port, ...]) -> Port:
    """The output that the manifest means. Raises `BadModelFile` where the two do not agree."""
    if manifest.input == "text":
        _fit_text(inputs)
    else:
        _fit_numbers(manifest, inputs)
    found = [port for port in outputs if port.name == manifest.output] if manifest.output else list(outputs[:1])
    if not found:
        raise BadModelFile(f"The graph has no output {manifest.output!r}, but {_names(outputs)}.")
    output = found[0]
    if output.kind not in ("float", "float16", "double"):
        raise BadModelFile(f"The output {output.name!r} holds {output.kind}, not numbers that can be a probability.")
    ranks = (2, 3) if manifest.task == "embed" and manifest.pooling != "none" else _RANKS[manifest.task]
    if output.shape and len(output.shape) not in ranks:
        raise BadModelFile(
            f"The output {output.name!r} has {len(output.shape)} dimensions; {manifest.task} needs {ranks[-1]}."
        )
    last = output.shape[-1] if len(output.shape) > 1 else 0
    if last and (wanted := widths(manifest)) and last not in wanted:
        raise BadModelFile(f"The output {output.name!r} is {last} wide; by the manifest it should be {wanted[0]}.")
    return output


def widths(manifest: Manifest) -> tuple[int, ...]:
    """How many numbers the graph may give for each input or token; empty: any."""
    if manifest.task == "embed":
        return (manifest.dimensions,) if manifest.dimensions else ()
    if manifest.task == "rerank":
        return (1,)
    n = len(manifest.labels)
    return (2, 1) if manifest.task == "classify" and n == 2 else (n,)


_RANKS = {"embed": (2,), "rerank": (1, 2), "classify": (2,), "find": (3,)}


def _fit_text(inputs: tuple[Port, ...]) -> None:
    for port in inputs:
        if port.name not in TEXT_INPUTS:
            raise BadModelFile(f"The graph has an input {port.name!r}, which no tokenizer fills ({_names(inputs)}).")
        if port.kind not in ("int64", "int32") or (port.shape and len(port.shape) != 2):
            raise BadModelFile(f"The input {port.name!r} is not [batch, tokens] of integers.")
    if "input_ids" not in {port.name for port in inputs}:
        raise BadModelFile(f"The graph has no input 'input_ids', but {_names(inputs)}.")


def _fit_numbers(manifest: Manifest, inputs: tuple[Port, ...]) -> None:
    if len(inputs) != 1:
        raise BadModelFile(f"The graph has {len(inputs)} inputs ({_names(inputs)}); one was expected.")
    port = inputs[0]
    rank = 4 if manifest.input == "image" else 2
    if port.kind != "float" or (port.shape and len(port.shape) != rank):
        raise BadModelFile(f"The input {port.name!r} is not a tensor of floats with {rank} dimensions.")
    width = len(manifest.features) if manifest.input == "features" else manifest.image.size if manifest.image else 0
    if port.shape and port.shape[-1] and width and port.shape[-1] != width:
        raise BadModelFile(f"The input {port.name!r} is {port.shape[-1]} wide; by the manifest it should be {width}.")


def _names(ports: Iterable[Port]) -> str:
    return ", ".join(port.name for port in ports) or "none"
