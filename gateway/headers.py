"""What a request's headers say."""

from __future__ import annotations

from starlette.types import Scope


def header(scope: Scope, name: bytes) -> str | None:
    """The first header of that (lower-case) name."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value).decode("latin-1")
    return None


def headers_named(scope: Scope, name: bytes) -> list[str]:
    """All headers of that name: one that may be repeated is a list."""
    return [bytes(value).decode("latin-1") for key, value in scope["headers"] if key == name]
