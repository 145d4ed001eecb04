"""The client of providers: httpx2's URLs, errors and certificates, on connections of our own.

httpx2's client, requests and responses cost several times as much as all the rest; a provider needs no cookies, no
redirects (they would leave for hosts that nobody allowed), no proxies from the environment and no authentication flows.
Nothing is ever sent twice.
"""

from __future__ import annotations

import asyncio
import math
import re
import ssl
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import httpx2

from backends.remote.connection import Connection
from backends.remote.dial import dial
from backends.remote.reply import Reply
from backends.remote.resolve import Resolver

KEEP_ALIVE_S = 15.0
FRAMING = frozenset({"connection", "content-length", "host", "transfer-encoding"})
"""Fields that are the transport's to write."""
NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


class Origin(NamedTuple):
    """Where connections lead."""

    secure: bool
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Target:
    """One method, URL and set of fields, written once for all requests that share them.

    Attributes:
        head: up to the number of the content-length; it holds the key.
    """

    origin: Origin
    head: bytes = field(repr=False)


def target(method: str, url: httpx2.URL, headers: Iterable[tuple[str, str]]) -> Target:
    """Raises `ValueError` for what cannot be a field, or would be more than one."""
    secure = url.scheme == "https"
    if not NAME.fullmatch(method):
        raise ValueError(f"the method {method!r} cannot be sent")
    lines = [f"{method} {url.raw_path.decode('ascii')} HTTP/1.1", f"host: {url.netloc.decode('ascii')}"]
    for name, value in headers:
        if not NAME.fullmatch(name) or not VALUE.fullmatch(value):
            raise ValueError(f"the header {name!r} cannot be sent")
        if name.lower() not in FRAMING:
            lines.append(f"{name}: {value}")
    origin = Origin(secure, url.raw_host.decode("ascii"), url.port or (443 if secure else 80))
    return Target(origin, "\r\n".join([*lines, "content-length: "]).encode("latin-1"))


class Transport:
    """Connections are made when they are needed and kept for a while; the one used last is used next, so that
    what is too many goes away. Belongs to one event loop."""

    def __init__(self, verify: ssl.SSLContext | None = None, *, keep_alive_s: float = KEEP_ALIVE_S) -> None:
        """`verify`: instead of the authorities that httpx2 trusts."""
        self.resolver = Resolver()
        self._keep_alive_s = keep_alive_s
        self._verify = verify
        self._idle: dict[object, list[Connection]] = {}
        self._all: set[Connection] = set()
        self._sweep: asyncio.TimerHandle | None = None

    async def send(self, to: Target, body: bytes, until: float = math.inf, connect_s: float = math.inf) -> Reply:
        """Returns once the head of the answer is there: close the reply.

        Args:
            until: the loop's time (s) at which to give up.
            connect_s: seconds for a connection, if there is none.

        Raises:
            httpx2.TransportError: `ConnectError` and `ConnectTimeout` before anything was sent.
        """
        idle, connection = self._idle.get(to.origin), None
        while idle and connection is None:
            last = idle.pop()
            connection = last if last.usable else None
        if connection is None:
            connection = await self._connect(to.origin, until, connect_s)
        return await connection.ask(b"%b%d\r\n\r\n" % (to.head, len(body)), body, until)

    async def aclose(self) -> None:
        """Closes all connections, at once."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for connection in list(self._all):
            connection.abort()
        await asyncio.sleep(0)  # the event loop lets go of their sockets

    # For connections

    def idle(self, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        self._idle.setdefault(connection.origin, []).append(connection)
        if self._sweep is None:
            self._sweep = loop.call_later(self._keep_alive_s, self._drop_old)

    def gone(self, connection: Connection) -> None:
        self._all.discard(connection)
        idle = self._idle.get(connection.origin)
        if idle and connection in idle:
            idle.remove(connection)

    # Inside

    async def _connect(self, origin: Origin, until: float, connect_s: float) -> Connection:
        loop = asyncio.get_running_loop()
        ends = min(until, loop.time() + connect_s)
        connection = Connection(loop, origin, self)
        self._all.add(connection)
        try:
            async with asyncio.timeout_at(None if ends == math.inf else ends):
                made = await dial(origin.host, origin.port, self.resolver)
                await loop.create_connection(
                    lambda: connection,
                    sock=made,
                    ssl=self._context() if origin.secure else None,
                    server_hostname=origin.host if origin.secure else None,
                )
        except TimeoutError as error:
            connection.abort()
            raise httpx2.ConnectTimeout("no connection in time") from error
        except (OSError, ValueError) as error:  # a bad certificate and a name that is none are among them
            connection.abort()
            raise httpx2.ConnectError(str(error) or type(error).__name__) from error
        except asyncio.CancelledError:
            connection.abort()
            raise
        return connection

    def _context(self) -> ssl.SSLContext:
        """Made when it is needed: reading the authorities takes tens of milliseconds."""
        if self._verify is None:
            self._verify = httpx2.create_ssl_context()
        return self._verify

    def _drop_old(self) -> None:
        """One timer for all idle connections: it rings when the oldest has had its time."""
        self._sweep = None
        loop = asyncio.get_running_loop()
        before = loop.time() - self._keep_alive_s
        for connection in [connection for idle in self._idle.values() for connection in idle]:
            if connection.idle_since <= before:
                connection.abort()
        self._idle = {origin: idle for origin, idle in self._idle.items() if idle}
        if self._idle:
            oldest = min(idle[0].idle_since for idle in self._idle.values())
            self._sweep = loop.call_at(oldest + self._keep_alive_s, self._drop_old)
