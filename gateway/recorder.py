"""The outermost middleware, pure ASGI: each request's id, its errors in the API's shape, its end in log and metrics."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import traceback
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backends.errors import BackendError
from gateway.errors import InternalError, RefusedError, error_headers, kind_of, stopping
from gateway.headers import header
from gateway.middleware import OPEN_PATHS
from gateway.outcome import Outcome, new_id
from gateway.record import decision_of
from gateway.shared import Shared
from gateway.voices import voice_of

SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
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

access_log = logging.getLogger("outstation.access")
error_log = logging.getLogger("outstation.error")


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
