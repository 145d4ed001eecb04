"""A whole gateway between startup and shutdown: a box's model, providers behind fault proxies, an open audit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from backends.base import Backend
from gateway.audit_reader import decisions, ledger
from gateway.audit_rows import Decision, Departure
from gateway.audit_verify import Verification, verify
from gateway.reload import Gateway
from tests.gateway.conftest import AppMaker, Exchange, Opener, exchange, living, make_app
from tests.remote.conftest import real_provider, remote_model_file

__all__ = ["exchange", "make_app", "real_provider", "remote_model_file"]

LONGEST_S = 60.0  # of one answer, on a machine that does much else
KEY = "sk-planted-0123456789"
M = [{"role": "user", "content": "Say hello."}]
SHORT = {"first_token_timeout_s": 0.3, "idle_timeout_s": 0.3, "total_timeout_s": 0.6}
ALLOW = 'default = "allow"'
REMOTE = {"locality": "prefer_remote"}


def provider(
    name: str,
    *urls: str,
    model: str = "large",
    data: str = ALLOW,
    quality: float = 0.0,
    price: float = 0.0,
    **more: float,
) -> str:
    """A `[[providers]]` of the configuration, with one model. `more`: its time limits."""
    bounds = {"connect_timeout_s": 1.0, "first_token_timeout_s": 10.0, "idle_timeout_s": 10.0, **more}
    return f"""
[[providers]]
name = "{name}"
base_url = {list(urls)}
key_file = "key"
data = {{ {data} }}
{chr(10).join(f"{key} = {float(value)}" for key, value in bounds.items())}
[[providers.models]]
name = "{model}"
context_length = 100_000
input_price = {float(price)}
output_price = {float(price)}
capabilities = ["tools", "logprobs", "structured_output"]
quality = {float(quality)}
"""


@dataclass(frozen=True)
class Whole:
    """The gateway, and what it leaves behind."""

    app: Gateway
    home: Path
    begin: Opener

    async def ask(
        self, path: str = "/v1/chat/completions", *, headers: dict[str, str] | None = None, **fields: Any
    ) -> Exchange:
        """One request to its end, over bare ASGI."""
        start = {"model": "auto"} | ({"messages": M} if "chat" in path else {})
        begun = self.begin(self.app, {**start, **fields}, path, **(headers or {}))
        assert begun.task is not None
        async with asyncio.timeout(LONGEST_S):
            await begun.task
        return begun

    def sdk(self) -> openai.AsyncOpenAI:
        """The official client, on this app. It never tries again by itself."""
        return client(httpx2.ASGITransport(app=self.app))

    def decisions(self) -> list[Decision]:
        """What the audit says of requests. Look after the gateway has ended, or after `settled`."""
        return list(decisions(self.home / "audit.db", 0.0))

    def ledger(self) -> list[Departure]:
        """What the audit says has left."""
        return list(ledger(self.home / "audit.db"))

    def verified(self) -> Verification:
        """What `outstation audit verify` finds."""
        return verify(self.home / "audit.db")


Opened = Callable[..., AbstractAsyncContextManager[Whole]]


@pytest.fixture
def site(make_app: AppMaker, exchange: Opener, tmp_path: Path) -> Opened:
    """`async with site(backend, config=...) as gateway`."""

    @asynccontextmanager
    async def opened(*local: Backend, config: str = "") -> AsyncIterator[Whole]:
        (tmp_path / "key").write_text(KEY, encoding="utf-8")
        app = make_app(*local, config=config)
        async with living(app):
            yield Whole(app, tmp_path, exchange)

    return opened


def client(transport: httpx2.AsyncBaseTransport) -> openai.AsyncOpenAI:
    """The official client over a transport."""
    http = httpx2.AsyncClient(transport=transport)
    return openai.AsyncOpenAI(base_url="http://localhost:8484/v1", api_key="none", max_retries=0, http_client=http)


def replayed(begun: Exchange) -> openai.AsyncOpenAI:
    """The official client, which gets the bytes of an exchange that has ended."""
    headers = {name: value for name, value in begun.headers.items() if name != "content-length"}
    return client(httpx2.MockTransport(lambda _: httpx2.Response(begun.status, headers=headers, content=begun.body)))


@dataclass
class Told:
    """What a developer gets out of the official client.

    Attributes:
        chunks: of a stream.
        error: that ended it, before or amid the answer.
    """

    texts: dict[int, str]
    finished: dict[int, str]
    chunks: list[Any]
    error: openai.APIError | None = None
    usage: Any = None

    @property
    def text(self) -> str:
        return self.texts.get(0, "")


async def told(sdk: openai.AsyncOpenAI, stream: bool, **fields: Any) -> Told:
    """The answer to a chat as the official client has it."""
    said = Told({}, {}, [])
    try:
        made: Any = await sdk.chat.completions.create(stream=stream, **{"model": "auto", "messages": M, **fields})
        if not stream:
            said.usage = made.usage
            said.texts = {choice.index: choice.message.content or "" for choice in made.choices}
            said.finished = {choice.index: choice.finish_reason for choice in made.choices}
            return said
        async for chunk in made:
            said.chunks.append(chunk)
            said.usage = chunk.usage or said.usage
            for choice in chunk.choices:
                said.texts[choice.index] = said.texts.get(choice.index, "") + (choice.delta.content or "")
                if choice.finish_reason:
                    assert choice.index not in said.finished
                    said.finished[choice.index] = choice.finish_reason
    except openai.APIError as error:
        said.error = error
    return said


async def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    """Until it is true."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)
