"""Reads the header of a GGUF file and refuses a file that lies about itself, before llama.cpp maps it.

The layout is that of the public GGUF specification, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from backends.errors import BadModelFile
from backends.models.ggml_types import FILE_TYPES
from backends.models.gguf_reader import Cursor, Scalar
from backends.models.gguf_sections import (
    HEADS,
    MAX_LAYERS,
    Pairs,
    read_alignment,
    read_counts,
    read_pairs,
    read_tensors,
)

_ARCHITECTURE: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class GGUFInfo:
    """What a GGUF file says about its model, checked against the file itself.

    Attributes:
        architecture: llama.cpp's name of it (`llama`, `qwen2`, ...).
        name: the model's own name; the file's stem if it has none.
        context_length: tokens it was trained for.
        n_head, n_head_kv: of the layer with the most; 0 where there is no attention.
        n_vocab: tokens in the vocabulary.
        quantization: the usual name of `general.file_type`; the commonest tensor format if the file does not say.
        size_bytes: of the whole file.
        parameters: elements of all tensors together.
        kv_bytes_per_cell: bytes that one token takes in an f16 KV cache, over all layers.
        metadata: every scalar value, by its key; arrays are left out.
    """

    architecture: str
    name: str
    context_length: int
    n_layers: int
    n_embd: int
    n_head: int
    n_head_kv: int
    n_vocab: int
    quantization: str
    size_bytes: int
    chat_template: str | None
    license: str | None
    parameters: int
    kv_bytes_per_cell: int
    metadata: Mapping[str, Scalar]


def read_gguf(path: Path) -> GGUFInfo:
    """Read and check the header of `path`; the tensor data is not read.

    Raises `BadModelFile` with the exact reason if it is not a whole, honest GGUF file of a language model,
    or cannot be read.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a FIFO would wait for ever
            raise BadModelFile(f"{path} is not a regular file.")
        with path.open("rb") as file:
            return _read(file, status.st_size, path.stem)
    except BadModelFile as error:
        raise BadModelFile(f"{path.name} is not a usable GGUF file. {error.message}") from None
    except OSError as error:
        raise BadModelFile(f"{path} cannot be read: {error.strerror or error}.") from error


def _read(file: BinaryIO, size: int, stem: str) -> GGUFInfo:
    cursor = Cursor(file, size)
    n_tensors, n_pairs = read_counts(cursor)
    pairs = read_pairs(cursor, n_pairs)
    alignment = read_alignment(pairs.scalars)
    parameters, commonest = read_tensors(cursor, n_tensors, alignment, size)
    return _describe(pairs, parameters, commonest, size, stem)


def _describe(pairs: Pairs, parameters: int, commonest: str, size: int, stem: str) -> GGUFInfo:
    scalars = pairs.scalars
    architecture = scalars.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        raise BadModelFile("It does not name its architecture (general.architecture).")
    if not _ARCHITECTURE.fullmatch(architecture):
        raise BadModelFile(f"Its architecture is {architecture[:80]!r}, which no model has.")
    parts = _whole(scalars, "split.count", 1)
    if parts > 1:
        raise BadModelFile(f"It is one of {parts} parts; merge them first (llama-gguf-split --merge).")
    n_layers = _needed(scalars, f"{architecture}.block_count", MAX_LAYERS)
    n_embd = _needed(scalars, f"{architecture}.embedding_length", 1 << 20)
    heads = _per_layer(pairs, architecture + HEADS[0], n_layers, default=(0,) * n_layers)
    heads_kv = _per_layer(pairs, architecture + HEADS[1], n_layers, default=heads)
    n_head = max(heads)
    head = n_embd // n_head if n_head else 0
    key = _whole(scalars, f"{architecture}.attention.key_length", head)
    value = _whole(scalars, f"{architecture}.attention.value_length", head)
    file_type = scalars.get("general.file_type")
    return GGUFInfo(
        architecture=architecture,
        name=_text(scalars, "general.name") or stem,
        context_length=_needed(scalars, f"{architecture}.context_length", 1 << 31),
        n_layers=n_layers,
        n_embd=n_embd,
        n_head=n_head,
        n_head_kv=max(heads_kv),
        n_vocab=_vocabulary(pairs, architecture),
        quantization=FILE_TYPES.get(file_type, commonest) if isinstance(file_type, int) else commonest,
        size_bytes=size,
        chat_template=_text(scalars, "tokenizer.chat_template"),
        license=_text(scalars, "general.license"),
        parameters=parameters,
        kv_bytes_per_cell=2 * (key + value) * sum(heads_kv),
        metadata=scalars,
    )


def _vocabulary(pairs: Pairs, architecture: str) -> int:
    tokens = pairs.lengths.get("tokenizer.ggml.tokens")
    if tokens is None:
        return _whole(pairs.scalars, f"{architecture}.vocab_size", 0)
    if tokens == 0:
        raise BadModelFile("Its vocabulary is empty.")
    # llama.cpp indexes these by token id.
    for key in ("tokenizer.ggml.scores", "tokenizer.ggml.token_type"):
        if (length := pairs.lengths.get(key, tokens)) != tokens:
            raise BadModelFile(f"{key} has {length:,} elements for {tokens:,} tokens.")
    return tokens


def _per_layer(pairs: Pairs, key: str, n_layers: int, default: tuple[int, ...]) -> tuple[int, ...]:
    """A head count that is either one number for all layers or an array with one for each."""
    if key in pairs.lengths:
        values = pairs.integers.get(key, ())
        if len(values) != n_layers or not all(0 <= value <= 1 << 16 for value in values):
            raise BadModelFile(f"{key} does not give a plausible count for each of the {n_layers} layers.")
        return values
    if key not in pairs.scalars:
        return default
    return (_whole(pairs.scalars, key, 0, 1 << 16),) * n_layers


def _needed(scalars: Mapping[str, Scalar], key: str, limit: int) -> int:
    if key not in scalars:
        raise BadModelFile(f"It has no {key}: it is not a language model, or incomplete.")
    value = _whole(scalars, key, 0, limit)
    if value == 0:
        raise BadModelFile(f"Its {key} is 0.")
    return value


def _whole(scalars: Mapping[str, Scalar], key: str, default: int, limit: int = 1 << 31) -> int:
    value = scalars.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= limit:
        raise BadModelFile(f"Its {key} is {value!r}; a whole number from 0 to {limit:,} is expected.")
    return value


def _text(scalars: Mapping[str, Scalar], key: str) -> str | None:
    value = scalars.get(key)
    return value if isinstance(value, str) and value else None
