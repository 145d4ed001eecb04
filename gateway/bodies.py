"""The one body of an answer that is never streamed: vectors, scores, labels."""

from __future__ import annotations

import sys
from array import array
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from backends.types import Chunk, Usage
from gateway.sse import Folded

Writer = Callable[[str, Sequence[Mapping[str, Any]], Usage], bytes]
"""Of the model that answered, the result of each prompt (`Chunk.wire`) and what it took, the body."""
Encoding = Literal["float", "base64"]


class OneBody:
    """`Frames` of a task without a stream."""

    def __init__(self, model: str, write: Writer) -> None:
        self._model = model
        self._write = write

    def opening(self) -> bytes:
        return b""

    def chunk(self, chunk: Chunk) -> bytes:
        return b""

    def closing(self, usage: Usage) -> bytes:
        return b""

    def body(self, folded: Sequence[Folded], usage: Usage) -> bytes:
        return self._write(self._model, [choice.wire or {} for choice in folded], usage)


def prompt_usage(usage: Usage) -> dict[str, Any]:
    """The `usage` of an answer that has no completion; a provider's own, if it said one."""
    said = usage.wire.get("usage") if usage.wire else None
    if isinstance(said, dict):
        return said
    return {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.prompt_tokens}


def encoded(vector: str | Sequence[float], encoding: Encoding) -> str | list[float]:
    """A vector as the client wants it: floats, or little-endian float32 in base64, as it may be already."""
    if isinstance(vector, str):
        return vector if encoding == "base64" else _native(b64decode(vector)).tolist()
    if encoding == "float":
        return list(vector)
    return b64encode(_native(array("f", vector).tobytes()).tobytes()).decode()


def _native(little: bytes) -> array[float]:
    """float32 values, from or to little-endian bytes."""
    values = array("f", little)
    if sys.byteorder == "big":
        values.byteswap()
    return values
