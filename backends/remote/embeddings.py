"""A provider's vectors as clients rely on them: each there once, in order, counted. Pure."""

from __future__ import annotations

import math
from base64 import b64decode
from typing import Any

from backends.remote.answers import Payload, guessed, strange, usage
from backends.types import Chunk, Event, Usage

ENVELOPE = frozenset({"id", "object", "created", "model", "data", "error", "usage"})
"""Of the body, and not passed on: ours to say."""
FLOAT_BYTES = 4
NUMBERS = frozenset({float, int})


def events(payload: Payload, count: int, provider: str, request_bytes: int) -> list[Event]:
    """The vectors of `count` inputs, and what they took.

    Raises:
        EngineFailed: one is missing, comes twice or is no vector.
    """
    items = payload.get("data")
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise strange(provider, "a body of an unknown shape")
    placed = {_index(item, position): item for position, item in enumerate(items)}
    if len(items) != count or sorted(placed) != list(range(count)):
        raise strange(provider, f"{len(items)} embeddings in place of {count}")
    vectors = [placed[index].get("embedding") for index in range(count)]
    if not all(_is_vector(vector) for vector in vectors):
        raise strange(provider, "an embedding that is no vector")
    chunks: list[Event] = [Chunk(i, finish_reason="stop", wire={"embedding": v}) for i, v in enumerate(vectors)]
    return [*chunks, _usage(payload, request_bytes)]


def _index(item: Payload, position: int) -> int:
    """Where it belongs; some servers leave it to the order."""
    index = item.get("index", position)
    return index if type(index) is int else -1


def _is_vector(value: Any) -> bool:
    if isinstance(value, str):
        try:
            size = len(b64decode(value, validate=True))
        except ValueError:
            return False
        return size > 0 and size % FLOAT_BYTES == 0
    # Millions of numbers come in one answer: each is looked at by C only.
    if not isinstance(value, list) or not value or not NUMBERS.issuperset(map(type, value)):
        return False
    try:
        return math.isfinite(sum(value))
    except OverflowError:
        return False


def _usage(payload: Payload, request_bytes: int) -> Usage:
    additions = {key: value for key, value in payload.items() if key not in ENVELOPE and value is not None}
    said = payload.get("usage")
    if not isinstance(said, dict):
        return guessed(request_bytes, 0, additions)
    counted = usage({"completion_tokens": 0, **said}, additions)
    if counted is None:
        return guessed(request_bytes, 0, additions)
    if counted.wire is None or "completion_tokens" in said:
        return counted
    shown = {key: value for key, value in counted.wire["usage"].items() if key != "completion_tokens"}
    return Usage(counted.prompt_tokens, 0, counted.cached_tokens, {**counted.wire, "usage": shown})
