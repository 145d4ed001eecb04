"""A gateway in this process, with scripted backends, and two ways to talk to it: httpx2 and bare ASGI."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
from starlette.types import ASGIApp, Message, Scope

from backends.base import Backend
from backends.fake import FakeBackend
from gateway.app import build_app
from gateway.config import load_config
from gateway.hang_up import EXTENSION, HangUp
from gateway.reload import Gateway
from policies.base import Route

AppMaker = Callable[..., Gateway]
HELLO = {"model": "auto", "messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture
def make_app(tmp_path: Path) -> Iterator[AppMaker]:
    """An app with these backends and this configuration."""
    made: list[Gateway] = []

    def make(
        *backends: Backend,
        config: str = "",
        env: dict[str, str] | None = None,
        remote: Sequence[tuple[Route, Backend]] | None = None,
    ) -> Gateway:
        file = tmp_path / "outstation.toml"
        file.write_text(config, encoding="utf-8")
        settings = load_config(file, environ={"OUTSTATION_HOME": str(tmp_path), **(env or {})})
        made.append(build_app(settings, backends or [FakeBackend()], remote=remote))
        return made[-1]

    yield make
    for app in made:
        app.shared.library.close()  # its threads would outlive an app that nobody has started


@pytest.fixture
def connect() -> Callable[[ASGIApp], httpx2.AsyncClient]:
    """An HTTP client of an app."""
    return lambda app: httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://localhost:8484")


@asynccontextmanager
async def living(app: ASGIApp) -> AsyncIterator[ASGIApp]:
    """The app between its startup and its shutdown: models load, the audit is open."""
    told: asyncio.Queue[Message] = asyncio.Queue()
    said: asyncio.Queue[Message] = asyncio.Queue()
    task = asyncio.create_task(app({"type": "lifespan"}, told.get, said.put))  # type: ignore[arg-type]
    await told.put({"type": "lifespan.startup"})
    assert (await said.get())["type"] == "lifespan.startup.complete"
    try:
        yield app
    finally:
        await told.put({"type": "lifespan.shutdown"})
        assert (await said.get())["type"] == "lifespan.shutdown.complete"
        await task


@dataclass
class Exchange:
    """One request over bare ASGI: what was sent, as it was sent, and a way to hang up."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    complete: bool = False
    began: asyncio.Event = field(default_factory=asyncio.Event)
    hang_up: HangUp = field(default_factory=HangUp)
    task: asyncio.Task[None] | None = None

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    async def until_contains(self, text: bytes) -> None:
        """Until `text` has arrived."""
        async with asyncio.timeout(5):
            while text not in self.body:
                await asyncio.sleep(0.001)

    async def end(self) -> None:
        """Until the app has returned."""
        assert self.task is not None
        async with asyncio.timeout(5):
            await self.task


Opener = Callable[..., Exchange]


@pytest.fixture
def exchange() -> Opener:
    """Begins a request; the app runs in a task of its own."""

    def begin(app: ASGIApp, body: object = HELLO, path: str = "/v1/chat/completions", **headers: str) -> Exchange:
        made = Exchange()
        parts = [orjson.dumps(body)]

        async def receive() -> Message:
            if parts:
                return {"type": "http.request", "body": parts.pop(), "more_body": False}
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                made.status = message["status"]
                made.headers = {key.decode(): value.decode() for key, value in message["headers"]}
                made.began.set()
            else:
                made.body += message.get("body", b"")
                made.complete = not message.get("more_body", False)

        raw = [(b"host", b"localhost")] + [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
        scope: Scope = {
            "type": "http", "method": "POST", "path": path, "headers": raw, "query_string": b"", "root_path": "",
            "http_version": "1.1", "extensions": {EXTENSION: made.hang_up},
            "scheme": "http", "server": ("localhost", 8484), "client": ("127.0.0.1", 1),
        }  # fmt: skip
        made.task = asyncio.create_task(app(scope, receive, send))  # type: ignore[arg-type]
        return made

    return begin
