"""What all workers say in the same way: JSON lines, and errors that the other end can raise again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from backends.errors import BackendError, BadModelFile, ContextLengthExceeded, EngineFailed, InvalidRequest


def dumps(message: Mapping[str, Any]) -> bytes:
    """One line."""
    return orjson.dumps(message) + b"\n"


def pack_error(error: BackendError) -> dict[str, Any]:
    """An error that the gateway can raise again."""
    return {
        "class": type(error).__name__,
        "message": error.message,
        "code": error.code,
        "param": error.param,
        "extra": error.extra,
    }


def unpack_error(raw: Mapping[str, Any]) -> BackendError:
    """The inverse of `pack_error`."""
    if raw["class"] == "ContextLengthExceeded" and "n_ctx" in raw["extra"]:
        extra = raw["extra"]
        return ContextLengthExceeded(extra["n_prompt_tokens"], extra["n_ctx"], param=raw["param"])
    classes: dict[str, type[BackendError]] = {
        "InvalidRequest": InvalidRequest,
        "ContextLengthExceeded": InvalidRequest,
        "BadModelFile": BadModelFile,
    }
    cls = classes.get(raw["class"], EngineFailed)
    return cls(raw["message"], code=raw["code"], param=raw["param"], extra=raw["extra"])
