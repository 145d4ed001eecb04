"""httpx2 over aiohttp's connections: of the transports that were measured, the one that costs least (bench/RESULTS.md).

httpx2 stays what the code speaks: its requests, responses, time limits and errors.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import httpx2
from yarl import URL

KEEP_ALIVE_S = 15.0
READ_BYTES = 1 << 16


class AiohttpTransport(httpx2.AsyncBaseTransport):
    """Connections are made on first use and kept for `KEEP_ALIVE_S`. Belongs to one event loop."""

    def __init__(self, verify: ssl.SSLContext | None = None, *, limit: int = 0) -> None:
        """`limit`: connections at once, to all hosts together; 0: as many as there are requests."""
        self._verify = verify
        self._limit = limit
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        timeout: dict[str, Any] = request.extensions.get("timeout", {})
        try:
            response = await self._open().request(
                request.method,
                URL(str(request.url), encoded=True),
                data=await request.aread(),
                headers=[(key.decode("ascii"), value.decode("latin-1")) for key, value in request.headers.raw],
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(
                    total=None,
                    connect=timeout.get("pool"),
                    sock_connect=timeout.get("connect"),
                    sock_read=timeout.get("read"),
                ),
            )
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise _translated(error, request) from error
        return httpx2.Response(
            response.status, headers=list(response.raw_headers), stream=_Body(response, request), request=request
        )

    async def aclose(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                limit=self._limit, keepalive_timeout=KEEP_ALIVE_S, ssl=self._verify or httpx2.create_ssl_context()
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,  # httpx2 does it
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
                read_bufsize=READ_BYTES,
            )
        return self._session


class _Body(httpx2.AsyncByteStream):
    def __init__(self, response: aiohttp.ClientResponse, request: httpx2.Request) -> None:
        self._response = response
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        content = self._response.content
        try:
            while data := await content.readany():
                yield data
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _translated(error, self._request) from error

    async def aclose(self) -> None:
        # Unread bytes: the connection is closed, which tells the other end that nobody listens. Read to the end: it
        # went back to the pool by itself.
        self._response.close()


def _translated(error: Exception, request: httpx2.Request) -> httpx2.TransportError:
    """aiohttp's errors in httpx2's words."""
    kinds: tuple[tuple[type[Exception] | tuple[type[Exception], ...], type[httpx2.TransportError]], ...] = (
        (aiohttp.ConnectionTimeoutError, httpx2.ConnectTimeout),
        (aiohttp.ClientConnectorError, httpx2.ConnectError),
        ((aiohttp.SocketTimeoutError, TimeoutError), httpx2.ReadTimeout),
        ((aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError), httpx2.RemoteProtocolError),
        (aiohttp.ClientResponseError, httpx2.RemoteProtocolError),
    )
    kind = next((to for known, to in kinds if isinstance(error, known)), httpx2.ReadError)
    return kind(str(error) or type(error).__name__, request=request)
