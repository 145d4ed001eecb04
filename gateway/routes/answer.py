"""An answer on its way to the client: awaited before a byte is sent, cancelled as soon as nobody listens."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import traceback
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from types import TracebackType
from typing import Protocol

from starlette.types import Receive, Scope, Send

from backends.errors import BackendError, DeadlineExceeded
from backends.types import Event, Request, Usage
from gateway.errors import Headers, InternalError, error_headers, kind_of, stopping
from gateway.hang_up import hang_up_of
from gateway.outcome import Outcome
from gateway.sse import Folded, Frames, fold
from gateway.voices import voice_of

PING_AFTER_S = 15.0
LAST_WORDS_S = 5.0


class Dispatching(Protocol):
    """Where the answer comes from: the `Dispatcher`, or what asks it several times."""

    def bound_s(self, request: Request) -> float: ...
    def answer(self, request: Request, outcome: Outcome) -> AsyncGenerator[Event, None]: ...


log = logging.getLogger("outstation.answer")


class Answer:
    """An ASGI response to one inference request. Ends its `Outcome` whatever happens.

    Args:
        frames: makes the dialect's frames, given the name of the model that answers.
        names: what the dialect calls a `param` that a policy names.
        ping_after_s: silence in a stream after which a comment is sent, so that nobody between takes it for dead.
        last_words: what ends a stream that failed, in a dialect whose words depend on what was said before.
    """

    def __init__(
        self,
        dispatcher: Dispatching,
        request: Request,
        outcome: Outcome,
        frames: Callable[[str], Frames],
        *,
        names: Mapping[str, str] | None = None,
        ping_after_s: float = PING_AFTER_S,
        last_words: Callable[[BackendError], bytes] | None = None,
    ) -> None:
        self._dispatcher = dispatcher
        self._request = request
        self._outcome = outcome
        self._frames = frames
        self._names = names
        self._ping_after_s = ping_after_s
        self._last_words = last_words
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ping = voice_of(self._outcome.path).ping
        async with _Client(scope, send, ping, self._ping_after_s if self._outcome.stream else None) as client:
            try:
                await self._bounded(client)
            except BackendError as error:
                await self._fail(client, error)
            except asyncio.CancelledError:
                if client.gone:
                    raise
                # The server stops; the client learns it in the API's own words.
                await self._fail(client, stopping())
            except Exception as error:  # noqa: BLE001 - a defect must still end the stream with an error
                frames = "".join(traceback.format_tb(error.__traceback__))
                log.error("%s: %s in\n%s", self._outcome.id, type(error).__name__, frames)
                await self._fail(client, InternalError())
        if client.gone:
            self._outcome.end("cancelled")

    async def _bounded(self, client: _Client) -> None:
        bound = self._dispatcher.bound_s(self._request)
        left = self._outcome.started + bound - time.monotonic()
        try:
            async with (
                asyncio.timeout(max(0.0, left)) as timeout,
                aclosing(self._dispatcher.answer(self._request, self._outcome)) as events,
            ):
                await (self._stream if self._outcome.stream else self._whole)(client, events)
        except TimeoutError:
            if not timeout.expired():
                raise
            message = (
                f"The request took longer than its bound of {bound:g} s. Ask for fewer tokens or a later deadline."
            )
            raise DeadlineExceeded(message, retry_after=bound) from None

    async def _stream(self, client: _Client, events: AsyncGenerator[Event, None]) -> None:
        first = await anext(events)
        frames = self._frames(self._model)
        await client.start(200, [*STREAM_HEADERS, *self._headers()], streaming=True)
        self._started = True
        pending = frames.opening()
        event = first
        while not isinstance(event, Usage):
            pending += frames.chunk(event)
            if pending:
                await client.send(pending)
                pending = b""
            event = await anext(events)
        await client.finish(pending + frames.closing(event))
        self._outcome.end("success")

    async def _whole(self, client: _Client, events: AsyncGenerator[Event, None]) -> None:
        folded = [Folded() for _ in range(self._request.choices)]
        async for event in events:
            if isinstance(event, Usage):
                body = self._frames(self._model).body(folded, event)
                await client.respond(200, [JSON, *self._headers()], body)
                self._outcome.end("success")
            else:
                fold(folded, event)

    async def _fail(self, client: _Client, error: BackendError) -> None:
        voice = voice_of(self._outcome.path)
        body = voice.error_body(error, self._names)
        self._outcome.end("error", error.code)
        # A client that does not read must not hold us here: without an end, the server cuts the connection.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_S):
                if self._started:
                    await client.finish(self._last_words(error) if self._last_words else voice.error_frame(body))
                else:
                    await client.respond(kind_of(error).status, [*error_headers(error), *self._headers()], body)

    @property
    def _model(self) -> str:
        return self._outcome.route.model if self._outcome.route else self._request.model

    def _headers(self) -> Headers:
        """Who answered, and why; the same for streams, bodies and errors."""
        outcome = self._outcome
        headers = [(b"x-outstation-attempts", b"%d" % outcome.attempts)]
        name = outcome.route.name if outcome.route else NO_ROUTE
        headers.append((b"x-outstation-route", name.encode("ascii", "replace")))
        if outcome.reasons:
            headers.append((b"x-outstation-reason", outcome.reason.encode()))
        return headers


NO_ROUTE = "none"
JSON = (b"content-type", b"application/json")
STREAM_HEADERS: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class _Client:
    """The other end. Once it has hung up, the handling task is cancelled; its silences in a stream are filled."""

    def __init__(self, scope: Scope, send: Send, ping: bytes, ping_after_s: float | None) -> None:
        self.gone = False
        self._hang_up = hang_up_of(scope)
        self._send = send
        self._ping_frame = ping
        self._ping_after_s = ping_after_s
        self._finished = False
        self._sent_at = 0.0
        self._task: asyncio.Task[object] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ping: asyncio.Task[None] | None = None

    async def __aenter__(self) -> _Client:
        self._task = asyncio.current_task()
        self._hang_up.listen(self._left)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        assert self._task is not None
        self._hang_up.forget(self._left)
        if self._timer:
            self._timer.cancel()
        if self._ping:
            self._ping.cancel()
        if not self.gone:
            return False
        if kind is None:
            # The cancel was asked for but not delivered yet: take it here, where it is expected.
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                kind = asyncio.CancelledError
        self._task.uncancel()
        return kind is not None and issubclass(kind, asyncio.CancelledError)

    async def start(self, status: int, headers: Headers, *, streaming: bool = False) -> None:
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        self._sent_at = time.monotonic()
        if streaming and self._ping_after_s:
            self._look_again_after(self._ping_after_s)

    async def send(self, body: bytes) -> None:
        self._sent_at = time.monotonic()
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def finish(self, body: bytes) -> None:
        # Set before the last byte: from then on a hang-up is no cancellation.
        self._finished = True
        await self._send({"type": "http.response.body", "body": body})

    async def respond(self, status: int, headers: Headers, body: bytes) -> None:
        await self.start(status, [*headers, (b"content-length", b"%d" % len(body))])
        await self.finish(body)

    def _left(self) -> None:
        if not self._finished and not self.gone and self._task:
            self.gone = True
            self._task.cancel()

    def _look_again_after(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._fill_silence)

    def _fill_silence(self) -> None:
        assert self._ping_after_s is not None
        silent_s = time.monotonic() - self._sent_at
        if silent_s < self._ping_after_s:
            self._look_again_after(self._ping_after_s - silent_s)
        elif not self._finished:
            if not self._ping or self._ping.done():  # or a client that does not read is pinged already
                self._ping = asyncio.create_task(self.send(self._ping_frame))
            self._look_again_after(self._ping_after_s)
