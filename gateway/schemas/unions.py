"""What a value of several shapes is checked as: told by its look, so that an error speaks of one shape alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Discriminator

UNKNOWN = "<unknown>"


def _text_or_list(value: Any) -> str:
    return "<list>" if isinstance(value, list) else "<text>"


def _text_or_object(value: Any) -> str:
    return "<object>" if isinstance(value, dict) else "<text>"


TEXT_OR_LIST = Discriminator(_text_or_list)
TEXT_OR_OBJECT = Discriminator(_text_or_object)


def by_type(*known: str, same: Mapping[str, str] | None = None) -> Discriminator:
    """`<TYPE>` for an object whose `type` is known, else `<unknown>`: of a class that only refuses.

    Args:
        same: other types that are checked as one of them.
    """
    tags = {name: f"<{name}>" for name in known} | {name: f"<{other}>" for name, other in (same or {}).items()}

    def tag(value: Any) -> str:
        kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
        return tags.get(kind, UNKNOWN) if isinstance(kind, str) else UNKNOWN

    return Discriminator(tag)
