"""The load of `bench.gateways`: callers that keep their connection, and streams that begin at one moment.

It costs next to nothing, since it shares a core with the upstream: bytes made beforehand, answers looked at as bytes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import orjson

from bench.client import Answer, Exchange
from bench.stats import percentile
from bench.upstream import CONTENT, texts

PATH = "/v1/chat/completions"
SYSTEM = "You are the assistant of a service van. Answer in at most three sentences of plain words."
QUESTION = "The intake pump hums but does not turn. I checked the fuse and the supply. What should I look at first?"
EXPECTED = CONTENT.encode()


@dataclass(frozen=True, slots=True)
class Calls:
    """One load of counted requests. Seconds.

    Attributes:
        times: from each request's sending to the last byte of its answer.
        seconds: how long the load went on.
        failed: answers that were no 200 with the upstream's own text.
        error: the first of those, its beginning.
    """

    times: Sequence[float]
    seconds: float
    failed: int = 0
    error: str = ""

    @property
    def rate(self) -> float:
        """Whole answers a second."""
        return len(self.times) / self.seconds if self.seconds else 0.0

    def at(self, q: float) -> float:
        """The q-th percentile of the times."""
        return percentile(self.times, q)


@dataclass(frozen=True, slots=True)
class Streams:
    """Streams that were begun together. Seconds; frames are events that carry text.

    Attributes:
        whole: streams that brought every piece of text, in order, and closed as the protocol says.
        frames, expected: how many came, and how many were sent for them.
        seconds: from the first request to the end of the last stream.
        ttft_p99: from a request to its first text.
        gap_p99: between one text of a stream and its next.
        error: the first that was not whole, and why.
    """

    whole: int
    streams: int
    frames: int
    expected: int
    seconds: float
    ttft_p99: float
    gap_p99: float
    error: str = ""


class Caller(asyncio.Protocol):
    """Asks again as soon as it is answered, until `more()` says no; `ended` resolves once, whatever happens."""

    __slots__ = ("_buffer", "_more", "_request", "_sent", "_transport", "ended", "error", "failed", "times")

    def __init__(self, request: bytes, more: Any) -> None:
        self._request = request
        self._more = more
        self._buffer = b""
        self._sent = 0.0
        self._transport: asyncio.Transport | None = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.times: list[float] = []
        self.failed = 0
        self.error = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its class

    def start(self) -> None:
        """Sends the first request."""
        self._next(time.perf_counter())

    def data_received(self, data: bytes) -> None:
        self._buffer = data = self._buffer + data if self._buffer else data
        if not answer_whole(data):
            return
        now = time.perf_counter()
        self._buffer = b""
        if data.startswith(b"HTTP/1.1 200 ") and EXPECTED in data:
            self.times.append(now - self._sent)
        else:
            self.failed += 1
            self.error = self.error or data[:400].decode(errors="replace")
        self._next(now)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.failed += 1
            self.error = self.error or f"connection closed{f': {exc}' if exc else ''}"
            self.ended.set_result(None)

    def leave(self) -> None:
        """Goes away without its answer."""
        if self._transport is not None:
            self._transport.abort()

    def _next(self, now: float) -> None:
        assert self._transport is not None
        if self._more(now):
            self._sent = now
            self._transport.write(self._request)
        elif not self.ended.done():
            self.ended.set_result(None)
            self._transport.close()


def answer_whole(data: bytes) -> bool:
    """Whether `data` is a whole answer. Bodies are counted or chunked; ours never contain an empty chunk's bytes."""
    head = data.find(b"\r\n\r\n")
    if head < 0:
        return False
    fields = data[: head + 2].lower()
    at = fields.find(b"\r\ncontent-length:")
    if at >= 0:
        return len(data) >= head + 4 + int(fields[at + 17 : fields.index(b"\r\n", at + 17)])
    return data.endswith(b"\r\n0\r\n\r\n")


def request_of(port: int, model: str, headers: Mapping[str, str], *, stream: bool = False) -> bytes:
    """The request that is sent again and again, whole."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": QUESTION}],
        "max_tokens": 64,
        "temperature": 0.2,
    }
    payload = orjson.dumps(body | {"stream": True} if stream else body)
    extra = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{extra}"
        f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
    )
    return head.encode() + payload


async def call(port: int, request: bytes, *, clients: int, seconds: float, at_most: int | None = None) -> Calls:
    """`clients` callers for so many seconds, or until there were `at_most` requests. Never raises for the server."""
    loop = asyncio.get_running_loop()
    left = at_most if at_most is not None else 1 << 60

    def more(now: float) -> bool:
        nonlocal left
        left -= 1
        return left >= 0 and now < deadline

    callers = []
    for _ in range(clients):
        _, caller = await loop.create_connection(lambda: Caller(request, more), "127.0.0.1", port)
        callers.append(caller)
    began = time.perf_counter()
    deadline = began + seconds
    for caller in callers:
        caller.start()
    await asyncio.wait([caller.ended for caller in callers], timeout=seconds + 30.0)
    ended = time.perf_counter()
    stuck = [caller for caller in callers if not caller.ended.done()]
    error = next((caller.error for caller in callers if caller.error), "no answer in 30 s" if stuck else "")
    times = [seen for caller in callers for seen in caller.times]
    failed = len(stuck) + sum(caller.failed for caller in callers)
    for caller in stuck:
        caller.leave()
    return Calls(times, ended - began, failed, error)


async def stream(port: int, request: bytes, *, streams: int, deltas: int, timeout_s: float = 60.0) -> Streams:
    """So many streams begun at one moment, each on a connection of its own."""
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    made = [loop.create_connection(lambda: Exchange(request), "127.0.0.1", port) for _ in range(streams)]
    pairs = await asyncio.gather(*made, return_exceptions=True)
    exchanges = [pair[1] for pair in pairs if not isinstance(pair, BaseException)]
    if exchanges:
        await asyncio.wait([exchange.finished for exchange in exchanges], timeout=timeout_s)
    answers = [exchange.answer for exchange in exchanges]
    for exchange in exchanges:
        if not exchange.finished.done():
            exchange.answer.error = f"not ended after {timeout_s:.0f} s"
            exchange.abort()
    return summary(answers, streams, deltas, began)


def summary(answers: Sequence[Answer], streams: int, deltas: int, began: float) -> Streams:
    """What the streams brought, against what was sent. A connection that was refused is a stream without frames."""
    expected = texts(deltas)
    faults = [why for answer in answers if (why := fault(answer, expected))]
    if len(answers) < streams:
        faults.append(f"{streams - len(answers)} connections refused")
    return Streams(
        whole=len(answers) - sum(1 for answer in answers if fault(answer, expected)),
        streams=streams,
        frames=sum(len(answer.arrivals) for answer in answers),
        expected=streams * deltas,
        seconds=max((answer.ended for answer in answers), default=began) - began,
        ttft_p99=percentile((answer.ttft for answer in answers), 99),
        gap_p99=percentile((gap for answer in answers for gap in answer.gaps), 99),
        error=faults[0] if faults else "",
    )


def fault(answer: Answer, expected: Sequence[str]) -> str:
    """Why a stream is not whole; empty if it is."""
    if answer.error:
        return answer.error
    if answer.status != 200:
        return f"{answer.status}: {answer.body[:300].decode(errors='replace')}"
    if answer.text != list(expected):
        return f"{len(answer.text)} frames of {len(expected)}" if answer.complete else "frames are missing or moved"
    return "" if answer.complete else "no [DONE]"
