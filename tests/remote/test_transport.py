"""HTTP/1.1 as servers speak it, well and badly, over real sockets, on both event loops."""

from __future__ import annotations

import asyncio
import gc
import weakref
import zlib

import httpx2
import pytest

from backends.remote.transport import Transport, target
from tests.conftest import free_port
from tests.remote.raw_server import BODY, OK, Client, RawServer, always, everything, once, serving, sized, soon

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"], scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


async def ask(transport: Transport, server: RawServer, body: bytes = BODY) -> bytes:
    return await everything(await transport.send(server.to(), body, soon()))


async def test_what_is_sent(transport: Transport) -> None:
    requests = []

    async def says(client: Client) -> None:
        while True:
            requests.append(await client.request())
            await client.say(sized(b""))

    async with serving(says) as server:
        for body in (b"", BODY, bytes(300_000)):
            await everything(await transport.send(server.to("/v1/ü x", headers={"X-A": "b"}), body))
        head = (
            f"POST /v1/%%C3%%BC%%20x HTTP/1.1\r\nhost: 127.0.0.1:{server.port}\r\nX-A: b\r\ncontent-length: %d\r\n\r\n"
        )
        assert requests == [(head.encode() % len(body), body) for body in (b"", BODY, bytes(300_000))]


@pytest.mark.parametrize(
    "headers",
    [{"a": "b\r\nc: d"}, {"a": "b\nc"}, {"a": "\0"}, {"a\r\nb": "c"}, {"a b": "c"}, {"": "c"}, {"a:": "c"}, {"a": "€"}],
)
def test_a_header_is_one_header(headers: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="cannot be sent"):
        target("POST", httpx2.URL("http://x/"), headers.items())


def test_the_frame_is_the_transports() -> None:
    made = target("POST", httpx2.URL("http://x/"), {"Content-Length": "9", "Transfer-Encoding": "chunked"}.items())
    assert made.head == b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: "


@pytest.mark.parametrize(
    ("url", "origin", "host"),
    [
        ("http://x/v1", (False, "x", 80), b"x"),
        ("https://x/v1", (True, "x", 443), b"x"),
        ("https://x:8443/v1", (True, "x", 8443), b"x:8443"),
        ("http://[::1]:81/v1", (False, "::1", 81), b"[::1]:81"),
        ("http://user:pass@x/v1", (False, "x", 80), b"x"),
        ("http://bücher.example/v1", (False, "xn--bcher-kva.example", 80), b"xn--bcher-kva.example"),
    ],
)
def test_where_a_url_leads(url: str, origin: tuple[bool, str, int], host: bytes) -> None:
    made = target("POST", httpx2.URL(url), {"authorization": "secret"}.items())
    assert made.origin == origin
    assert made.head.split(b"\r\n")[1] == b"host: " + host
    assert "secret" not in repr(made)


async def test_an_early_answer_is_read_though_the_request_is_not(transport: Transport) -> None:
    async def says(client: Client) -> None:
        await client.reader.readuntil(b"\r\n\r\n")
        await client.say(b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nno!")
        await asyncio.sleep(60)

    async with serving(says) as server:
        for _ in range(2):
            reply = await transport.send(server.to(), bytes(30_000_000), soon())
            assert reply.status == 413
            assert await everything(reply) == b"no!"
        assert len(server.clients) == 2


async def test_a_large_request_arrives(transport: Transport) -> None:
    async def says(client: Client) -> None:
        _, body = await client.request()
        await client.say(sized(b"%d" % zlib.crc32(body)))

    sent = bytes(range(256)) * 40_000
    async with serving(says) as server:
        assert await ask(transport, server, sent) == b"%d" % zlib.crc32(sent)


async def test_a_sender_waits_for_a_slow_reader(transport: Transport) -> None:
    size, sent = 30_000_000, 0

    async def says(client: Client) -> None:
        nonlocal sent
        await client.request()
        await client.say(OK + b"content-length: %d\r\n\r\n" % size)
        for _ in range(size // 100_000):
            client.writer.write(bytes(100_000))
            await client.writer.drain()
            sent += 100_000
        await client.request()
        await client.say(sized(b"again"))

    async with serving(says) as server:
        reply = await transport.send(server.to(), BODY, soon())
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.1)
        assert sent < size / 2
        assert len(await everything(reply)) == size
        assert await ask(transport, server) == b"again"


async def test_the_head_is_not_waited_for_longer_than_said(transport: Transport) -> None:
    left = asyncio.Event()

    async def says(client: Client) -> None:
        await client.left()
        left.set()

    async with serving(says) as server:
        with pytest.raises(httpx2.ReadTimeout):
            await transport.send(server.to(), BODY, soon(0.05))
        await left.wait()


@pytest.mark.parametrize("slow", [False, True])
async def test_the_deadline_of_a_read_moves(transport: Transport, slow: bool) -> None:
    go = asyncio.Event()

    async def says(client: Client) -> None:
        await client.request()
        await client.say(OK + b"content-length: 9\r\n\r\nabc")
        await go.wait()
        await client.say(b"def")
        await client.left()

    async with serving(says) as server:
        reply = await transport.send(server.to(), BODY, soon(0.1))
        assert await reply.read(soon(0.1)) == b"abc"
        if slow:
            await asyncio.sleep(0.2)  # the reader's own doing
        asyncio.get_running_loop().call_later(0.2, go.set)
        assert await reply.read(soon(10)) == b"def"
        with pytest.raises(httpx2.ReadTimeout):
            await reply.read(soon(0.05))
        await reply.aclose()


async def test_a_time_that_has_passed_is_late_though_bytes_are_there(transport: Transport) -> None:
    async with serving(always(OK + b"content-length: 9\r\n\r\nabc")) as server:
        reply = await transport.send(server.to(), BODY, soon())
        with pytest.raises(httpx2.ReadTimeout):
            await reply.read(soon(0))
        await reply.aclose()


@pytest.mark.parametrize("during", ["head", "body"])
async def test_who_is_cancelled_hangs_up(transport: Transport, during: str) -> None:
    asked, left = asyncio.Event(), asyncio.Event()

    async def says(client: Client) -> None:
        await client.request()
        if during == "body":
            await client.say(OK + b"content-length: 9\r\n\r\nabc")
        asked.set()
        await client.left()
        left.set()

    async def asks(server: RawServer) -> None:
        reply = await transport.send(server.to(), BODY, soon())
        await reply.read()
        await reply.read()  # closing is not left to the caller

    async with serving(says) as server:
        asking = asyncio.create_task(asks(server))
        await asked.wait()
        await asyncio.sleep(0.02)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await left.wait()


async def test_nobody_listens(transport: Transport) -> None:
    for url in (f"http://127.0.0.1:{free_port()}/", "http://host.invalid/", f"http://{'x' * 80}.invalid/"):
        with pytest.raises(httpx2.ConnectError):
            await transport.send(target("POST", httpx2.URL(url), []), BODY, soon())


@pytest.mark.parametrize("said", [sized(b"abc"), OK + b"\r\nabc", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc"])
async def test_a_reply_leaves_no_cycle_behind(transport: Transport, said: bytes) -> None:
    async with serving(once(said)) as server:
        reply = await transport.send(server.to(), BODY, soon())
        assert await reply.read() == b"abc"
        await reply.aclose()
        gone = weakref.ref(reply)
        gc.disable()
        try:
            del reply
            await asyncio.sleep(0.01)
            assert gone() is None
        finally:
            gc.enable()
