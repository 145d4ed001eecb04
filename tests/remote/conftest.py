"""A real provider in a process of its own, and backends that speak to it through the fault proxy."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest

from backends.errors import BackendError
from backends.openai_http import OpenAIBackend
from backends.remote.provider import Depart, Knocking, Provider
from backends.remote.settings import ProviderSettings, RemoteModel
from backends.remote.transport import Transport
from backends.types import Chunk, Event, Request, Usage
from tests.conftest import START_TIMEOUT_S, find_model, free_port

REMOTE_MODEL = "qwen2.5-coder-0.5b-instruct"
KEY = "sk-planted-0123456789"


@pytest.fixture(scope="session")
def remote_model_file() -> Path:
    """The real provider's model: `$OUTSTATION_TEST_REMOTE_MODEL`, or where `make test` pulls it to."""
    return find_model(REMOTE_MODEL, "OUTSTATION_TEST_REMOTE_MODEL")


@pytest.fixture(scope="session")
def real_provider(remote_model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of a server that we did not write. One thread, and one request after another: keep answers short."""
    port = free_port()
    log = tmp_path_factory.mktemp("provider") / "log"
    options = {
        "model": remote_model_file,
        "model_alias": REMOTE_MODEL,
        "n_ctx": 2048,
        "host": "127.0.0.1",
        "port": port,
    }
    options |= {"n_threads": 1, "n_threads_batch": 1, "verbose": "false", "interrupt_requests": "false"}
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OUTSTATION_")}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "llama_cpp.server", *arguments], env=clean, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        _wait(f"http://127.0.0.1:{port}/v1", process, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx2.get(f"{url}/models").status_code == 200:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"The provider does not answer:\n{log.read_text()}")


@dataclass
class Departures:
    """The egress boundary of these tests: notes what leaves, and forbids if told to."""

    left: list[tuple[str, str, str, int]] = field(default_factory=list)
    forbids: BackendError | None = None

    def __call__(self, request_id: str, provider: str, host: str, size: int) -> None:
        self.left.append((request_id, provider, host, size))
        if self.forbids is not None:
            raise self.forbids


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    """Closed after the test, which has its time."""
    async with aclosing(Transport()) as made, asyncio.timeout(20):
        yield made


BackendMaker = Callable[..., OpenAIBackend]


@pytest.fixture
async def make_backend() -> AsyncIterator[BackendMaker]:
    """A backend of a provider at `urls`; keyword arguments are its settings. Its bounds are short. All are closed."""
    made: list[OpenAIBackend] = []

    def make(
        *urls: str,
        depart: Depart | None = None,
        clock: Callable[[], float] = time.monotonic,
        knocking: Knocking | None = None,
        model: str = "m",
        **settings: float,
    ) -> OpenAIBackend:
        bounds = {"connect_timeout_s": 1.0, "first_token_timeout_s": 10.0, "idle_timeout_s": 10.0, **settings}
        row = RemoteModel(model, 2048)
        provider = Provider(
            ProviderSettings("cloud", urls, (row,), key=KEY, **bounds),
            depart or Departures(),
            Transport(),
            clock=clock,
            knocking=knocking,
        )
        made.append(OpenAIBackend(provider, row))
        return made[-1]

    yield make
    for backend in made:
        await backend.close()


def ask(streamed: bool = True, kind: str = "chat", n: int = 1, **fields: object) -> Request:
    """A request as the gateway makes it: the fields as the client sent them are in `raw`."""
    raw: dict[str, object] = {"model": "auto", "messages": [{"role": "user", "content": "Say hello."}], **fields}
    if kind == "completion":
        raw = {"model": "auto", "prompt": "1 2 3", **fields}
    if streamed:
        raw["stream"] = True
    if n > 1:
        raw["n"] = n
    prompts = ("1 2 3",) if kind == "completion" else ()
    return Request("req-1", "auto", kind, prompts=prompts, n=n, raw=raw, stream=streamed)  # type: ignore[arg-type]


@dataclass
class Answered:
    """All that a backend said to one request."""

    events: list[Event] = field(default_factory=list)
    error: BackendError | None = None

    @property
    def chunks(self) -> list[Chunk]:
        return [event for event in self.events if isinstance(event, Chunk)]

    @property
    def text(self) -> str:
        return "".join(chunk.text for chunk in self.chunks)

    @property
    def usage(self) -> Usage:
        """Always last, and once."""
        assert isinstance(self.events[-1], Usage)
        assert sum(isinstance(event, Usage) for event in self.events) == 1
        return self.events[-1]

    @property
    def finished(self) -> bool:
        return any(chunk.finish_reason for chunk in self.chunks)


async def answer(backend: OpenAIBackend, request: Request) -> Answered:
    """Everything until the end, or until the error; any other error is a failure of the test."""
    answered = Answered()
    try:
        async for event in backend.generate(request):
            answered.events.append(event)
    except BackendError as error:
        answered.error = error
    return answered
