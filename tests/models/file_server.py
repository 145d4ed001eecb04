"""A real HTTP server on loopback that serves one file well or badly, as the test says."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Site:
    """How the server behaves, and what it was asked.

    Attributes:
        cuts: for each answer in turn, how many bytes are sent before the connection is cut; then whole answers.
        claim: a Content-Length to give instead of the true one.
        answers: for each request in turn, a status to answer with an empty body; None: serve the file.
        stall: waited for in the middle of a body.
        wrong_range: answer 206 with another range than was asked for.
    """

    content: bytes
    etag: str = '"v1"'
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)
    claim: int | None = None
    chunked: bool = False
    answers: list[int | None] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    redirect_to: str = ""
    wrong_range: bool = False
    stall: threading.Event | None = None
    url: str = ""
    seen: list[dict[str, str]] = field(default_factory=list)

    def requested_ranges(self) -> list[str]:
        """The `Range` header of each request; empty where there was none."""
        return [headers.get("range", "") for headers in self.seen]


@contextlib.contextmanager
def serving(site: Site) -> Iterator[Site]:
    """Serve `site` at `site.url` until the block ends."""

    class Handler(_Handler):
        behaviour = site

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_port}/models/tiny.gguf"
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    behaviour: Site
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        site = self.behaviour
        site.seen.append({key.lower(): value for key, value in self.headers.items()})
        status = site.answers.pop(0) if site.answers else None
        if site.redirect_to:
            self._finish(302, {"Location": site.redirect_to}, b"")
        elif status is not None:
            self._finish(status, {}, b"")
        else:
            self._serve(site)

    def _serve(self, site: Site) -> None:
        start = self._start(site)
        if start is not None and start >= len(site.content):
            self._finish(416, {"Content-Range": f"bytes */{len(site.content)}"}, b"")
            return
        body = site.content[start or 0 :]
        headers = {"ETag": site.etag} if site.etag else {}
        if start is not None:
            told = start + 1 if site.wrong_range else start
            headers["Content-Range"] = f"bytes {told}-{len(site.content) - 1}/{len(site.content)}"
        self._finish(206 if start is not None else 200, headers | site.headers, body)

    def _start(self, site: Site) -> int | None:
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        condition = self.headers.get("If-Range")
        if not match or not site.ranges or (condition and condition != site.etag):
            return None
        return int(match[1])

    def _finish(self, status: int, headers: dict[str, str], body: bytes) -> None:
        site = self.behaviour
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        if site.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(body) if site.claim is None else site.claim))
        self.end_headers()
        cut = site.cuts.pop(0) if site.cuts and body else None
        sent = body if cut is None else body[:cut]
        with contextlib.suppress(ConnectionError):
            if site.stall and not site.stall.is_set() and sent:
                self.wfile.write(sent[: len(sent) // 2])
                site.stall.wait(30)
                sent = sent[len(sent) // 2 :]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(sent), sent) if site.chunked and sent else sent)
            if site.chunked and cut is None:
                self.wfile.write(b"0\r\n\r\n")
        if cut is not None or (site.claim or 0) > len(body):
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Say nothing."""
