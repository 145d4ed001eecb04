"""Connections: which are kept, which are not, how they are made, and with whom."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
from contextlib import aclosing
from pathlib import Path

import httpx2
import pytest

from backends.remote.dial import dial, families_in_turn, race
from backends.remote.resolve import Address, Resolver
from backends.remote.transport import Transport, target
from tests.remote.raw_server import BODY, OK, Client, RawServer, always, chunked, everything, serving, sized, soon

HI = sized(b"hi")
pytestmark = pytest.mark.anyio


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"], scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


async def ask(transport: Transport, server: RawServer) -> bytes:
    return await everything(await transport.send(server.to(), BODY, soon()))


async def test_the_connection_used_last_is_used_next(transport: Transport) -> None:
    used = []

    async def says(client: Client) -> None:
        while True:
            await client.request()
            used.append(client.number)
            await client.say(HI)

    async with serving(says) as server:
        replies = await asyncio.gather(*(transport.send(server.to(), BODY, soon()) for _ in range(3)))
        assert sorted(used) == [0, 1, 2]
        last = used[-1]
        for reply in replies:
            assert await everything(reply) == b"hi"
        used.clear()
        for _ in range(3):
            assert await ask(transport, server) == b"hi"
        assert len(server.clients) == 3
        assert used == [used[0]] * 3
        assert last in (0, 1, 2)


async def test_hosts_do_not_share_connections(transport: Transport) -> None:
    async with serving(always(HI)) as one, serving(always(sized(b"two"))) as two:
        for _ in range(2):
            assert await ask(transport, one) == b"hi"
            assert await ask(transport, two) == b"two"
        assert (len(one.clients), len(two.clients)) == (1, 1)


@pytest.mark.parametrize("does", ["closes", "speaks"])
async def test_a_connection_that_is_not_silent_while_idle_is_dropped_at_once(transport: Transport, does: str) -> None:
    dropped = asyncio.Event()

    async def says(client: Client) -> None:
        await client.request()
        await client.say(HI)
        if client.number == 0:
            if does == "speaks":
                await asyncio.sleep(0.02)
                await client.say(HI)
            else:
                client.writer.close()
            await client.left()
            dropped.set()
        await client.request()
        await client.say(HI)

    async with serving(says) as server:
        assert await ask(transport, server) == b"hi"
        await dropped.wait()
        await asyncio.sleep(0.02)
        assert await ask(transport, server) == b"hi"  # not an answer to what was asked before
        assert len(server.clients) == 2


async def test_a_connection_is_not_used_between_its_end_and_the_news_of_it(transport: Transport) -> None:
    async with serving(always(HI)) as server:
        await ask(transport, server)
        (idle,) = transport._all
        assert idle._transport is not None
        idle._transport.abort()  # the news comes with the next turn of the event loop
        assert await ask(transport, server) == b"hi"
        assert len(server.clients) == 2


async def test_what_meets_a_closing_connection_is_told_and_not_sent_again(transport: Transport) -> None:
    async def says(client: Client) -> None:
        await client.request()
        await client.say(HI)
        await client.reader.read(1)  # of the next request
        client.writer.transport.abort()

    async with serving(says) as server:
        assert await ask(transport, server) == b"hi"
        with pytest.raises(httpx2.RemoteProtocolError):
            await ask(transport, server)
        assert len(server.clients) == 1


async def test_an_idle_connection_has_its_time() -> None:
    left = asyncio.Event()

    async def says(client: Client) -> None:
        await client.request()
        await client.say(HI)
        await client.left()
        left.set()

    async with serving(says) as server, aclosing(Transport(keep_alive_s=0.05)) as transport, asyncio.timeout(10):
        await ask(transport, server)
        await left.wait()


@pytest.mark.parametrize("rest", [b"0\r\n\r\n", b""])
async def test_after_finish_the_connection_is_kept_if_the_end_comes(transport: Transport, rest: bytes) -> None:
    said, left = asyncio.Event(), asyncio.Event()

    async def says(client: Client) -> None:
        try:
            await client.request()
            await client.say(chunked(b"abc").removesuffix(b"0\r\n\r\n"))
            await said.wait()
            await client.say(b"5\r\nafter\r\n", rest)
            await client.request()
            await client.say(HI)
        finally:
            left.set()

    async with serving(says) as server:
        reply = await transport.send(server.to(), BODY, soon())
        assert await reply.read() == b"abc"
        reply.finish()
        await reply.aclose()
        said.set()
        if rest:
            await asyncio.sleep(0.05)
            assert await ask(transport, server) == b"hi"
            assert len(server.clients) == 1
        else:
            await left.wait()  # not for ever


async def test_closing_unread_hangs_up_and_closing_read_does_not(transport: Transport) -> None:
    async with serving(always(HI)) as server:
        reply = await transport.send(server.to(), BODY, soon())
        await reply.aclose()
        await everything(await transport.send(server.to(), BODY, soon()))
        assert len(server.clients) == 1  # all of it had come
    async with serving(always(OK + b"content-length: 9\r\n\r\nabc")) as server:
        for _ in range(2):
            reply = await transport.send(server.to(), BODY, soon())
            await reply.aclose()
            await reply.aclose()
        assert len(server.clients) == 2


async def test_the_end_ends_what_is_under_way() -> None:
    transport = Transport()
    async with serving(always(OK + b"content-length: 9\r\n\r\nabc")) as server, asyncio.timeout(10):
        reply = await transport.send(server.to(), BODY, soon())
        assert await reply.read() == b"abc"
        reading = asyncio.create_task(reply.read())
        await asyncio.sleep(0)
        await transport.aclose()
        with pytest.raises(httpx2.ReadError):
            await reading
        await reply.aclose()
        await transport.aclose()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of localhost, signed by itself."""
    made = tmp_path_factory.mktemp("tls") / "both.pem"
    new = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost"]
    try:
        subprocess.run([*new, *names, "-keyout", made, "-out", f"{made}.crt"], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no openssl here")
    made.write_text(made.read_text() + Path(f"{made}.crt").read_text())
    return made


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


async def test_over_tls(tls: ssl.SSLContext, certificate: Path) -> None:
    said = chunked(b"abc" * 50_000, b"def")
    async with (
        serving(always(said), tls=tls) as server,
        aclosing(Transport(ssl.create_default_context(cafile=str(certificate)))) as transport,
        asyncio.timeout(20),
    ):
        for _ in range(3):
            reply = await transport.send(server.to(host="localhost"), bytes(200_000), soon())
            assert await everything(reply) == b"abc" * 50_000 + b"def"
        assert len(server.clients) == 1
        with pytest.raises(httpx2.ConnectError, match=r"127\.0\.0\.1"):  # the certificate names another host
            await transport.send(server.to(), BODY, soon())


async def test_a_certificate_of_nobodys_is_refused(transport: Transport, tls: ssl.SSLContext) -> None:
    async with serving(always(HI), tls=tls) as server:
        with pytest.raises(httpx2.ConnectError, match="certificate"):
            await transport.send(server.to(host="localhost"), BODY, soon())


async def test_a_server_that_is_not_secure(transport: Transport) -> None:
    async with serving(always(HI)) as server:
        server.secure = True
        with pytest.raises(httpx2.TransportError):
            await transport.send(server.to(), BODY, soon(5), connect_s=0.5)


async def test_a_handshake_that_never_ends(transport: Transport) -> None:
    async with serving(Client.left) as server:
        server.secure = True
        with pytest.raises(httpx2.ConnectTimeout):
            await transport.send(server.to(), BODY, soon(), connect_s=0.1)


async def test_ipv6(transport: Transport) -> None:
    try:
        async with serving(always(HI), host="::1") as server:
            reply = await transport.send(server.to(host="[::1]"), BODY, soon())
            assert await everything(reply) == b"hi"
    except OSError:
        pytest.skip("no IPv6 here")


def address(family: int, port: int, host: str = "127.0.0.1") -> Address:
    return (family, socket.SOCK_STREAM, 0, "", (host, port))


def test_families_take_turns() -> None:
    six, four = socket.AF_INET6, socket.AF_INET
    found = [address(six, 1), address(six, 2), address(six, 3), address(four, 4)]
    assert [entry[4][1] for entry in families_in_turn(found)] == [1, 4, 2, 3]
    assert families_in_turn(found[:1]) == found[:1]


async def test_an_address_that_leads_nowhere_costs_little() -> None:
    full = socket.socket()  # its queue is full: whoever knocks is left waiting
    full.bind(("127.0.0.1", 0))
    full.listen(0)
    fillers = []
    for _ in range(4):
        fillers.append(filler := socket.socket())
        filler.setblocking(False)
        filler.connect_ex(full.getsockname())
    refused = socket.socket()
    refused.bind(("127.0.0.1", 0))  # and does not listen
    async with serving(always(HI)) as server, asyncio.timeout(10):
        ports = [full.getsockname()[1], refused.getsockname()[1], server.port]
        made = await race([address(socket.AF_INET, port) for port in ports], 0.01)
        assert made.getpeername()[1] == server.port
        made.close()
        with pytest.raises(ConnectionRefusedError):
            await race([address(socket.AF_INET, ports[1])] * 2)
    for one in (full, refused, *fillers):
        one.close()


async def test_a_name_that_cannot_be_one() -> None:
    with pytest.raises((OSError, ValueError)):
        await dial("a" * 300 + ".invalid", 1, Resolver())
    assert target("POST", httpx2.URL("http://x/"), []).origin.port == 80
