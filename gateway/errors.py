"""Every error that a client can see, as one table and one shape: `{"error": {message, type, param, code, …}}`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from backends.errors import (
    BackendError,
    BadModelFile,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    Unavailable,
)
from rag.store.errors import NotThere

Headers = list[tuple[bytes, bytes]]


class Kind(NamedTuple):
    """How a class of errors looks on the wire. Official SDKs choose their exception by `status` alone."""

    status: int
    type: str


TABLE: Mapping[type[BaseException], Kind] = {
    InvalidRequest: Kind(400, "invalid_request_error"),
    ModelNotFound: Kind(404, "invalid_request_error"),
    NotThere: Kind(404, "invalid_request_error"),
    Overloaded: Kind(429, "rate_limit_error"),
    Unavailable: Kind(503, "server_error"),
    BadModelFile: Kind(503, "server_error"),
    BackendError: Kind(500, "server_error"),
}
"""The nearest base class decides."""

RETRY_LATER_S = 30.0
"""For a 429 or 503 that ends nobody knows when; `x-should-retry: false` then keeps SDKs from trying at once."""


class RefusedError(BackendError):
    """The gateway itself says no, before any route is asked."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        type: str = "invalid_request_error",  # noqa: A002 - the wire's name for it
        headers: Headers | None = None,
    ) -> None:
        super().__init__(message, code=code)
        self.kind = Kind(status, type)
        self.headers = headers or []


class InternalError(BackendError):
    """A defect of ours. Its message never says more than this."""

    code = "internal_error"

    def __init__(self) -> None:
        super().__init__("The gateway made a mistake. Its log has the details under this request's x-request-id.")


def file_too_large(most_mb: int) -> RefusedError:
    """For an upload over the limit."""
    # The rest of the body is still on its way: only closing the connection gets rid of it.
    return RefusedError(
        413,
        f"The file is larger than {most_mb} MiB (`documents.max_file_mb`).",
        code="body_too_large",
        headers=[(b"connection", b"close")],
    )


def stopping() -> Unavailable:
    """What a client learns whose request the gateway's end cuts short."""
    return Unavailable("The gateway is shutting down.", code="stopping", retry_after=5)


def kind_of(error: BackendError) -> Kind:
    """Status and type for `error`."""
    if isinstance(error, RefusedError):
        return error.kind
    return next(TABLE[base] for base in type(error).__mro__ if base in TABLE)


def error_body(error: BackendError, names: Mapping[str, str] | None = None) -> bytes:
    """The JSON body.

    Args:
        names: what the dialect calls a `param` that a policy names in domain terms.
    """
    param = (names or {}).get(error.param, error.param) if error.param else None
    known: dict[str, Any] = {
        "message": error.message,
        "type": kind_of(error).type,
        "param": param,
        "code": error.code,
    }
    return orjson.dumps({"error": known | {k: v for k, v in error.extra.items() if k not in known}})


def error_headers(error: BackendError) -> Headers:
    """Content type, and for 429 and 503 when to come again: in whole seconds (RFC 9110) and, for SDKs, in ms."""
    headers = [(b"content-type", b"application/json")]
    if isinstance(error, RefusedError):
        headers += error.headers
    if kind_of(error).status in (429, 503):
        seconds = RETRY_LATER_S if error.retry_after is None else max(0.0, error.retry_after)
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(seconds))))
        headers.append((b"retry-after-ms", b"%d" % max(1, math.ceil(seconds * 1000))))
        if error.retry_after is None:
            headers.append((b"x-should-retry", b"false"))
    return headers
