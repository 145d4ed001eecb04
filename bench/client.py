"""A streaming HTTP/1.1 client that takes next to no CPU: on two cores the meter must not slow what it measures.

It does what the measurements need and no more: one request a connection, chunked or counted bodies, server-sent events.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any, cast

import orjson

CONNECT_TIMEOUT_S = 5.0


@dataclass(slots=True)
class Answer:
    """One answer as it came in. Times are of `time.perf_counter`, in seconds.

    Attributes:
        sent: when the request was handed to the socket.
        arrivals: when each piece of text arrived, one entry an event that carried any.
        usage: the body's or the last chunk's `usage`; None where the server gives none.
        error: what went wrong; empty for a whole answer.
    """

    sent: float = 0.0
    ended: float = 0.0
    status: int = 0
    arrivals: list[float] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    usage: dict[str, Any] | None = None
    finish_reason: str | None = None
    complete: bool = False
    error: str = ""
    body: bytes = b""

    @property
    def ttft(self) -> float:
        """Seconds from the request to the first text; infinite where none came."""
        return self.arrivals[0] - self.sent if self.arrivals else float("inf")

    @property
    def gaps(self) -> list[float]:
        """Seconds between one arrival of text and the next."""
        return [b - a for a, b in zip(self.arrivals, self.arrivals[1:], strict=False)]

    @property
    def tokens(self) -> int:
        """Completion tokens by the server's own count; where it gives none, the events that carried text."""
        return int(self.usage["completion_tokens"]) if self.usage else len(self.arrivals)

    @property
    def ok(self) -> bool:
        """A whole answer: 200, no error in the stream, closed as the protocol says."""
        return self.status == 200 and self.complete and not self.error


class Dechunker:
    """Takes HTTP chunked coding apart, however the pieces fall."""

    __slots__ = ("_buffer", "_left", "done")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._left = 0
        self.done = False

    def feed(self, data: bytes) -> bytes:
        """The payload in `data`, framing removed; `done` is set at the last chunk."""
        self._buffer += data
        out = bytearray()
        while self._buffer and not self.done:
            if self._left:
                piece = self._buffer[: self._left]
                del self._buffer[: len(piece)]
                out += piece[: max(0, self._left - 2)]  # the last two bytes of a chunk are CRLF: framing
                self._left -= len(piece)
                continue
            line, found, rest = bytes(self._buffer).partition(b"\r\n")
            if not found:
                break
            self._buffer = bytearray(rest)
            size = int(line.split(b";")[0], 16)
            self.done = size == 0
            self._left = size + 2
        return bytes(out)


class Exchange(asyncio.Protocol):
    """One request and its answer. `finished` resolves once, whatever happens; `abort()` is a client that goes away."""

    def __init__(self, head: bytes) -> None:
        loop = asyncio.get_running_loop()
        self.answer = Answer()
        self.finished: asyncio.Future[Answer] = loop.create_future()
        self.first_text: asyncio.Future[None] = loop.create_future()
        self._head = head
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._headers: dict[bytes, bytes] | None = None
        self._dechunker: Dechunker | None = None
        self._length: int | None = None
        self._events = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its class
        self.answer.sent = time.perf_counter()
        self._transport.write(self._head)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        if self._headers is None:
            self._buffer += data
            head, found, data = self._buffer.partition(b"\r\n\r\n")
            if not found:
                return
            self._read_head(head)
        if self._dechunker is not None:
            data = self._dechunker.feed(data)
        self._read_body(data, now)
        if (self._dechunker is not None and self._dechunker.done) or len(self.answer.body) == self._length:
            self._finish()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.finished.done():
            return
        if self._headers is None or self._dechunker is not None or self._length is not None:
            self.answer.error = self.answer.error or f"connection closed early{f': {exc}' if exc else ''}"
        self._finish()

    def abort(self) -> float:
        """Closes the connection at once, as a client that goes away does; returns the time of it."""
        assert self._transport is not None
        now = time.perf_counter()
        self._transport.abort()
        return now

    def _read_head(self, head: bytes) -> None:
        status, *lines = head.split(b"\r\n")
        self.answer.status = int(status.split(b" ", 2)[1])
        self._headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        if self._headers.get(b"transfer-encoding", b"").lower() == b"chunked":
            self._dechunker = Dechunker()
        elif b"content-length" in self._headers:
            self._length = int(self._headers[b"content-length"])

    def _read_body(self, data: bytes, now: float) -> None:
        assert self._headers is not None
        if not self._headers.get(b"content-type", b"").startswith(b"text/event-stream"):
            self.answer.body += data
            return
        self._events = (self._events + data).replace(b"\r\n", b"\n")
        *events, self._events = self._events.split(b"\n\n")
        for event in events:
            if event.startswith(b"data:"):
                self._read_event(event[5:].strip(), now)

    def _read_event(self, payload: bytes, now: float) -> None:
        answer = self.answer
        if payload == b"[DONE]":
            answer.complete = True
            return
        chunk = orjson.loads(payload)
        if "error" in chunk:
            answer.error = str(chunk["error"])
        answer.usage = chunk.get("usage") or answer.usage
        for choice in chunk.get("choices") or ():
            text = (choice.get("delta") or {}).get("content") or choice.get("text") or ""
            answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
            if text:
                answer.arrivals.append(now)
                answer.text.append(text)
                if not self.first_text.done():
                    self.first_text.set_result(None)

    def _finish(self) -> None:
        if self.finished.done():
            return
        self.answer.ended = time.perf_counter()
        if not self._events and self.answer.body:
            self.answer.complete = not self.answer.error
        if not self.first_text.done():
            self.first_text.set_result(None)
        self.finished.set_result(self.answer)
        if self._transport is not None:
            self._transport.close()


async def begin(port: int, method: str, path: str, body: dict[str, Any] | None = None) -> Exchange:
    """Sends one request to a server on loopback and returns at once; the answer comes in by itself."""
    payload = b"" if body is None else orjson.dumps(body)
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
    ).encode()
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(CONNECT_TIMEOUT_S):
        _, exchange = await loop.create_connection(lambda: Exchange(head + payload), "127.0.0.1", port)
    return exchange


async def ask(port: int, body: dict[str, Any], *, timeout_s: float = 300.0) -> Answer:
    """One chat completion, start to end. Never raises for what the server did: see `Answer.error`."""
    return await _finish(begin(port, "POST", "/v1/chat/completions", body), timeout_s)


async def get(port: int, path: str, *, timeout_s: float = 5.0) -> Answer:
    """One GET, start to end. Never raises for what the server did: status 0 where nothing answers."""
    return await _finish(begin(port, "GET", path), timeout_s)


async def _finish(starting: Any, timeout_s: float) -> Answer:
    exchange: Exchange | None = None
    try:
        async with asyncio.timeout(timeout_s):
            exchange = await starting
            return await exchange.finished
    except (OSError, TimeoutError) as error:
        if exchange is not None:
            exchange.abort()
        return Answer(error=f"{type(error).__name__}: {error}".rstrip(": "))
