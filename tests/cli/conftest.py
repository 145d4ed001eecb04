"""Fixtures for the commands: a temporary home, the command itself, and a scripted gateway on loopback."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from backends.models.store import LocalModel, Origin, Store
from gateway.cli import cli
from tests.models.gguf_writer import gguf

Outstation = Callable[..., Result]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own for every test, and no configuration from around it."""
    for name in ("OUTSTATION_CONFIG", "OUTSTATION_URL", "OUTSTATION_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OUTSTATION_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture
def outstation() -> Outstation:
    """Runs a command: `outstation("pull", "x", piped="...")`."""

    def invoke(*arguments: str, piped: str | None = None) -> Result:
        return CliRunner().invoke(cli, arguments, input=piped, prog_name="outstation")

    return invoke


@pytest.fixture
def tiny(home: Path) -> LocalModel:
    """A tiny model in the store, by the name `tiny`."""
    store = Store(home)
    store.prepare(0)
    store.part("tiny").write_bytes(gguf())
    return store.add(
        "tiny", store.part("tiny"), Origin("a test", "0" * 64, "mit", {"top_p": 0.5}), created=1_800_000_000
    )


@dataclass
class FakeGateway:
    """What the scripted gateway answers, and what it was asked.

    Attributes:
        stream: the pieces of the body of a chat completion, flushed one by one.
        refusal: a status and an error message instead.
        hold: waited for before the last piece of a stream.
    """

    url: str = ""
    stream: list[bytes] = field(default_factory=list)
    refusal: tuple[int, str] | None = None
    status: dict[str, Any] = field(default_factory=lambda: {"version": "0", "uptime_s": 1.0, "models": []})
    hold: threading.Event | None = None
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)


def delta(text: str) -> bytes:
    """A chunk with a piece of an answer."""
    chunk = {
        "model": "tiny",
        "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}],
        "usage": None,
    }
    return b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"


USAGE = (
    b'data: {"model": "tiny", "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 3, '
    b'"prompt_tokens_details": {"cached_tokens": 4}}}\n\n'
)
DONE = b"data: [DONE]\n\n"


class _Handler(BaseHTTPRequestHandler):
    behaviour: FakeGateway

    def do_GET(self) -> None:
        self.behaviour.keys.append(self.headers.get("Authorization", ""))
        if self.path in ("/healthz", "/outstation/status"):
            self._send(*self.behaviour.refusal) if self.behaviour.refusal else self._json(200, self.behaviour.status)
        else:
            self._send(404, "no such page")

    def do_POST(self) -> None:
        self.behaviour.keys.append(self.headers.get("Authorization", ""))
        self.behaviour.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        if self.behaviour.refusal:
            self._send(*self.behaviour.refusal)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for number, piece in enumerate(self.behaviour.stream, start=1):
            if self.behaviour.hold and number == len(self.behaviour.stream):
                self.behaviour.hold.wait(30)
            try:
                self.wfile.write(piece)
                self.wfile.flush()
            except ConnectionError:
                return

    def _send(self, status: int, message: str) -> None:
        self._json(status, {"error": {"message": message, "type": "x", "param": None, "code": None}})

    def _json(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGateway]:
    """A scripted gateway that the commands find through OUTSTATION_URL."""
    behaviour = FakeGateway(stream=[delta("Hello"), delta(", site."), USAGE, DONE])
    handler = type("Handler", (_Handler,), {"behaviour": behaviour})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    behaviour.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("OUTSTATION_URL", behaviour.url)
    try:
        yield behaviour
    finally:
        if behaviour.hold:
            behaviour.hold.set()
        server.shutdown()
        thread.join()
        server.server_close()
