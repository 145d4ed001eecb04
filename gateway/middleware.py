"""Pure ASGI, outermost first: the recorder (id, errors, log, metrics), who may come in, how much they may bring."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import logging
import re
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backends.errors import BackendError
from gateway.errors import InternalError, RefusedError, error_headers, kind_of, stopping
from gateway.outcome import Outcome, new_id
from gateway.record import decision_of
from gateway.schemas.settings import AccessKey, ServerSettings
from gateway.shared import Shared
from gateway.voices import voice_of

SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
OPEN_PATHS = frozenset({"/healthz", "/readyz"})
WILDCARDS = frozenset({"0.0.0.0", "::"})
QUIET_PATHS = OPEN_PATHS | {"/metrics", "/outstation/status"}
"""Asked every few seconds by machines: logged at `debug` only."""
INFERENCE_PATHS = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/embeddings",
        "/v1/rerank",
        "/v1/moderations",
        "/v1/classify",
        "/v1/messages",
    }
)
NO_ROUTE = ((b"x-outstation-route", b"none"), (b"x-outstation-attempts", b"0"))
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

access_log = logging.getLogger("outstation.access")
error_log = logging.getLogger("outstation.error")


def header(scope: Scope, name: bytes) -> str | None:
    """The first header of that (lower-case) name."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value).decode("latin-1")
    return None


def headers_named(scope: Scope, name: bytes) -> list[str]:
    """All headers of that name: one that may be repeated is a list."""
    return [bytes(value).decode("latin-1") for key, value in scope["headers"] if key == name]


class Recorder:
    """Gives each request its id and its `Outcome`, turns every error into the API's shape, and books the end once.

    Args:
        endpoints: the paths that metrics and the log name; all others count as `other`.
        policy: hash of the policy in force.
    """

    def __init__(self, app: ASGIApp, shared: Shared, endpoints: frozenset[str], policy: str) -> None:
        self._app = app
        self._metrics = shared.metrics
        self._audit = shared.audit
        self._endpoints = endpoints
        self._policy = policy
        self._running = shared.running_ids

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        request_id = self._id(header(scope, b"x-request-id"))
        outcome = scope["outcome"] = Outcome(request_id, scope["method"], scope["path"])
        id_headers = [(name, request_id.encode()) for name in voice_of(outcome.path).id_headers]

        async def recorded(message: Message) -> None:
            if message["type"] == "http.response.start":
                outcome.status = message["status"]
                message["headers"] = [*message.get("headers", ()), *id_headers]
                if outcome.request is None and outcome.path in INFERENCE_PATHS:
                    # Refused before any route was looked for: that too is said on every answer.
                    message["headers"] += [
                        *NO_ROUTE,
                        (b"x-outstation-reason", outcome.error.encode("ascii", "replace")),
                    ]
            await send(message)

        try:
            await self._app(scope, receive, recorded)
        except asyncio.CancelledError:
            # The server stops while the request is still arriving.
            await self._answer_error(stopping(), outcome, recorded)
        except Exception as error:  # noqa: BLE001 - nothing may leave without an answer
            await self._answer_error(error, outcome, recorded)
        finally:
            self._running.discard(request_id)
            self._book(outcome)

    def _id(self, given: str | None) -> str:
        """The client's own id if it is sane and no running request has it: backends tell requests apart by it."""
        ours = not given or given in self._running or not SANE_ID.fullmatch(given)
        request_id = f"req_{new_id()}" if ours or given is None else given
        self._running.add(request_id)
        return request_id

    async def _answer_error(self, error: Exception, outcome: Outcome, send: Send) -> None:
        if isinstance(error, ClientDisconnect):
            outcome.end("cancelled")
            return
        known = _known(error)
        if known is None:
            # Frames only: an exception's text may quote what the user wrote.
            frames = "".join(traceback.format_tb(error.__traceback__))
            error_log.error("%s: %s in\n%s", outcome.id, type(error).__name__, frames)
            known = InternalError()
        outcome.end("error", known.code)
        if outcome.status:
            return  # Headers are out; the server cuts the connection, which no client takes for a whole answer.
        body = voice_of(outcome.path).error_body(known, None)
        headers = [*error_headers(known), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": kind_of(known).status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _book(self, outcome: Outcome) -> None:
        outcome.end("success" if 0 < outcome.status < 400 else "error")
        now = time.monotonic()
        if outcome.request is not None:
            outcome.policy = self._policy
            self._audit.decision(decision_of(outcome, now))
        endpoint = outcome.path if outcome.path in self._endpoints else "other"
        self._metrics.count(outcome, endpoint, now)
        level = logging.DEBUG if outcome.path in QUIET_PATHS else logging.INFO
        if access_log.isEnabledFor(level):
            access_log.log(level, "request", extra={"fields": _fields(outcome, now)})


def _known(error: Exception) -> BackendError | None:
    if isinstance(error, BackendError):
        return error
    if isinstance(error, HTTPException):
        words = {
            404: ("Unknown path. See /docs.", "unknown_path"),
            405: ("Wrong method for this path.", "wrong_method"),
        }
        message, code = words.get(error.status_code, (str(error.detail), "http_error"))
        headers = [(key.lower().encode(), value.encode()) for key, value in (error.headers or {}).items()]
        return RefusedError(error.status_code, message, code=code, headers=headers)
    return None


def _fields(outcome: Outcome, now: float) -> Mapping[str, Any]:
    """The access log's line. Never any text of the request."""
    fields: dict[str, Any] = {
        "id": outcome.id,
        "method": outcome.method,
        "path": outcome.path[:200],
        "status": outcome.status,
        "outcome": outcome.ending,
    }
    if outcome.error:
        fields["error"] = outcome.error
    if outcome.key:
        fields["key"] = outcome.key
    if outcome.route:
        fields["route"] = outcome.route.name
        fields["attempts"] = outcome.attempts
    if outcome.usage:
        fields["prompt_tokens"] = outcome.usage.prompt_tokens
        fields["cached_tokens"] = outcome.usage.cached_tokens
        fields["completion_tokens"] = outcome.usage.completion_tokens
    if outcome.first_at is not None:
        fields["ttft_s"] = outcome.first_at - outcome.started
    fields["total_s"] = now - outcome.started
    return fields


class HostGuard:
    """Refuses foreign `Host` names, so that a page on the web cannot reach the box by rebinding its own name to it.

    A rebinding page always comes under a name, so on a wildcard bind every IP literal is let in.
    Pages of other sites are refused for anything that changes or computes, by `Origin`.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        hosts = [host.lower() for host in ("localhost", settings.host, *settings.allowed_hosts)]
        self._app = app
        self._hosts = frozenset(hosts)
        self._suffixes = tuple(host[1:] for host in hosts if host.startswith("*."))
        self._origins = frozenset(settings.allowed_origins)
        self._any_address = settings.host in WILDCARDS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            host = header(scope, b"host") or ""
            if not self._allowed(_without_port(host.lower())):
                raise RefusedError(
                    403,
                    f"The host name {host[:100]!r} is not allowed here. Add it to `server.allowed_hosts`.",
                    code="host_not_allowed",
                )
            origin = header(scope, b"origin")
            if origin is not None and scope["method"] not in SAFE_METHODS and not self._same_site(origin, host):
                raise RefusedError(
                    403,
                    "Requests from other sites' pages are refused. Add the origin to `server.allowed_origins`.",
                    code="origin_not_allowed",
                )
        await self._app(scope, receive, send)

    def _allowed(self, host: str) -> bool:
        if host in self._hosts or "*" in self._hosts or (self._suffixes and host.endswith(self._suffixes)):
            return True
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return self._any_address or address.is_loopback

    def _same_site(self, origin: str, host: str) -> bool:
        return origin in self._origins or origin.partition("://")[2].lower() == host.lower()


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


class KeyGuard:
    """Asks for a key wherever one exists, on loopback as well; only the health checks stay open."""

    def __init__(self, app: ASGIApp, keys: Sequence[AccessKey]) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._keys and scope["path"] not in OPEN_PATHS:
            scope["outcome"].key = self._holder(header(scope, b"authorization"), header(scope, b"x-api-key"))
        await self._app(scope, receive, send)

    def _holder(self, authorization: str | None, api_key: str | None) -> str:
        """The name of the key; every key is compared, so that the time taken tells nothing."""
        scheme, _, token = (authorization or "").partition(" ")
        given = [token.strip()] if scheme.lower() == "bearer" else []
        given += [] if api_key is None else [api_key.strip()]
        digests = [hashlib.sha256(one.encode("latin-1", "replace")).digest() for one in given]
        matching = [key.name for digest in digests for key in self._keys if hmac.compare_digest(key.digest, digest)]
        if matching:
            return matching[0]
        raise RefusedError(
            401,
            "Wrong API key."
            if authorization or api_key
            else "This gateway needs an API key: `Authorization: Bearer KEY`, or `x-api-key: KEY`.",
            code="invalid_api_key",
            type="authentication_error",
            headers=[(b"www-authenticate", b"Bearer")],
        )


class BodyLimit:
    """Refuses bodies over the limit, announced or streamed, before they are in memory; and those that never come."""

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self._app = app
        self._max_bytes = settings.max_body_bytes
        self._timeout_s = settings.body_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = header(scope, b"content-length")
        if announced and announced.isdigit() and int(announced[:20]) > self._max_bytes:
            raise self._too_large()
        received = 0
        complete = False
        until = time.monotonic() + self._timeout_s

        async def counted() -> Message:
            nonlocal received, complete
            if complete:
                return await receive()
            try:
                async with asyncio.timeout(max(0.0, until - time.monotonic())):
                    message = await receive()
            except TimeoutError:
                raise self._too_slow() from None
            received += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if received > self._max_bytes:
                raise self._too_large()
            scope["outcome"].received = received
            return message

        await self._app(scope, counted, send)

    def _too_slow(self) -> RefusedError:
        return RefusedError(
            408,
            f"The body did not arrive within {self._timeout_s:g} s (`server.body_timeout_s`).",
            code="body_timeout",
            headers=[(b"connection", b"close")],
        )

    def _too_large(self) -> RefusedError:
        # The rest of the body is still on its way: only closing the connection gets rid of it.
        return RefusedError(
            413,
            f"The body is larger than {self._max_bytes} bytes (`server.max_body_bytes`).",
            code="body_too_large",
            headers=[(b"connection", b"close")],
        )
