"""One HTTP/1.1 connection: one request at a time, one timer for all its waits."""

from __future__ import annotations

import asyncio
import math
from typing import Protocol, cast

import httptools
import httpx2

from backends.remote.reply import MAX_HEAD_BYTES, Reply

LINGER_S = 1.0  # for the end of a body of which all that matters was read
UNREAD_BYTES = 1 << 18  # of a body; beyond them the sender has to wait
JOINED_BYTES = 1 << 16  # a request up to this size leaves in one piece with its head


class Owner(Protocol):
    """Where a connection belongs."""

    def idle(self, connection: Connection) -> None:
        """It can carry another request."""

    def gone(self, connection: Connection) -> None:
        """It is closed, or about to be. May come more than once."""


class Connection(asyncio.Protocol):
    """Belongs to its `owner`, except while it carries a request.

    Attributes:
        origin: where it leads.
        idle_since: the loop's time (s) at which it last became idle.
    """

    __slots__ = (
        "_loop", "_owner", "_paused", "_reply", "_rings_at", "_timer", "_transport", "_until", "idle_since", "origin",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop, origin: object, owner: Owner) -> None:
        self.origin = origin
        self.idle_since = 0.0
        self._loop = loop
        self._owner = owner
        self._reply: Reply | None = None
        self._transport: asyncio.Transport | None = None
        self._paused = False
        self._timer: asyncio.TimerHandle | None = None
        self._until = self._rings_at = math.inf

    @property
    def usable(self) -> bool:
        """False from the moment that the event loop knows it is closed, which is before it says so."""
        return self._transport is not None and not self._transport.is_closing()

    async def ask(self, head: bytes, body: bytes, until: float) -> Reply:
        """Sends; returns once the head of the answer is there. Only for an idle connection.

        Raises:
            httpx2.TransportError: `ReadTimeout` at the loop's time `until`.
        """
        assert self._reply is None
        transport = self._transport
        if transport is None or transport.is_closing():
            raise httpx2.RemoteProtocolError("closed before anything was sent")
        reply = self._reply = Reply(self, self._loop)
        if len(body) <= JOINED_BYTES:
            transport.write(head + body)
        else:
            transport.writelines((head, body))
        await reply.begin(until)
        return reply

    def abort(self, error: httpx2.TransportError | None = None) -> None:
        """Closes at once; `error` is what its reply tells whoever waits."""
        transport, self._transport = self._transport, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        reply, self._reply = self._reply, None
        if reply is not None:
            reply.detach(None if reply.ended else error or httpx2.ReadError("closed here"))
        if transport is not None:
            transport.abort()
        self._owner.gone(self)

    # For the reply

    def watch(self, until: float) -> None:
        """Moves the deadline. The timer stays where it is, if it rings before: it will see that there is time left."""
        self._until = until
        if until < self._rings_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(until, self._ring)
            self._rings_at = until

    def resume(self) -> None:
        """The reply has room again."""
        if self._paused:
            self._paused = False
            if self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()

    def linger(self) -> None:
        """Nobody reads the reply any more."""
        self.resume()
        self.watch(self._loop.time() + LINGER_S)

    # For the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        reply = self._reply
        if reply is None:  # nobody has asked
            self.abort()
            return
        if reply.silent > MAX_HEAD_BYTES:
            self.abort(httpx2.RemoteProtocolError("too large a head"))
            return
        reply.silent += len(data)
        try:
            reply.feed(data)
        except httptools.HttpParserError as error:
            reply.reusable = False
            if not reply.ended:
                self.abort(httpx2.RemoteProtocolError(str(error.__context__ or error)))
                return
        if reply.ended:
            self._release(reply)
            return
        if reply.unread > UNREAD_BYTES and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        reply.wake()

    def eof_received(self) -> None:
        self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc)

    # Inside

    def _release(self, reply: Reply) -> None:
        """All of the answer is here."""
        self.resume()
        transport = self._transport
        # Bytes that are still to be sent: it answered before it had heard all.
        if reply.reusable and transport is not None and not transport.get_write_buffer_size():
            self._reply = None
            reply.detach()
            self._owner.idle(self)
        else:
            self.abort()

    def _end(self, error: Exception | None) -> None:
        """The other end closed, or the connection broke."""
        reply = self._reply
        if reply is None:
            self.abort()
        elif not reply.status and not reply.silent:
            self.abort(httpx2.RemoteProtocolError("closed without an answer"))
        elif error is not None:
            self.abort(httpx2.ReadError(str(error)))
        else:
            reply.ended = reply.until_eof
            self.abort(httpx2.RemoteProtocolError("closed in the middle of an answer"))

    def _ring(self) -> None:
        self._timer, self._rings_at = None, math.inf
        reply = self._reply
        if reply is None or not (reply.waits or reply.lingers):
            return  # a slow reader is not the other end's fault; the next wait winds it up again
        if self._loop.time() < self._until:
            self.watch(self._until)
        else:
            self.abort(httpx2.ReadTimeout("out of time"))
