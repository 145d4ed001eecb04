"""What a gateway costs at least in Python: bare ASGI apps that pass a request on and the answer back, and no more.

Run with uvicorn: `uvicorn --factory bench.gateways_apps:on_aiohttp`, the upstream's base URL in BENCH_UPSTREAM.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
VARIABLE = "BENCH_UPSTREAM"


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer whose head is there. `whole` reads a counted body at once, `pieces` what comes as it comes."""

    status: int
    media_type: str
    whole: Callable[[], Awaitable[bytes]]
    pieces: Callable[[], AsyncIterator[bytes]]


class Client(Protocol):
    """A connection pool to the upstream."""

    def post(self, path: str, body: bytes) -> AbstractAsyncContextManager[Reply]: ...

    async def aclose(self) -> None: ...


class Passthrough:
    """The app: `GET` is 200, anything else goes to the upstream."""

    def __init__(self, build: Callable[[str], Client]) -> None:
        self._build = build
        self._client: Client | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["method"] == "GET":
            await send(_start(200, b"text/plain", 2))
            await send({"type": "http.response.body", "body": b"ok"})
        else:
            await self._pass(scope["path"], await _body(receive), send)

    async def _pass(self, path: str, body: bytes, send: Send) -> None:
        if self._client is None:
            self._client = self._build(os.environ[VARIABLE])
        async with self._client.post(path, body) as reply:
            media_type = reply.media_type.encode("latin-1")
            if not media_type.startswith(b"text/event-stream"):
                whole = await reply.whole()
                await send(_start(reply.status, media_type, len(whole)))
                await send({"type": "http.response.body", "body": whole})
                return
            await send(_start(reply.status, media_type))
            async for piece in reply.pieces():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if self._client is not None:
            await self._client.aclose()
        await send({"type": "lifespan.shutdown.complete"})


class AiohttpClient:
    """aiohttp, with as many connections as there are requests."""

    def __init__(self, base: str) -> None:
        import aiohttp

        self._base = base
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), auto_decompress=False)

    @asynccontextmanager
    async def post(self, path: str, body: bytes) -> AsyncIterator[Reply]:
        async with self._session.post(self._base + path, data=body, headers=_JSON) as response:
            media_type = response.headers["content-type"]
            yield Reply(response.status, media_type, response.read, response.content.iter_any)

    async def aclose(self) -> None:
        await self._session.close()


class Httpx2Client:
    """httpx2 as it comes, with as many connections as there are requests."""

    def __init__(self, base: str) -> None:
        import httpx2

        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
        self._client = httpx2.AsyncClient(base_url=base, timeout=60.0, limits=limits, trust_env=False)

    @asynccontextmanager
    async def post(self, path: str, body: bytes) -> AsyncIterator[Reply]:
        async with self._client.stream("POST", path, content=body, headers=_JSON) as response:
            yield Reply(response.status_code, response.headers["content-type"], response.aread, response.aiter_raw)

    async def aclose(self) -> None:
        await self._client.aclose()


def on_aiohttp() -> Passthrough:
    """The app on aiohttp."""
    return Passthrough(AiohttpClient)


def on_httpx2() -> Passthrough:
    """The app on httpx2."""
    return Passthrough(Httpx2Client)


_JSON = {"content-type": "application/json"}


def _start(status: int, media_type: bytes, length: int | None = None) -> dict[str, Any]:
    headers = [(b"content-type", media_type)]
    if length is not None:
        headers.append((b"content-length", str(length).encode()))
    return {"type": "http.response.start", "status": status, "headers": headers}


async def _body(receive: Receive) -> bytes:
    message = await receive()
    body: bytes = message.get("body", b"")
    while message.get("more_body"):
        message = await receive()
        body += message.get("body", b"")
    return body
