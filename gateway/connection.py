"""A client's connection: uvicorn's, with bounds on the head of a request, which uvicorn would await for ever."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from backends.errors import InvalidRequest
from gateway.errors import error_body
from gateway.gathered import Gathered
from gateway.hang_up import EXTENSION, HangUp

HEAD_BYTES = 128 * 1024


class Connection(HttpToolsProtocol):
    """Hangs up on a client that says nothing, or never ends its request's head: each costs a file descriptor."""

    head_timeout_s = 30.0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._in_head = False
        self._leaving = HangUp()

    @property
    def _answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(Gathered(transport, self.loop))
        self._await_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.transport.is_closing() or self._answering:
            return
        # Nothing yet, a part of a head, or the rest of a body whose request was refused.
        self._await_head()
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self._hang_up()

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()
        self.scope["extensions"] = {EXTENSION: self._leaving}  # type: ignore[dict-item]  # ASGI has dicts there

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._forget_head()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_head()
        super().connection_lost(exc)
        self._leaving.tell()

    def send_400_response(self, msg: str) -> None:
        """To what is no HTTP: uvicorn would say it in plain text."""
        body = error_body(InvalidRequest("This is no valid HTTP request.", code="invalid_http"))
        head = b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n"
        self.transport.write(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body))
        self.transport.close()

    def _await_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_timeout_s, self._hang_up)

    def _forget_head(self) -> None:
        self._head_bytes = 0
        if self._head_timer:
            self._head_timer.cancel()
            self._head_timer = None

    def _hang_up(self) -> None:
        self._forget_head()
        self.transport.close()
