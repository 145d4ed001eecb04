"""The load of `bench.small`: callers that keep their connection, and a steady trickle."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from itertools import count, cycle
from typing import Any, cast

import orjson

from bench.gateways_load import Calls, answer_whole

WORDS = (
    "the",
    "pump",
    "is",
    "hot",
    "and",
    "valve",
    "two",
    "has",
    "a",
    "leak",
    "since",
    "noon",
    "check",
    "oil",
    "first",
)
"""Each is one token of the embedders' vocabulary."""
TIMEOUT_S = 60.0


def text_of(tokens: int, number: int) -> str:
    """A text of so many tokens, the first and last special one included; no two of them alike, up to 15^4."""
    at = [(number // len(WORDS) ** place) % len(WORDS) for place in range(4)]
    return " ".join(WORDS[(at[i % 4] + i) % len(WORDS)] for i in range(tokens - 2))


def post(path: str, body: Mapping[str, Any]) -> bytes:
    """A request to the gateway, whole, for a connection that is kept."""
    payload = orjson.dumps(body)
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(payload)}\r\n\r\n".encode() + payload


class Asker(asyncio.Protocol):
    """One connection on which one request at a time is asked."""

    def __init__(self) -> None:
        self._buffer = b""
        self._answer: asyncio.Future[bytes] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._answer is not None and not self._answer.done() and answer_whole(self._buffer):
            self._answer.set_result(self._buffer)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(self._buffer or b"connection closed")

    @property
    def closed(self) -> bool:
        """The server has ended it: it was silent for too long."""
        return self._transport is None or self._transport.is_closing()

    def ask(self, request: bytes) -> asyncio.Future[bytes]:
        """The whole answer, head and body; what was there of it if the connection was closed."""
        assert self._transport is not None
        self._buffer = b""
        self._answer = asyncio.get_running_loop().create_future()
        if self._transport.is_closing():
            self._answer.set_result(b"connection closed")
        else:
            self._transport.write(request)
        return self._answer

    def close(self) -> None:
        """No more requests."""
        if self._transport is not None:
            self._transport.close()


async def connect(port: int) -> Asker:
    """A connection to a server on loopback."""
    _, asker = await asyncio.get_running_loop().create_connection(Asker, "127.0.0.1", port)
    return asker


async def call(port: int, requests: Sequence[bytes], *, clients: int, total: int) -> Calls:
    """The requests in turn, `total` of them, each client with its next as soon as it is answered.

    Raises OSError if nobody listens.
    """
    askers = [await connect(port) for _ in range(clients)]
    turn, left = cycle(requests), iter(range(total))
    times: list[float] = []
    errors: list[str] = []

    async def client(asker: Asker) -> None:
        for _ in left:
            await one(asker, next(turn), times, errors)

    began = time.perf_counter()
    await asyncio.gather(*(client(asker) for asker in askers))
    seconds = time.perf_counter() - began
    for asker in askers:
        asker.close()
    return Calls(times, seconds, len(errors), errors[0] if errors else "")


async def trickle(port: int, requests: Sequence[bytes], *, rate: float, ended: asyncio.Event) -> Calls:
    """One request every 1/rate seconds until `ended`, however long the answers take: a slow one delays no other."""
    times: list[float] = []
    errors: list[str] = []
    free: list[Asker] = []
    running: set[asyncio.Task[None]] = set()

    async def single(request: bytes) -> None:
        asker = free.pop() if free else await connect(port)
        await one(asker, request, times, errors)
        free.append(asker)

    began = time.perf_counter()
    for number, request in zip(count(1), cycle(requests), strict=False):
        task = asyncio.create_task(single(request))
        running.add(task)
        task.add_done_callback(running.discard)
        try:
            async with asyncio.timeout(max(0.0, began + number / rate - time.perf_counter())):
                await ended.wait()
            break
        except TimeoutError:
            continue
    await asyncio.gather(*running)
    for asker in free:
        asker.close()
    return Calls(times, time.perf_counter() - began, len(errors), errors[0] if errors else "")


async def one(asker: Asker, request: bytes, times: list[float], errors: list[str]) -> None:
    """One request; its seconds go to `times`, or what was wrong to `errors`."""
    sent = time.perf_counter()
    try:
        async with asyncio.timeout(TIMEOUT_S):
            answer = await asker.ask(request)
    except TimeoutError:
        errors.append(f"no answer in {TIMEOUT_S:.0f} s")
        return
    if answer.startswith(b"HTTP/1.1 200 "):
        times.append(time.perf_counter() - sent)
    else:
        errors.append(answer[:400].decode(errors="replace"))


async def fetch(port: int, path: str, body: Mapping[str, Any]) -> Any:
    """One answer's JSON. Raises RuntimeError, with its beginning, for any other than 200."""
    asker = await connect(port)
    try:
        async with asyncio.timeout(TIMEOUT_S * 10):
            answer = await asker.ask(post(path, body))
    finally:
        asker.close()
    if not answer.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(f"{path}: {answer[:600].decode(errors='replace')}")
    return orjson.loads(answer.partition(b"\r\n\r\n")[2])
