"""Answers as servers write them, well and badly, however they are cut."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from itertools import pairwise

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.remote.connection import Connection
from backends.remote.reply import MAX_HEAD_BYTES
from backends.remote.transport import Transport
from tests.remote.raw_server import BODY, OK, Client, RawServer, chunked, everything, once, serving, sized, soon

CLOSE = OK + b"connection: close\r\n"
pytestmark = pytest.mark.anyio


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"], scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


async def ask(transport: Transport, server: RawServer) -> bytes:
    return await everything(await transport.send(server.to(), BODY, soon()))


GOOD: dict[str, tuple[bytes, bytes]] = {
    "sized": (sized(b"abcdef"), b"abcdef"),
    "empty": (sized(b""), b""),
    "chunked": (chunked(b"abc", b"def"), b"abcdef"),
    "chunk extensions": (chunked(b"abc", b"def", extension=b';x="y";z'), b"abcdef"),
    "trailers": (chunked(b"abc", trailers=b"x: y\r\nz: w\r\n"), b"abc"),
    "after others": (b"HTTP/1.1 100 Go\r\n\r\nHTTP/1.1 103 Hints\r\nlink: x\r\n\r\n" + sized(b"abc"), b"abc"),
    "gzip": (sized(gzip.compress(b"abcdef"), b"content-encoding: gzip"), b"abcdef"),
    "deflate": (sized(zlib.compress(b"abcdef"), b"Content-Encoding: deflate"), b"abcdef"),
    "identity": (sized(b"abc", b"content-encoding: identity"), b"abc"),
    "gzip of nothing": (sized(b"", b"content-encoding: gzip"), b""),
    "odd fields": (sized(b"abc", b"x:", b"y: \xff\xfe", b"x: 1"), b"abc"),
    "no reason": (b"HTTP/1.1 200\r\ncontent-length: 1\r\n\r\na", b"a"),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    "not modified": (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 10\r\n\r\n", b""),
}  # fmt: skip


@pytest.mark.parametrize("kind", GOOD)
async def test_an_answer_is_the_same_byte_by_byte_and_the_connection_is_kept(transport: Transport, kind: str) -> None:
    said, expected = GOOD[kind]

    async def says(client: Client) -> None:
        await client.request()
        await client.say(said)
        await client.request()
        await client.say(*(said[k : k + 1] for k in range(len(said))))

    async with serving(says) as server:
        assert await ask(transport, server) == expected
        assert await ask(transport, server) == expected
        assert len(server.clients) == 1


ENDS: dict[str, tuple[bytes, bytes]] = {
    "close": (CLOSE + b"content-length: 3\r\n\r\nabc", b"abc"),
    "http 1.0": (b"HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nabc", b"abc"),
    "until the end": (OK + b"\r\nabc", b"abc"),
    "until the end of 1.0": (b"HTTP/1.0 200 OK\r\n\r\nabc", b"abc"),
    "gzip until the end": (OK + b"content-encoding: gzip\r\n\r\n" + gzip.compress(b"abc"), b"abc"),
    "more than was said": (sized(b"abc") + b"def", b"abc"),
    "two answers": (sized(b"abc") + sized(b"def"), b"abc"),
    "garbage after the last chunk": (chunked(b"abc") + b"garbage", b"abc"),
    "more after close": (CLOSE + b"content-length: 3\r\n\r\nabcdef", b"abc"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ENDS)
async def test_a_connection_that_cannot_be_used_again_is_not(transport: Transport, kind: str) -> None:
    said, expected = ENDS[kind]
    async with serving(once(said)) as server:
        assert await ask(transport, server) == expected
        assert await ask(transport, server) == expected
        assert len(server.clients) == 2


BAD: dict[str, bytes] = {
    "nothing": b"",
    "no HTTP": b"\x16\x03\x01 what?\r\n\r\n",
    "HTTP/2": b"HTTP/2 200\r\n\r\n",
    "half a head": OK + b"content-le",
    "a bare newline": b"HTTP/1.1 200 OK\ncontent-length: 1\n\na",
    "two lengths": OK + b"content-length: 1\r\ncontent-length: 2\r\n\r\nab",
    "a length and chunks": OK + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "a negative length": OK + b"content-length: -1\r\n\r\nab",
    "an endless length": OK + b"content-length: 99999999999999999999999\r\n\r\nab",
    "a packed transfer": OK + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "an upgrade": b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nabc",
    "status 0": b"HTTP/1.1 000 What\r\ncontent-length: 0\r\n\r\n",
    "a long line": OK + b"x: " + b"y" * (2 * MAX_HEAD_BYTES),
    "a long head": OK + b"x: y\r\n" * 40_000,
    "many fields": OK + b"x: y\r\n" * 300 + b"content-length: 0\r\n\r\n",
    "hints for ever": b"HTTP/1.1 103 Early\r\nlink: x\r\n\r\n" * 20_000,
    "less than was said": OK + b"content-length: 10\r\n\r\nabc",
    "no last chunk": OK + b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
    "no chunk": OK + b"transfer-encoding: chunked\r\n\r\nxyz\r\n",
    "a chunk that never begins": OK + b"transfer-encoding: chunked\r\n\r\n3;" + b"x" * (3 * MAX_HEAD_BYTES),
    "endless trailers": chunked(b"abc", trailers=b"x: y\r\n" * 40_000),
    "no gzip": sized(b"abcdef", b"content-encoding: gzip"),
    "half a gzip": sized(gzip.compress(b"abcdef")[:-3], b"content-encoding: gzip"),
    "an unknown packing": sized(b"abcdef", b"content-encoding: br"),
    "two packings": sized(b"abcdef", b"content-encoding: gzip", b"content-encoding: br"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
async def test_a_bad_answer_is_told_and_its_connection_closed(transport: Transport, kind: str) -> None:
    said, left = BAD[kind], asyncio.Event()

    async def says(client: Client) -> None:
        await client.request()
        try:
            for k in range(0, len(said), 10_000):
                await client.say(said[k : k + 10_000])
            client.writer.write_eof()
            await client.left()
        finally:
            left.set()

    async with serving(says) as server:
        with pytest.raises(httpx2.RemoteProtocolError):
            await ask(transport, server)
        await left.wait()


class Nobody:
    """An owner who only notes."""

    kept = False

    def idle(self, connection: Connection) -> None:
        self.kept = True

    def gone(self, connection: Connection) -> None:
        self.kept = False


class Wire(asyncio.Transport):
    """Takes all, brings nothing."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        pass


@given(kind=st.sampled_from(list(GOOD)), cuts=st.lists(st.integers(0, 200), max_size=8))
def test_any_cut_gives_the_same_answer(kind: str, cuts: list[int]) -> None:
    said, expected = GOOD[kind]
    places = sorted({0, len(said), *(cut for cut in cuts if cut < len(said))})

    async def read() -> bytes:
        owner = Nobody()
        connection = Connection(asyncio.get_running_loop(), None, owner)
        connection.connection_made(Wire())
        asking = asyncio.create_task(connection.ask(b"", b"", soon()))
        await asyncio.sleep(0)
        for start, end in pairwise(places):
            connection.data_received(said[start:end])
        body = await everything(await asking)
        assert owner.kept
        return body

    assert asyncio.run(read()) == expected
