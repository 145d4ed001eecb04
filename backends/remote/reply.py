"""What comes back over a connection for one request: parsed as it arrives, read as it is wanted."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import httptools
import httpx2

from backends.remote.unpack import PackedBadlyError, Unpacker

if TYPE_CHECKING:
    from backends.remote.connection import Connection

MAX_HEAD_BYTES = 1 << 16
MAX_FIELDS = 256
BODILESS = frozenset({204, 304})


class Reply:
    """An answer, from before its first byte on. Its connection feeds it; whoever asked reads it and closes it.

    Attributes:
        feed: takes bytes; raises `httptools.HttpParserError`.
        status: 0 until the head is there.
        raw: the head's fields as they came.
        ended: all of the body has arrived, though perhaps not been read.
        unread: bytes of the body that wait to be read.
        silent: bytes since the last one of a body; a head, or a chunk's head, that never ends shows here.
        lingers: nobody reads any more; only the body's end is waited for.
        reusable: its head allows another request on the same connection.
        until_eof: the end of the connection is the end of its body.
    """

    __slots__ = (
        "__weakref__", "_connection", "_error", "_head_bytes", "_loop", "_packing", "_parser", "_parts", "_unpacker",
        "_waiter", "ended", "feed", "lingers", "raw", "reusable", "silent", "status", "unread", "until_eof",
    )  # fmt: skip

    def __init__(self, connection: Connection, loop: asyncio.AbstractEventLoop) -> None:
        self.status = self.unread = self.silent = self._head_bytes = 0
        self.raw: list[tuple[bytes, bytes]] = []
        self.ended = self.lingers = self.reusable = self.until_eof = False
        self._parts: list[bytes] = []
        self._packing = ""
        self._unpacker: Unpacker | None = None
        self._error: httpx2.TransportError | None = None
        self._connection: Connection | None = connection
        self._loop = loop
        self._waiter: asyncio.Future[None] | None = None
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self.feed: Callable[[bytes], None] = self._parser.feed_data

    @property
    def headers(self) -> dict[str, str]:
        """By their names in lower case; fields that came several times are joined."""
        fields: dict[str, str] = {}
        for key, value in self.raw:
            name, text = key.decode("latin-1").lower(), value.decode("latin-1")
            fields[name] = f"{fields[name]}, {text}" if name in fields else text
        return fields

    # For whoever asked

    async def begin(self, until: float) -> None:
        """Waits for the head. Raises as `read` does."""
        while not self.status:
            if self._error is not None:
                raise self._error
            await self._wait(until)

    async def read(self, until: float = math.inf) -> bytes:
        """The next bytes, as many as there are; none at the end.

        Args:
            until: the loop's time (s) at which to give up.

        Raises:
            httpx2.TransportError: `ReadTimeout` if it gave up.
        """
        if until <= self._loop.time():
            self._drop()
            raise httpx2.ReadTimeout("out of time")
        while True:
            if self._packing:
                if data := self._unpacked():
                    return data
            elif self._parts:
                return self._take()
            if self.ended:
                return b""
            if self._error is not None:
                raise self._error
            await self._wait(until)

    def finish(self) -> None:
        """All that matters was read. The connection is kept as soon as the body's end is there too."""
        if self._connection is not None:
            self.lingers = True
            self._parts, self.unread = [], 0
            self._connection.linger()

    async def aclose(self) -> None:
        """Before the body's end: closes the connection, which tells the other end that nobody listens."""
        if not self.lingers:
            self._drop()

    # For the connection

    @property
    def waits(self) -> bool:
        """Whether somebody waits for news."""
        return self._waiter is not None

    def wake(self) -> None:
        """There is news."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def detach(self, error: httpx2.TransportError | None = None) -> None:
        """No more will come, by `error` if this is not the end."""
        self._connection = self._parser = None
        self.feed = _deaf  # ends a cycle: the parser holds this object's methods
        self.ended = self.ended or error is None
        self._error = error
        self.wake()

    # For the parser

    def on_message_begin(self) -> None:
        if self.ended:
            raise ValueError("a second answer to one request")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > MAX_HEAD_BYTES or len(self.raw) >= MAX_FIELDS:
            raise ValueError("too large a head")
        if not self.status:  # else it is a trailer
            self.raw.append((name, value))

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        if status < 200:
            if status < 100 or status == 101:
                raise ValueError(f"status {status}, which nobody asked for")
            self.raw.clear()  # the real head follows
            return
        sized = False
        for key, value in self.raw:
            name = key.lower()
            if name == b"content-length":
                sized = True
            elif name == b"transfer-encoding":
                if value.lower() != b"chunked":
                    raise ValueError("a transfer-encoding that nobody asked for")
                sized = True
            elif name == b"content-encoding" and value.lower() != b"identity":
                self._packing = value.decode("latin-1").lower()
        self.status = status
        self.reusable = self._parser.should_keep_alive()
        self.until_eof = not sized and status not in BODILESS

    def on_body(self, data: bytes) -> None:
        self.silent = 0
        if not self.lingers:
            self._parts.append(data)
            self.unread += len(data)

    def on_message_complete(self) -> None:
        if self.status:
            self.ended = True

    # Inside

    async def _wait(self, until: float) -> None:
        assert self._connection is not None
        self._connection.watch(until)
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        except asyncio.CancelledError:
            self._drop()
            raise
        finally:
            self._waiter = None

    def _take(self) -> bytes:
        parts = self._parts
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        self._parts, self.unread = [], 0
        if self._connection is not None:
            self._connection.resume()
        return data

    def _unpacked(self) -> bytes:
        """The next bytes of a packed body; none until more has come."""
        try:
            if self._unpacker is None and self._parts:
                self._unpacker = Unpacker(self._packing)
            if self._unpacker is None:
                return b""
            while self._parts or self._unpacker.pending:
                if data := self._unpacker.feed(b"" if self._unpacker.pending else self._take()):
                    return data
            if self.ended:
                self._unpacker.end()
        except PackedBadlyError as error:
            self._drop()
            raise httpx2.RemoteProtocolError(str(error)) from None
        return b""

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.abort()


def _deaf(data: bytes) -> None:
    """Nothing comes any more."""
