"""A server on loopback that says exactly the bytes that a test tells it to."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx2

from backends.remote.reply import Reply
from backends.remote.transport import Target, target

OK = b"HTTP/1.1 200 OK\r\n"
BODY = b'{"a": "b"}'
Says = Callable[["Client"], Awaitable[None]]


@dataclass
class Client:
    """One connection, as the server has it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    number: int

    async def request(self) -> tuple[bytes, bytes]:
        """(head, body) of the next request; raises `IncompleteReadError` if the client has left."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        size = int(head.lower().rpartition(b"content-length:")[2].split(b"\r\n")[0])
        return head, await self.reader.readexactly(size)

    async def say(self, *pieces: bytes) -> None:
        """Each piece in a packet of its own, as far as the network lets it."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(0)

    async def left(self) -> None:
        """Returns when the client has closed."""
        try:
            while await self.reader.read(65_536):
                pass
        except ConnectionError:
            pass


@dataclass
class RawServer:
    """Where it listens, and what came of it."""

    port: int = 0
    clients: list[Client] = field(default_factory=list)
    secure: bool = False

    def to(self, path: str = "/v1/x", host: str = "127.0.0.1", headers: dict[str, str] | None = None) -> Target:
        scheme = "https" if self.secure else "http"
        return target("POST", httpx2.URL(f"{scheme}://{host}:{self.port}{path}"), (headers or {}).items())


@asynccontextmanager
async def serving(
    says: Says, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> AsyncIterator[RawServer]:
    """Calls `says` for each connection, which is closed after it."""
    made = RawServer(secure=tls is not None)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        made.clients.append(client := Client(reader, writer, len(made.clients)))
        try:
            await says(client)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, host, 0, ssl=tls)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def always(*pieces: bytes) -> Says:
    """Answers every request alike."""

    async def says(client: Client) -> None:
        while True:
            await client.request()
            await client.say(*pieces)

    return says


def once(*pieces: bytes) -> Says:
    """Answers one request, then hangs up."""

    async def says(client: Client) -> None:
        await client.request()
        await client.say(*pieces)

    return says


def sized(body: bytes, *fields: bytes) -> bytes:
    """A whole answer with its length."""
    return OK + b"".join(f + b"\r\n" for f in (*fields, b"content-length: %d" % len(body))) + b"\r\n" + body


def chunked(*chunks: bytes, fields: bytes = b"", extension: bytes = b"", trailers: bytes = b"") -> bytes:
    """A whole answer in chunks."""
    parts = b"".join(b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
    return OK + fields + b"transfer-encoding: chunked\r\n\r\n" + parts + b"0\r\n" + trailers + b"\r\n"


async def everything(reply: Reply) -> bytes:
    """Its body."""
    try:
        parts = []
        while data := await reply.read():
            parts.append(data)
        return b"".join(parts)
    finally:
        await reply.aclose()


def soon(seconds: float = 10.0) -> float:
    """The loop's time then."""
    return asyncio.get_running_loop().time() + seconds
