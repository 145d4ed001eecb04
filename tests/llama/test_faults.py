"""When things go wrong with the real engine: it dies, it is full, it is slow, its file is broken."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from backends.errors import BadModelFile, ContextLengthExceeded, DeadlineExceeded, EngineFailed, Overloaded, Unavailable
from backends.llama.backend import LlamaBackend
from backends.llama.settings import LlamaSettings
from backends.types import Chunk
from tests.llama.conftest import Running, ask, chat, completion
from tests.llama.test_answers import logprobs, same_up_to_ties

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
ENDLESS: dict[str, Any] = {"max_tokens": 6000, "ignore_eos": True}


async def until(condition: Callable[[], object], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def gone(pid: int) -> bool:
    """Whether the process has ended (a zombie has)."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@asynccontextmanager
async def busy(backend: LlamaBackend) -> Any:
    """While it lasts one request without end is computed."""
    async with aclosing(backend.generate(chat("Count to a million.", **ENDLESS))) as events:
        async for event in events:
            if isinstance(event, Chunk):
                break
        yield


# -- death -----------------------------------------------------------------------------------------------------------


async def test_a_killed_engine_fails_those_in_it_once_and_serves_the_next(running: Running) -> None:
    async with running() as backend:
        await ask(backend, chat("hello"))
        pid = backend.state().pid
        assert pid
        tasks = [asyncio.create_task(ask(backend, chat(f"Story {i}", **ENDLESS))) for i in range(4)]
        await until(lambda: backend.state().running == 4)
        os.kill(pid, signal.SIGKILL)
        outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)
        assert [type(e) for e in outcomes] == [EngineFailed] * 4
        assert all(isinstance(e, EngineFailed) and e.retry_after for e in outcomes)
        assert (await ask(backend, chat("hello again"))).text()
        s = backend.state()
        assert (s.status, s.restarts_total) == ("ready", 1)
        assert s.pid != pid


async def test_a_request_counted_before_the_death_is_answered_after_it(running: Running) -> None:
    async with running() as backend:
        request = chat("hello")
        await backend.count(request)
        first = backend.state().pid
        assert first
        os.kill(first, signal.SIGKILL)
        await until(lambda: backend.state().pid not in (None, first))
        assert (await ask(backend, request)).text()


async def test_the_engine_dies_with_the_gateway(model_file: Path) -> None:
    """Killed without a chance to clean up: no orphan goes on computing."""
    script = f"""
import asyncio, sys
from pathlib import Path
from backends.llama.backend import LlamaBackend
from backends.llama.settings import LlamaSettings
from tests.llama.conftest import chat

async def main():
    backend = LlamaBackend(LlamaSettings(name="m", path=Path({str(model_file)!r})))
    async for event in backend.generate(chat("Count.", max_tokens=6000, ignore_eos=True)):
        print(backend.state().pid, flush=True)

asyncio.run(main())
"""
    gateway = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        script,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert gateway.stdout is not None
    pid = int(await gateway.stdout.readline())
    assert not gone(pid)
    gateway.kill()
    await gateway.communicate()
    await until(lambda: gone(pid))


async def test_it_is_unloaded_after_its_keep_alive_and_loaded_again(running: Running) -> None:
    async with running(keep_alive_s=0.2) as backend:
        assert (await ask(backend, chat("hello"))).text()
        pid = backend.state().pid
        assert pid
        await until(lambda: backend.state().status == "stopped")
        assert gone(pid)
        s = backend.state()
        assert (s.pid, s.memory_bytes, s.kv_cells_used) == (None, 0, 0)
        assert (await ask(backend, chat("hello"))).text()


async def test_closing_ends_the_process(running: Running) -> None:
    async with running() as backend:
        await ask(backend, chat("hello"))
        pid = backend.state().pid
        assert pid
    assert gone(pid)
    with pytest.raises(Unavailable):
        await ask(backend, chat("hello"))


# -- bounds ----------------------------------------------------------------------------------------------------------


async def test_a_full_queue_refuses_and_says_when_to_come_back(running: Running) -> None:
    async with running(max_sequences=1, queue_length=2) as backend, busy(backend):
        waiting = [asyncio.create_task(ask(backend, chat(f"{i}"))) for i in range(2)]
        await until(lambda: backend.state().waiting == 2)
        with pytest.raises(Overloaded) as caught:
            await ask(backend, chat("one too many"))
        assert caught.value.retry_after
        assert caught.value.retry_after >= 1
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await until(lambda: backend.state().waiting == 0)


async def test_the_wait_in_the_queue_is_bounded(running: Running) -> None:
    async with running(max_sequences=1, queue_timeout_s=0.3) as backend, busy(backend):
        with pytest.raises(DeadlineExceeded) as caught:
            await ask(backend, chat("too late"))
        assert caught.value.code == "queue_timeout"
        assert caught.value.retry_after
        await until(lambda: backend.state().waiting == 0)


async def test_the_wait_for_the_first_token_is_bounded(running: Running) -> None:
    async with running(first_token_timeout_s=0.15) as backend:
        await ask(backend, completion("warm", max_tokens=1))
        with pytest.raises(DeadlineExceeded) as caught:
            await ask(backend, completion("salt wind " * 2000, max_tokens=1))
        assert caught.value.code == "first_token_timeout"
        await until(lambda: backend.state().running == 0)
        assert (await ask(backend, completion("and now", max_tokens=2))).text()


async def test_the_wait_for_the_load_is_bounded(running: Running) -> None:
    async with running(load_timeout_s=0.001) as backend:
        with pytest.raises(DeadlineExceeded):
            await ask(backend, chat("hello"))


# -- memory ----------------------------------------------------------------------------------------------------------


async def test_preempted_sequences_say_what_they_would_have_said(running: Running) -> None:
    """Four that need 480 cells together in a cache of 256: all are answered in full, one set aside at times."""
    prompts = [f"{i} " + "tell a tale of the sea and the wind " * 4 for i in range(4)]
    requests = {"max_tokens": 80, "ignore_eos": True, "top_logprobs": 5}
    async with running() as backend:
        expected = [await ask(backend, completion(p, **requests)) for p in prompts]
    async with running(context_length=256, kv_cells=256) as backend:
        answers = await asyncio.gather(*(ask(backend, completion(p, **requests)) for p in prompts))
        await ask(backend, completion("x", max_tokens=1))
        s = backend.state()
        assert s.preemptions_total > 0
        assert s.kv_cells_used == s.kv_cells_kept
    for want, got in zip(expected, answers, strict=True):
        assert got.total.completion_tokens == 80
        assert got.total.cached_tokens <= got.total.prompt_tokens
        same_up_to_ties(logprobs(want), logprobs(got))


# -- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["truncated", "wrong magic", "empty", "missing"])
async def test_a_broken_file_is_refused_with_its_reason(model_file: Path, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "broken.gguf"
    if damage == "truncated":
        shutil.copyfile(model_file, path)
        os.truncate(path, 50_000_000)
    elif damage != "missing":
        path.write_bytes(b"" if damage == "empty" else b"NOPE" + b"\0" * 4096)
    backend = LlamaBackend(LlamaSettings(name="m", path=path))
    for _ in range(2):
        with pytest.raises(BadModelFile) as caught:
            await ask(backend, chat("hello"))
        assert path.name in caught.value.message
    assert (backend.state().status, backend.state().pid) == ("failed", None)
    assert backend.state().detail
    await backend.close()


def rename_architecture(model_file: Path, path: Path) -> None:
    """A copy whose every `llama` in the header is an architecture of the same length that nobody knows."""
    raw = model_file.read_bytes()
    head, rest = raw[:65_536], raw[65_536:]
    named = b"\x05\0\0\0\0\0\0\0"
    assert named + b"llama" in head
    path.write_bytes(head.replace(b"llama.", b"lxxma.").replace(named + b"llama", named + b"lxxma") + rest)


async def test_a_file_that_only_llama_cpp_finds_broken(model_file: Path, tmp_path: Path) -> None:
    """Well formed, but of an architecture that nobody knows: the process says so, and the gateway lives on."""
    path = tmp_path / "odd.gguf"
    rename_architecture(model_file, path)
    backend = LlamaBackend(LlamaSettings(name="m", path=path))
    with pytest.raises(BadModelFile):
        await ask(backend, chat("hello"))
    assert backend.state().status == "failed"
    await backend.close()


# -- one that hangs, one that takes long -----------------------------------------------------------------------------


@pytest.mark.parametrize("begun", [False, True])
async def test_a_worker_that_hangs_is_replaced(running: Running, begun: bool) -> None:
    """Stopped, it neither answers nor dies: before an answer began, and in the middle of one."""
    async with running(first_token_timeout_s=2.0, queue_timeout_s=60.0) as backend:
        await ask(backend, chat("hello"))
        hung = backend.state().pid
        assert hung is not None

        async def count() -> None:
            async with aclosing(backend.generate(chat("Count.", **ENDLESS))) as events:
                async for _ in events:
                    os.kill(hung, signal.SIGSTOP)

        if not begun:
            os.kill(hung, signal.SIGSTOP)
        with pytest.raises(Unavailable):
            await count()
        await until(lambda: backend.state().pid not in (None, hung))
        assert gone(hung)
        assert (await ask(backend, chat("hello"))).text()


async def test_a_short_request_does_not_wait_for_a_long_ones_tokens(running: Running) -> None:
    """Megabytes take seconds to tokenise; only their own request waits for that."""
    async with running() as backend:
        await ask(backend, chat("hello"))
        order: list[str] = []

        async def long() -> None:
            with pytest.raises(ContextLengthExceeded):
                await backend.count(completion(" x" * 1_500_000))
            order.append("long")

        async def short() -> None:
            await asyncio.sleep(0.1)
            await ask(backend, chat("hi", max_tokens=2))
            order.append("short")

        await asyncio.gather(long(), short())
        assert order == ["short", "long"]
