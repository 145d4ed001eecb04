"""A provider as bad as a test wants it: an HTTP proxy on loopback that plays a plan of faults, one for each request.

It answers from a real server behind it, or from a script, and notes whatever it receives.
"""

from __future__ import annotations

import asyncio
import gzip
import socket
import struct
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import orjson

FOREVER_S = 3600.0


@dataclass(frozen=True, slots=True)
class Act:
    """What happens to one request. With no arguments: it is passed on, and its answer comes back as it is.

    Attributes:
        head: before anything is answered: `reset` the connection, `hang_up` politely, or `stall` for good.
        raw: bytes sent in place of any HTTP answer; then it hangs up.
        body: a scripted answer's body, in pieces; None: the real server's.
        cut_at: bytes of body after which the connection is closed, `reset_at`: reset, `stall_at`: silent for good.
        piece: sends so many bytes at a time; 0: as they come.
        pause_s: between pieces.
        leave_out: removed from the body.
        held: a scripted answer waits for this before its last piece.
    """

    head: str = ""
    raw: bytes = b""
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: Sequence[bytes] | None = None
    cut_at: int | None = None
    reset_at: int | None = None
    stall_at: int | None = None
    piece: int = 0
    pause_s: float = 0.0
    leave_out: bytes = b""
    gzip: bool = False
    held: asyncio.Event | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int

    @property
    def json(self) -> dict[str, Any]:
        """The body's JSON."""
        value: dict[str, Any] = orjson.loads(self.body)
        return value


@dataclass(slots=True)
class FaultProxy:
    """`async with FaultProxy(...) as proxy`: listens on a free port of loopback.

    Attributes:
        upstream: base URL of the real server; empty: scripted answers only.
        plan: acts, each used once in order; after them, `usual`.
        seen: the requests, in order.
        connections: made so far, those with no request included.
        hung_up: set when a client left before its answer was complete.
    """

    upstream: str = ""
    plan: list[Act] = field(default_factory=list)
    usual: Act = field(default_factory=Act)
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)
    began: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        """The base URL for a provider's settings."""
        return f"http://127.0.0.1:{self.port}/v1"

    async def __aenter__(self) -> FaultProxy:
        self._server = await asyncio.start_server(self._client, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes its door and ends whatever it plays."""
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        number = self.connections
        try:
            early: bytes | None = b""
            while early is not None and (seen := await _request(early, reader, number)) is not None:
                self.seen.append(seen)
                act = self.plan.pop(0) if self.plan else self.usual
                early = await self._watched(self._play(act, seen, writer), reader)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:
            pass  # the end of the test; a server's callback must not say so
        finally:
            writer.close()

    async def _watched(self, answer: Coroutine[Any, Any, bool], reader: asyncio.StreamReader) -> bytes | None:
        """Plays, while looking whether the client is still there.

        Returns what was read of its next request; None if the connection cannot be used again.
        """
        playing = asyncio.ensure_future(answer)
        leaving = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait((playing, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not playing.done() and not leaving.result():
                self.hung_up.set()
                return None
            usable = await playing
            return (leaving.result() if leaving.done() else b"") if usable else None
        except ConnectionError:
            self.hung_up.set()
            return None
        finally:
            for task in (playing, leaving):
                task.cancel()
            await asyncio.gather(playing, leaving, return_exceptions=True)

    async def _play(self, act: Act, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        if act.head == "reset":
            return _reset(writer)
        if act.head == "hang_up":
            return False
        if act.head == "stall":
            self.began.set()
            await asyncio.sleep(FOREVER_S)
        if act.raw:
            writer.write(act.raw)
            await writer.drain()
            return False
        status, headers, body = await self._answer(act, seen)
        head = "".join(f"{name}: {value}\r\n" for name, value in headers)
        writer.write(f"HTTP/1.1 {status} Whatever\r\n{head}transfer-encoding: chunked\r\n\r\n".encode())
        sent = 0
        async for data in _pieces(act, body):
            for limit, ending in ((act.cut_at, "cut"), (act.reset_at, "reset"), (act.stall_at, "stall")):
                if limit is not None and sent + len(data) >= limit:
                    await _chunk(writer, data[: limit - sent])
                    return await self._end(ending, writer)
            await _chunk(writer, data)
            sent += len(data)
            self.began.set()
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    async def _end(self, ending: str, writer: asyncio.StreamWriter) -> bool:
        self.began.set()
        if ending == "stall":
            await asyncio.sleep(FOREVER_S)
        await asyncio.sleep(0.02)  # what was sent before is to arrive
        return _reset(writer) if ending == "reset" else False

    async def _answer(self, act: Act, seen: Seen) -> tuple[int, list[tuple[str, str]], AsyncIterator[bytes]]:
        if act.body is None:
            return await _ask(self.upstream, seen)
        headers = dict((("content-type", "application/json"), *act.headers))
        return act.status, list(headers.items()), _scripted(act.body, act.held)


def _reset(writer: asyncio.StreamWriter) -> bool:
    """RST in place of FIN."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    return False


async def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    if data:
        writer.write(b"%x\r\n%b\r\n" % (len(data), data))
        await writer.drain()


async def _scripted(body: Sequence[bytes], held: asyncio.Event | None) -> AsyncIterator[bytes]:
    for number, data in enumerate(body):
        if held is not None and number == len(body) - 1:
            await held.wait()
        yield data
        await asyncio.sleep(0)


async def _pieces(act: Act, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The body as the act cuts it."""
    if act.leave_out or act.gzip:
        whole = b"".join([data async for data in body]).replace(act.leave_out or b"\0", b"")
        body = _scripted([gzip.compress(whole) if act.gzip else whole], None)
    async for data in body:
        size = act.piece or len(data) or 1
        for at in range(0, len(data), size):
            yield data[at : at + size]
            if act.piece:
                await asyncio.sleep(act.pause_s)


async def _head(reader: asyncio.StreamReader, early: bytes = b"") -> tuple[str, dict[str, str]]:
    text = (early + await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = text.rstrip("\r\n").split("\r\n")
    return first, {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


async def _request(early: bytes, reader: asyncio.StreamReader, connection: int) -> Seen | None:
    try:
        first, headers = await _head(reader, early)
        body = await reader.readexactly(int(headers.get("content-length", 0)))
    except asyncio.IncompleteReadError:
        return None
    method, path, _ = first.split(" ", 2)
    return Seen(method, path, headers, body, connection)


async def _ask(upstream: str, seen: Seen) -> tuple[int, list[tuple[str, str]], AsyncIterator[bytes]]:
    """The real server's answer. HTTP/1.0: its body needs no unpacking and ends with the connection."""
    parts = urlsplit(upstream)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    kept = {name: seen.headers[name] for name in ("content-type", "authorization") if name in seen.headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in {**kept, "content-length": len(seen.body)}.items())
    writer.write(f"{seen.method} {seen.path} HTTP/1.0\r\nhost: {parts.netloc}\r\n{lines}\r\n".encode() + seen.body)
    first, headers = await _head(reader)

    async def body() -> AsyncIterator[bytes]:
        try:
            while data := await reader.read(65_536):
                yield data
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    return int(first.split(" ")[1]), [("content-type", headers.get("content-type", ""))], body()


def event(payload: object) -> bytes:
    """A server-sent event."""
    return b"data: " + orjson.dumps(payload) + b"\n\n"


def delta(text: str = "", finish: str | None = None, index: int = 0, **more: Any) -> bytes:
    """An event with one chat delta; `more` goes into the delta."""
    content = {"content": text} if text else {}
    choice = {"index": index, "delta": {**content, **more}, "logprobs": None, "finish_reason": finish}
    return event({"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]})


DONE = b"data: [DONE]\n\n"
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10, "prompt_tokens_details": {"cached_tokens": 4}}
STREAM = (("content-type", "text/event-stream"),)


def stream(*pieces: bytes, **how: Any) -> Act:
    """A scripted stream."""
    return Act(body=pieces, headers=STREAM, **how)


def hello(**how: Any) -> Act:
    """A good stream: a role, three deltas, the end, the usage."""
    return stream(
        delta(role="assistant"),
        delta("Grüße"),
        delta(" an"),
        delta(" alle 🙂"),
        delta(finish="stop"),
        event({"id": "c1", "choices": [], "usage": USAGE, "system_fingerprint": "fp"}),
        DONE,
        **how,
    )


def whole(text: str = "Grüße an alle 🙂", **how: Any) -> Act:
    """A good whole answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    body = {"id": "c1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": USAGE}
    return Act(body=(orjson.dumps(body),), **how)


def refusal(status: int, message: str = "no", headers: Sequence[tuple[str, str]] = (), **said: Any) -> Act:
    """An error in OpenAI's shape."""
    error = {"message": message, "type": "some_error", "param": None, "code": None, **said}
    return Act(status=status, headers=tuple(headers), body=(orjson.dumps({"error": error}),))
