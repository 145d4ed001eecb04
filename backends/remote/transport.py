"""httpx2 over aiohttp's connections: of the transports that were measured, the one that costs least.

httpx2 stays what the code speaks: its requests, responses and errors. Its client is left out, which would cost more
than all the rest: a provider needs no cookies, no redirects (they would leave for hosts that nobody allowed) and no
authentication flows.
"""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import httpx2
from yarl import URL

KEEP_ALIVE_S = 15.0
LINGER_S = 1.0  # for the end of a body of which all that matters was read
READ_BYTES = 1 << 16
OUTDATED = (b"content-encoding", b"content-length", b"transfer-encoding")


class AiohttpTransport(httpx2.AsyncBaseTransport):
    """Connections are made on first use and kept for `KEEP_ALIVE_S`. Belongs to one event loop. Nothing is ever sent
    twice: aiohttp repeats idempotent methods only, and a POST is none."""

    def __init__(self, verify: ssl.SSLContext | None = None, *, limit: int = 0) -> None:
        """`limit`: connections at once, to all hosts together; 0: as many as there are requests."""
        self._verify = verify
        self._limit = limit
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Returns once the head is there; the response's stream is a `Body`. Raises httpx2's `TransportError`s."""
        timeout: dict[str, Any] = request.extensions.get("timeout", {})
        secure = request.url.scheme == "https"
        try:
            response = await self._open().request(
                request.method,
                URL(str(request.url), encoded=True),
                data=await request.aread(),
                headers=[(key.decode("ascii"), value.decode("latin-1")) for key, value in request.headers.raw],
                allow_redirects=False,
                ssl=self._context() if secure else True,
                timeout=aiohttp.ClientTimeout(
                    total=None,
                    connect=timeout.get("pool"),
                    sock_connect=timeout.get("connect"),
                    sock_read=timeout.get("read"),
                ),
            )
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise _translated(error, request) from error
        headers: tuple[tuple[bytes, bytes], ...] = response.raw_headers
        if "Content-Encoding" in response.headers:  # undone already
            headers = tuple(pair for pair in headers if pair[0].lower() not in OUTDATED)
        return httpx2.Response(response.status, headers=list(headers), stream=Body(response, request), request=request)

    async def aclose(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _context(self) -> ssl.SSLContext:
        """Made when it is needed: reading the authorities takes tens of milliseconds."""
        if self._verify is None:
            self._verify = httpx2.create_ssl_context()
        return self._verify

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._limit, keepalive_timeout=KEEP_ALIVE_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
                read_bufsize=READ_BYTES,
            )
        return self._session


class Body(httpx2.AsyncByteStream):
    """An answer's bytes, decompressed. One timer bounds all its waits: it is moved forward by a plain assignment."""

    __slots__ = ("_lingers", "_loop", "_request", "_response", "_timer", "_until", "_waits")

    def __init__(self, response: aiohttp.ClientResponse, request: httpx2.Request) -> None:
        self._response = response
        self._request = request
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._until = math.inf
        self._waits = False
        self._lingers = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self.read():
            yield data

    async def read(self, until: float = math.inf) -> bytes:
        """The next bytes; none at the end.

        Args:
            until: the loop's time (s) at which to give up.

        Raises:
            httpx2.TransportError: `ReadTimeout` if it gave up.
        """
        if until <= self._loop.time():
            raise httpx2.ReadTimeout("out of time", request=self._request)
        self._until = until
        if until < math.inf:
            self._watch(until)
        self._waits = True
        try:
            return await self._response.content.readany()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _translated(error, self._request) from error
        finally:
            self._waits = False

    def finish(self) -> None:
        """All that matters was read. The connection returns to the pool as soon as the body's end is there too."""
        if not self._response.content.is_eof():
            self._lingers = True
            self._loop.call_later(LINGER_S, self._response.close)

    async def aclose(self) -> None:
        """Unread bytes: the connection is closed, which tells the other end that nobody listens. Read to the end: it
        went back to the pool by itself."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._lingers:
            self._response.close()

    def _watch(self, until: float) -> None:
        if self._timer is not None:
            if self._timer.when() <= until:
                return  # when it rings, it will see that there is time left
            self._timer.cancel()
        self._timer = self._loop.call_at(until, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if not self._waits:
            return  # a slow reader is not the provider's fault; the next read winds it up again
        if self._loop.time() < self._until:
            self._watch(self._until)
        else:
            self._response.content.set_exception(aiohttp.SocketTimeoutError("out of time"))


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
