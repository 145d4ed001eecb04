"""A client that never finishes its request's head is hung up on; one that does is served, however long it takes."""

import asyncio
import contextlib
import json

import pytest
import uvicorn

from gateway.connection import HEAD_BYTES, Connection
from gateway.hang_up import HangUp, hang_up_of

pytestmark = pytest.mark.anyio
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Hasty(Connection):
    head_timeout_s = 0.05


class Patient(Connection):
    head_timeout_s = 3600.0


async def slow(scope, receive, send):
    await asyncio.sleep(0.2)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@contextlib.asynccontextmanager
async def served(protocol, app=slow):
    config = uvicorn.Config(app, http=protocol, lifespan="off", log_config=None, timeout_keep_alive=3600)
    config.load()
    state = uvicorn.server.ServerState()

    def made():
        return protocol(config=config, server_state=state, app_state={})

    server = await asyncio.get_running_loop().create_server(made, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    try:
        yield reader, writer
    finally:
        writer.close()
        server.close()


async def answer(reader):
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    return head, await asyncio.wait_for(reader.readexactly(2), 10)


@pytest.mark.parametrize("said", [b"", b"\r\n", b"GET", GET[:-1]], ids=repr)
async def test_a_head_that_never_ends_is_not_awaited(said):
    async with served(Hasty) as (reader, writer):
        writer.write(said)
        assert await asyncio.wait_for(reader.read(), 10) == b""


async def test_nor_is_that_of_a_later_request():
    async with served(Hasty) as (reader, writer):
        writer.write(GET)
        assert (await answer(reader))[1] == b"ok"
        writer.write(GET[:-1])
        assert await asyncio.wait_for(reader.read(), 10) == b""


async def test_a_request_under_way_is_not_cut():
    async with served(Hasty) as (reader, writer):
        for _ in range(2):
            writer.write(GET)
            head, body = await answer(reader)
            assert (head[:15], body) == (b"HTTP/1.1 200 OK", b"ok")


async def test_an_endless_head_is_cut():
    async with served(Patient) as (reader, writer):
        writer.write(GET[:-2] + b"X: ")
        with contextlib.suppress(ConnectionError):
            for _ in range(HEAD_BYTES // 1000 + 10):
                writer.write(b"x" * 1000)
                await writer.drain()
                await asyncio.sleep(0)
            assert await asyncio.wait_for(reader.read(), 10) == b""


async def test_the_rest_of_a_refused_body_is_no_head():
    async with served(Patient) as (reader, writer):
        size = 8 * HEAD_BYTES
        writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % size)
        assert (await answer(reader))[1] == b"ok"
        writer.write(b"x" * size + GET)
        assert (await answer(reader))[1] == b"ok"


async def test_what_is_no_http_is_refused_in_the_shape_of_the_api():
    async with served(Patient) as (reader, writer):
        writer.write(b"no such thing\r\n\r\n")
        head, _, body = (await asyncio.wait_for(reader.read(), 10)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"content-length: %d" % len(body) in head
    assert json.loads(body)["error"]["code"] == "invalid_http"


async def test_a_request_is_told_when_its_client_has_gone():
    left = asyncio.Event()

    async def waits(scope, receive, send):
        hang_up_of(scope).listen(left.set)
        await left.wait()

    async with served(Patient, waits) as (_, writer):
        writer.write(GET)
        await writer.drain()
        assert not left.is_set()
        writer.close()
        async with asyncio.timeout(10):
            await left.wait()


async def test_one_that_listens_too_late_is_told_at_once():
    hang_up, told = HangUp(), []
    hang_up.tell()
    hang_up.listen(lambda: told.append(1))
    assert told == [1]


async def test_one_that_has_forgotten_is_not_told():
    hang_up, told = HangUp(), []

    def listener():
        told.append(1)

    hang_up.listen(listener)
    hang_up.forget(listener)
    hang_up.tell()
    assert told == []
