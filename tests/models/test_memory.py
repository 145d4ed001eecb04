"""The limit on what all models take together: who asks for too much is told who has it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from backends.errors import EngineFailed, Unavailable
from backends.llama.backend import LlamaBackend
from backends.llama.settings import LlamaSettings
from backends.memory import MemoryBudget, memory_need, small_memory_need
from backends.onnx.host import OnnxHost
from backends.onnx.settings import OnnxHostSettings, OnnxSettings
from backends.types import Request
from tests.models.folder_writer import write_model
from tests.models.gguf_writer import gguf

pytestmark = pytest.mark.anyio
MIB = 1 << 20


class Process:
    """A process that ends when it is told to."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()

    async def ended(self) -> str:
        await self.gone.wait()
        return "exit code 0"


async def until_used(budget: MemoryBudget, used: int) -> None:
    async with asyncio.timeout(5):
        while budget.used != used:
            await asyncio.sleep(0)


async def test_a_process_has_its_part_until_it_ends() -> None:
    budget = MemoryBudget(10 * MIB)

    async def spawn() -> Process:
        assert budget.used == 6 * MIB  # before it is there
        return Process()

    process = await budget.guarded("large", lambda: 6 * MIB, spawn)()
    with pytest.raises(Unavailable, match=r"The model other needs about 5 MiB of the 10 MiB .* theirs: large 6 MiB"):
        budget.take(Process(), "other", 5 * MIB)
    budget.take(Process(), "small", 4 * MIB)
    process.gone.set()
    await until_used(budget, 4 * MIB)


async def test_a_process_that_did_not_start_has_none() -> None:
    budget = MemoryBudget(10 * MIB)

    async def spawn() -> Process:
        raise EngineFailed("no")

    with pytest.raises(EngineFailed):
        await budget.guarded("large", lambda: 6 * MIB, spawn)()
    assert budget.used == 0


async def test_what_is_taken_twice_counts_once_and_is_given_back_by_model_or_as_a_whole() -> None:
    budget, process = MemoryBudget(), Process()
    for name in ("a", "b", "a"):
        budget.take(process, name, MIB)
    assert budget.used == 2 * MIB
    budget.give_back(process, "a")
    assert budget.used == MIB
    budget.give_back(process)
    assert budget.used == 0


async def test_what_can_never_fit_is_told_so() -> None:
    with pytest.raises(Unavailable, match="it can never fit") as caught:
        MemoryBudget(MIB).check("large", 2 * MIB)
    assert (caught.value.code, caught.value.retry_after) == ("memory_limit", 30.0)


async def test_a_language_model_that_does_not_fit_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(gguf())
    need = memory_need(len(gguf()), 32, 8192)
    backend = LlamaBackend(LlamaSettings("x", tmp_path / "x.gguf"), MemoryBudget(need - 1))
    request = Request("r", "x", "completion", prompts=("a",))
    for _ in range(3):  # without the back-off of a process that dies
        with pytest.raises(Unavailable, match="The model x needs about"):
            await backend.count(request)
    assert backend.state().status == "stopped"
    await backend.close()


async def test_a_small_model_that_does_not_fit_beside_others_is_refused(tmp_path: Path) -> None:
    """With the real process: the model that is there keeps answering."""
    first, second = (write_model(tmp_path / name, input="features", features=list("abcd")) for name in ("a", "b"))
    budget = MemoryBudget()
    host = OnnxHost(OnnxHostSettings(), budget=budget)
    for folder in (first, second):
        host.add(OnnxSettings(folder.name, folder))
    try:
        assert len((await host.run("a", features("a")))[0]) == 1
        budget.limit = budget.used + small_memory_need(100)
        with pytest.raises(Unavailable, match=r"The model b needs about .* theirs: the small models' runtime"):
            await host.run("b", features("b"))
        assert len((await host.run("a", features("a")))[0]) == 1
        await host.remove(OnnxSettings("a", first))
        assert len((await host.run("b", features("b")))[0]) == 1
    finally:
        await host.close()
    await until_used(budget, 0)


def features(model: str) -> Request:
    from backends.types import Features

    return Request("r", model, "classification", prompts=(Features((1.0, 0.0, 0.0, 0.0)),))
