"""Writes tiny GGUF files for the tests, honest or lying, following the public specification."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
_LAYOUTS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "B", U64: "Q", I64: "q", F64: "d"}

Pair = tuple[str, int, Any]
Tensor = tuple[str, Sequence[int], int, int, int]
"""(name, dimensions, type, offset, bytes)"""

PAIRS: tuple[Pair, ...] = (
    ("general.architecture", STRING, "llama"),
    ("general.name", STRING, "Tiny"),
    ("general.license", STRING, "mit"),
    ("general.file_type", U32, 1),
    ("llama.block_count", U32, 2),
    ("llama.embedding_length", U32, 8),
    ("llama.context_length", U32, 64),
    ("llama.attention.head_count", U32, 4),
    ("llama.attention.head_count_kv", U32, 2),
    ("llama.rope.freq_base", F32, 10000.0),
    ("tokenizer.ggml.tokens", ARRAY, (STRING, ["a", "bc", "def"])),
    ("tokenizer.ggml.scores", ARRAY, (F32, [0.0, 1.0, 2.0])),
    ("tokenizer.ggml.add_bos_token", BOOL, 1),
    ("tokenizer.chat_template", STRING, "{{ messages[0]['content'] }}"),
)
TENSORS: tuple[Tensor, ...] = (("token_embd.weight", (8, 3), 1, 0, 48), ("output_norm.weight", (8,), 0, 64, 32))


def string(text: str | bytes) -> bytes:
    """A length and the bytes."""
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def value(kind: int, content: Any) -> bytes:
    """A value, without its type."""
    if kind == STRING:
        return string(content)
    if kind == ARRAY:
        element, items = content
        return struct.pack("<IQ", element, len(items)) + b"".join(value(element, item) for item in items)
    return struct.pack("<" + _LAYOUTS[kind], content)


def pair(key: str | bytes, kind: int, content: Any) -> bytes:
    """A key, its value's type and the value."""
    return string(key) + struct.pack("<I", kind) + value(kind, content)


def tensor(name: str, dims: Sequence[int], kind: int, offset: int) -> bytes:
    """A tensor's description."""
    return string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def gguf(
    pairs: Sequence[Pair] = PAIRS,
    tensors: Sequence[Tensor] = TENSORS,
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    n_tensors: int | None = None,
    n_pairs: int | None = None,
    raw: bytes = b"",
    alignment: int = 32,
) -> bytes:
    """A whole file. `raw` follows the last pair and counts as what `n_pairs` says."""
    head = magic + struct.pack(
        "<IQQ",
        version,
        len(tensors) if n_tensors is None else n_tensors,
        len(pairs) if n_pairs is None else n_pairs,
    )
    head += b"".join(pair(*item) for item in pairs) + raw
    head += b"".join(tensor(name, dims, kind, offset) for name, dims, kind, offset, _ in tensors)
    head += b"\0" * (-len(head) % alignment)
    data = b""
    for _, _, _, offset, size in tensors:
        data = data.ljust(min(offset, 1 << 20), b"\0") + b"\x01" * size
    return head + data


def without(key: str) -> tuple[Pair, ...]:
    """The honest pairs less one."""
    return tuple(item for item in PAIRS if item[0] != key)


def replaced(key: str, kind: int, content: Any) -> tuple[Pair, ...]:
    """The honest pairs with one of them changed or added."""
    return (*without(key), (key, kind, content))
