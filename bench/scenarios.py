"""What is measured, one function a scenario. Each takes a server that runs and nothing else that computes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import psutil

from bench.client import Answer, Exchange, begin, get
from bench.load import Load, wave
from bench.peers import Server, bare_outstation, busy_count, running
from bench.stats import Figures, Wave, summarise

PATH = "/v1/chat/completions"
SETTLE_S = 0.5
LONG_PROMPT_TOKENS = 3500
POLL_S = 0.005
FREED_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Neighbour:
    """One stream decodes while another client sends a long prompt. Seconds.

    `before` is the stream's own longest gap in the second before the prompt came.
    """

    longest_gap: float
    before: float
    neighbour_ttft: float
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Seconds from a client's going away until the server reports nothing running or waiting."""

    in_decode: float
    in_prefill: float


@dataclass(frozen=True, slots=True)
class Idle:
    """A gateway without a model: seconds to its first 200, resident bytes of its processes together."""

    ready_s: float
    memory_bytes: int


async def throughput(server: Server, streams: int, waves: int, load: Load) -> tuple[Figures, float | None]:
    """Waves of `streams` questions under one system prompt, after one wave that warms the prefix.

    Returns the figures and the share of the engine's step time that was Python's, where the server tells.
    """
    await asyncio.sleep(SETTLE_S)
    await wave(server.port, load, streams)
    before = await _engine_seconds(server)
    done: list[Wave] = [await wave(server.port, load, streams) for _ in range(waves)]
    after = await _engine_seconds(server)
    share: float | None = None
    if before and after and after[0] > before[0]:
        share = (after[1] - before[1]) / (after[0] - before[0])
    return summarise(done), share


async def neighbour(server: Server, load: Load) -> Neighbour:
    """The longest gap of a stream while a neighbour's unique 3,500-token prompt is prefilled."""
    await asyncio.sleep(SETTLE_S)
    await wave(server.port, load, 1)
    stream = await begin(server.port, "POST", PATH, load.endless())
    await stream.first_text
    await asyncio.sleep(1.0)
    other = await begin(server.port, "POST", PATH, load.long_prompt(LONG_PROMPT_TOKENS))
    sent = time.perf_counter()
    await other.first_text
    until = time.perf_counter()
    answer = await other.finished
    still_running = not stream.finished.done()
    stream.abort()
    await stream.finished
    await _freed(server)
    if not (answer.ok and still_running):
        raise RuntimeError(f"neighbour: {answer.error or 'the stream ended before the long prompt was answered'}")
    prompt_tokens = int(answer.usage["prompt_tokens"]) if answer.usage else LONG_PROMPT_TOKENS
    before = _longest_gap(stream.answer, sent - 1.0, sent)
    return Neighbour(_longest_gap(stream.answer, sent, until), before, answer.ttft, prompt_tokens)


async def disconnect(server: Server, load: Load) -> Disconnect | None:
    """A client that goes away in decode, and one in the prefill of a long prompt; None where it cannot be seen."""
    if await busy_count(server) is None:
        return None
    await asyncio.sleep(SETTLE_S)
    stream = await begin(server.port, "POST", PATH, load.endless())
    await stream.first_text
    await _taken(server)
    await asyncio.sleep(0.3)
    in_decode = await _leave(server, stream)
    prompt = await begin(server.port, "POST", PATH, load.long_prompt(LONG_PROMPT_TOKENS))
    await _taken(server)
    await asyncio.sleep(0.3)
    in_prefill = await _leave(server, prompt)
    return Disconnect(in_decode, in_prefill)


async def idle(logs: Path, starts: int) -> Idle:
    """Starts a gateway without a model several times: median time to /healthz and memory a second later."""
    ready: list[float] = []
    memory: list[int] = []
    for _ in range(starts):
        with tempfile.TemporaryDirectory(prefix="outstation-bench-home-") as home:
            async with running(bare_outstation(Path(home)), Path(), logs) as server:
                ready.append(server.ready_s)
                await asyncio.sleep(1.0)
                memory.append(tree_memory(server.pid))
    return Idle(statistics.median(ready), int(statistics.median(memory)))


@contextlib.contextmanager
def busy_core() -> Iterator[None]:
    """Another process that computes without a pause, as a site's own program may."""
    process = subprocess.Popen([sys.executable, "-c", f"import os\nwhile os.getppid() == {os.getpid()}: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def tree_memory(pid: int) -> int:
    """Resident bytes of a process and its children."""
    parent = psutil.Process(pid)
    total = 0
    for process in [parent, *parent.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total


def _longest_gap(answer: Answer, since: float, until: float) -> float:
    """The longest time without text that touches [since, until], seconds."""
    pairs = zip(answer.arrivals, answer.arrivals[1:], strict=False)
    return max((b - a for a, b in pairs if b > since and a < until), default=float("nan"))


async def _engine_seconds(server: Server) -> tuple[float, float] | None:
    """Seconds spent in steps, and in Python within them, since the start; None where the server does not tell."""
    if server.peer.name != "outstation":
        return None
    page: Any = orjson.loads((await get(server.port, "/outstation/status")).body)
    models = page["models"]
    return sum(m["step_seconds"] for m in models), sum(m["python_seconds"] for m in models)


async def _leave(server: Server, exchange: Exchange) -> float:
    """Seconds from closing the connection until the server has nothing to do."""
    if exchange.finished.done():
        raise RuntimeError(f"disconnect: the answer ended too early: {exchange.answer.error or 'complete'}")
    left = exchange.abort()
    await _freed(server)
    return time.perf_counter() - left


async def _taken(server: Server) -> None:
    await _until(server, lambda busy: busy > 0)


async def _freed(server: Server) -> None:
    if server.peer.status is None:
        await asyncio.sleep(2.0)
    else:
        await _until(server, lambda busy: busy == 0)


async def _until(server: Server, reached: Any) -> None:
    """Asks for the status every 5 ms. Raises RuntimeError when it takes a minute."""
    deadline = time.perf_counter() + FREED_TIMEOUT_S
    while time.perf_counter() < deadline:
        busy = await busy_count(server)
        if busy is not None and reached(busy):
            return
        await asyncio.sleep(POLL_S)
    raise RuntimeError(f"{server.peer.name} still reports work after {FREED_TIMEOUT_S:.0f} s")
