"""How each dialect says that something went wrong, and that it is still there.

Told by the path alone: an error may come before anything else is known of a request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import orjson

from backends.errors import BackendError, DeadlineExceeded
from gateway.errors import error_body, kind_of
from gateway.sse import PING, error_frame

THREADS = "thread_unsupported_request"
"""Anthropic's code; on reading it in `details`, its SDK sends the whole conversation in place of a part."""
MESSAGES_PATHS = frozenset({"/v1/messages", "/v1/messages/count_tokens"})
ANTHROPIC_TYPES: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


class Voice(NamedTuple):
    """Of one dialect.

    Attributes:
        error_body: of an error and what the dialect calls the `param`s of policies.
        error_frame: of such a body, after the commit point.
        ping: what fills the silences of a stream.
        id_headers: the names under which its clients look for the request's id.
    """

    error_body: Callable[[BackendError, Mapping[str, str] | None], bytes]
    error_frame: Callable[[bytes], bytes]
    ping: bytes
    id_headers: tuple[bytes, ...] = (b"x-request-id",)


def anthropic_error(error: BackendError, names: Mapping[str, str] | None = None) -> bytes:
    """Anthropic's shape; within it our own `code`, `param` and figures, which its clients pass over."""
    status = kind_of(error).status
    type_ = "timeout_error" if isinstance(error, DeadlineExceeded) else ANTHROPIC_TYPES.get(status, "api_error")
    known: dict[str, Any] = {"type": type_, "message": error.message, "code": error.code}
    if error.code == THREADS:
        known["details"] = {"error_code": THREADS}
    if error.param:
        known["param"] = (names or {}).get(error.param, error.param)
    return orjson.dumps({"type": "error", "error": {**error.extra, **known}})


def named_event(name: bytes, data: bytes) -> bytes:
    """A server-sent event with a name, which clients of such streams go by."""
    return b"event: " + name + b"\ndata: " + data + b"\n\n"


OPENAI = Voice(error_body, error_frame, PING)
ANTHROPIC = Voice(
    anthropic_error,
    lambda body: named_event(b"error", body),
    named_event(b"ping", b'{"type":"ping"}'),
    (b"x-request-id", b"request-id"),
)


def voice_of(path: str) -> Voice:
    """The one that the path's clients understand."""
    return ANTHROPIC if path in MESSAGES_PATHS else OPENAI
