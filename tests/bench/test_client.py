"""The bench's client against a server that plays scripts, byte for byte."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.client import Dechunker, ask, begin, get

pytestmark = pytest.mark.anyio

EVENT_STREAM = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
)


def chunked(*payloads: bytes) -> list[bytes]:
    return [b"%x\r\n%s\r\n" % (len(payload), payload) for payload in payloads]


def delta(text: str | None) -> bytes:
    return b"data: " + orjson.dumps({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]})


USAGE = b"data: " + orjson.dumps({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 9}})


@contextlib.asynccontextmanager
async def scripted(pieces: Sequence[bytes], *, hold: bool = False) -> AsyncIterator[int]:
    """A server that reads one request, sends the pieces one by one, and closes (or holds the line open)."""
    released = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length"))
        await reader.readexactly(length)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        if hold:
            await released.wait()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        released.set()
        server.close()
        await server.wait_closed()


async def test_a_whole_stream() -> None:
    events = [delta("Hel") + b"\n\n", delta("lo") + b"\n\n", USAGE + b"\n\n", b"data: [DONE]\n\n"]
    async with scripted([EVENT_STREAM, *chunked(*events), b"0\r\n\r\n"]) as port:
        answer = await ask(port, {})
    assert answer.ok
    assert "".join(answer.text) == "Hello"
    assert (answer.tokens, len(answer.arrivals), len(answer.gaps)) == (9, 2, 1)
    assert answer.sent <= answer.arrivals[0] <= answer.arrivals[1] <= answer.ended


async def test_carriage_returns_pings_and_events_cut_anywhere() -> None:
    body = b": ping\r\n\r\n" + delta(None) + b"\r\n\r\n" + delta("a") + b"\r\n\r\n" + b"data: [DONE]\r\n\r\n"
    wire = EVENT_STREAM + b"".join(chunked(body[:7], body[7:31], body[31:])) + b"0\r\n\r\n"
    async with scripted([wire[i : i + 11] for i in range(0, len(wire), 11)]) as port:
        answer = await ask(port, {})
    assert answer.ok
    assert answer.text == ["a"]
    assert answer.tokens == 1, "without usage, the events that carry text are counted"


async def test_an_error_in_the_stream_is_no_answer() -> None:
    events = [delta("a") + b"\n\n", b'data: {"error": {"message": "engine died"}}\n\n']
    async with scripted([EVENT_STREAM, *chunked(*events), b"0\r\n\r\n"]) as port:
        answer = await ask(port, {})
    assert not answer.ok
    assert "engine died" in answer.error


async def test_a_stream_that_breaks_off_is_no_answer() -> None:
    async with scripted([EVENT_STREAM, *chunked(delta("a") + b"\n\n")]) as port:
        answer = await ask(port, {})
    assert not answer.ok
    assert "early" in answer.error


async def test_a_plain_body() -> None:
    async with scripted([b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n", b'{"ok":', b"true}"]) as port:
        answer = await get(port, "/healthz")
    assert answer.ok
    assert answer.body == b'{"ok":true}'


async def test_nobody_listens() -> None:
    answer = await get(1, "/healthz")
    assert answer.status == 0
    assert not answer.ok


async def test_a_client_that_goes_away() -> None:
    async with scripted([EVENT_STREAM, *chunked(delta("a") + b"\n\n")], hold=True) as port:
        exchange = await begin(port, "POST", "/", {})
        await exchange.first_text
        exchange.abort()
        answer = await exchange.finished
    assert answer.text == ["a"]
    assert not answer.ok


@given(st.lists(st.binary(min_size=1, max_size=40)), st.integers(1, 17))
def test_chunks_however_they_are_cut(payloads: list[bytes], step: int) -> None:
    wire = b"".join(chunked(*payloads)) + b"0\r\n\r\n"
    dechunker = Dechunker()
    got = b"".join(dechunker.feed(wire[i : i + step]) for i in range(0, len(wire), step))
    assert got == b"".join(payloads)
    assert dechunker.done
