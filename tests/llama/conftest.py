"""Fixtures of the engine's tests: the pure parts need none, the rest run the real model in its own process."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from backends.llama.backend import LlamaBackend
from backends.llama.settings import LlamaSettings
from backends.types import Chunk, Request, Sampling, Usage
from tests.conftest import find_model

settings.register_profile("engine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("engine")


@dataclass(slots=True)
class Answer:
    """A whole answer, put together from its chunks, each rule of the contract checked on the way."""

    chunks: list[Chunk] = field(default_factory=list)
    usage: Usage | None = None

    def add(self, event: Chunk | Usage) -> None:
        assert self.usage is None, "something came after the usage"
        if isinstance(event, Usage):
            self.usage = event
            return
        closed = {c.index for c in self.chunks if c.finish_reason}
        assert event.index not in closed, "something came after a finish_reason"
        self.chunks.append(event)

    def text(self, index: int = 0) -> str:
        return "".join(c.text for c in self.chunks if c.index == index)

    def tokens(self, index: int = 0) -> list[int]:
        return [t for c in self.chunks if c.index == index for t in c.tokens]

    def reason(self, index: int = 0) -> str:
        (reason,) = [c.finish_reason for c in self.chunks if c.index == index and c.finish_reason]
        return reason

    @property
    def total(self) -> Usage:
        assert self.usage is not None, "no usage came"
        return self.usage


def chat(text: str, *, n: int = 1, system: str = "", **sampling: Any) -> Request:
    """A chat request; greedy with at most 24 tokens unless told otherwise."""
    messages = ({"role": "system", "content": system},) if system else ()
    params = Sampling(**{"temperature": 0.0, "max_tokens": 24, **sampling})
    messages = (*messages, {"role": "user", "content": text})
    return Request(secrets.token_hex(8), "m", "chat", messages=messages, sampling=params, n=n)


def completion(*prompts: str | tuple[int, ...], n: int = 1, **sampling: Any) -> Request:
    """A plain completion; greedy with at most 24 tokens unless told otherwise."""
    params = Sampling(**{"temperature": 0.0, "max_tokens": 24, **sampling})
    return Request(secrets.token_hex(8), "m", "completion", prompts=prompts, sampling=params, n=n)


async def ask(backend: LlamaBackend, request: Request) -> Answer:
    """The whole answer."""
    answer = Answer()
    async with aclosing(backend.generate(request)) as events:
        async for event in events:
            answer.add(event)
    assert answer.total
    for index in range(request.choices):
        assert answer.reason(index)
    return answer


@pytest.fixture(scope="session")
def qwen_file() -> Path:
    """A model that can call tools, in a format of its own."""
    return find_model("qwen2.5-coder-0.5b-instruct", "OUTSTATION_TEST_REMOTE_MODEL")


Running = Callable[..., AbstractAsyncContextManager[LlamaBackend]]


@pytest.fixture(scope="session")
def running(model_file: Path) -> Running:
    """`async with running(max_sequences=2) as backend`: the real model with settings of one's own."""

    @asynccontextmanager
    async def run(**changes: Any) -> AsyncIterator[LlamaBackend]:
        backend = LlamaBackend(LlamaSettings(**{"name": "m", "path": model_file, "keep_alive_s": -1.0, **changes}))
        try:
            yield backend
        finally:
            await backend.close()

    return run
