"""The `Backend` of one local LLM: bounds every wait, and turns the engine's figures into the site's."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from hashlib import blake2b
from typing import NamedTuple

from backends.errors import BadModelFile, DeadlineExceeded, Overloaded
from backends.llama import protocol
from backends.llama.dialogue import Dialogue
from backends.llama.process import EngineProcess
from backends.llama.sampling_defaults import filled
from backends.llama.settings import LlamaSettings
from backends.memory import MemoryBudget, memory_need
from backends.models.gguf import GGUFInfo, read_gguf
from backends.processes.process import resident_bytes
from backends.processes.supervisor import Supervisor
from backends.processes.wire import dumps
from backends.types import GENERATES, Chunk, Event, Kind, ModelState, PromptCount, Request, Usage

DEFAULT_CONTEXT = 8192
DEFAULT_CELLS = 8192
REMEMBERED = 256  # requests counted and not submitted; a policy may have dropped this route since
TYPICAL_COMPLETION = 128.0  # tokens, until this model's own answers were counted


class _Counted(NamedTuple):
    """A request that was counted, and is ready in the process of that pid."""

    pid: int
    digest: bytes
    prepared: protocol.Prepared


def _digest(request: Request) -> bytes:
    """Of all that takes part in its prompt."""
    return blake2b(dumps(protocol.prepare(request)), digest_size=16).digest()


class LlamaBackend:
    """One GGUF file, answered by a worker process that its supervisor keeps."""

    def __init__(self, settings: LlamaSettings, budget: MemoryBudget | None = None) -> None:
        self.settings = settings
        self._budget = budget or MemoryBudget()
        self._info: GGUFInfo | None = None
        self._talks: Dialogue | None = None
        self._supervisor = Supervisor(
            f"the model {settings.name}",
            self._budget.guarded(settings.name, self._need, self._spawn),
            keep_alive_s=settings.keep_alive_s,
            load_timeout_s=settings.load_timeout_s,
        )
        self._queued = 0
        # By id, in the order they came; the worker remembers twice as many.
        self._prepared: dict[str, _Counted] = {}
        self._completion = TYPICAL_COMPLETION
        self._memory_bytes = 0
        self._memory_until = 0.0

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def context_length(self) -> int:
        info = self._read_info()
        return min(self.settings.context_length or DEFAULT_CONTEXT, info.context_length if info else DEFAULT_CONTEXT)

    @property
    def kinds(self) -> frozenset[Kind]:
        return GENERATES

    @property
    def capabilities(self) -> frozenset[str]:
        return frozenset({"logprobs", "structured_output", "grammar", "tools", "continuation"})

    @property
    def created(self) -> int:
        return self.settings.created

    @property
    def parameters_b(self) -> float:
        info = self._read_info()
        return info.parameters / 1e9 if info else 0.0

    @property
    def sha256(self) -> str:
        return self.settings.sha256 or ""

    async def start(self) -> None:
        if self.settings.load_at_start:
            await self._supervisor.start()

    async def close(self) -> None:
        await self._supervisor.close()

    async def count(self, request: Request) -> PromptCount:
        self._admit()
        request = self._dialogue().asked(request)
        async with self._supervisor.lease(self.settings.load_timeout_s) as engine:
            prepared = await self._prepare(engine, request)
            self._prepared[request.id] = _Counted(engine.pid, _digest(request), prepared)
            if len(self._prepared) > REMEMBERED:
                del self._prepared[next(iter(self._prepared))]
            return PromptCount(prepared.n, prepared.cached)

    async def generate(self, request: Request) -> AsyncGenerator[Event, None]:
        self._admit()
        dialogue = self._dialogue()
        request = dialogue.asked(request)
        sampling = filled(request.sampling, self.settings.sampling)
        if sampling.seed is None:
            # Chosen here, so that the request can be resumed exactly by another process.
            sampling = replace(sampling, seed=secrets.randbits(63))
        self._queued += 1
        queued = True
        try:
            async with self._supervisor.lease(self.settings.load_timeout_s) as engine:
                counted = self._prepared.pop(request.id, None)
                # Never, or in a process that died since; or it was another request, of a client that names them alike.
                if counted is None or counted.pid != engine.pid or counted.digest != _digest(request):
                    prepared = await self._prepare(engine, request)
                else:
                    prepared = counted.prepared
                heard = dialogue.listener(request, thinking=prepared.thinking)
                async with aclosing(engine.generate(request, sampling, prepared.uncached)) as events:
                    await self._next(events, self.settings.queue_timeout_s, "queue_timeout", "waited in the queue")
                    self._queued, queued = self._queued - 1, False
                    first_s = self.settings.first_token_timeout_s
                    event = await self._next(events, first_s, "first_token_timeout", "had no first token")
                    while not isinstance(event, Usage):
                        if isinstance(event, Chunk):
                            yield heard.chunk(event)
                        event = await anext(events)
                    self._learn(event, request)
                    yield heard.usage(event)
        finally:
            if queued:
                self._queued -= 1
            self._prepared.pop(request.id, None)

    def _dialogue(self) -> Dialogue:
        if self._talks is None:
            info = self._read_info()
            self._talks = Dialogue(info.chat_template if info else None)
        return self._talks

    def state(self) -> ModelState:
        s = self._supervisor
        engine = s.engine
        stats = engine.stats if engine else {}
        unseen = engine.unseen if engine else ()
        waiting = sum(pending.request.choices for pending in unseen) if engine else self._queued
        return ModelState(
            name=self.name,
            status=s.status,
            detail=s.detail,
            pid=engine.pid if engine else None,
            memory_bytes=self._memory(engine.pid) if engine else 0,
            context_length=self.context_length,
            waiting=stats.get("waiting", 0) + waiting,
            running=stats.get("running", 0),
            max_sequences=self.settings.max_sequences,
            kv_cells=engine.ready["cells"] if engine else 0,
            kv_cells_used=stats.get("kv_used", 0),
            kv_cells_kept=stats.get("kv_kept", 0),
            prefill_rate=stats.get("prefill_rate", 0.0),
            decode_rate=stats.get("decode_rate", 0.0),
            prompt_tokens_total=stats.get("prompt_tokens", 0),
            cached_tokens_total=stats.get("cached_tokens", 0),
            completion_tokens_total=stats.get("completion_tokens", 0),
            preemptions_total=stats.get("preemptions", 0),
            restarts_total=s.restarts,
            threads=stats.get("threads", engine.ready["threads"] if engine else 0),
            step_seconds=stats.get("step_seconds", 0.0),
            python_seconds=stats.get("python_seconds", 0.0),
            backlog_tokens=stats.get("backlog", 0) + sum(pending.uncached for pending in unseen),
        )

    def retry_after(self) -> float:
        """Seconds until the present queue has been worked off, from the measured rates."""
        stats = self._supervisor.engine.stats if self._supervisor.engine else {}
        if not stats.get("decode_rate"):
            return 5.0
        prompt_s = stats["backlog"] / stats["prefill_rate"]
        tokens = (stats["waiting"] + stats["running"] / 2) * self._completion
        return float(min(120.0, max(1.0, prompt_s + tokens / stats["decode_rate"])))

    # -- parts ---------------------------------------------------------------------------------------------------

    def _need(self) -> int:
        """Bytes of memory, about."""
        info = self._read_info()
        cells = max(self.settings.kv_cells or DEFAULT_CELLS, self.context_length)
        return memory_need(info.size_bytes, info.kv_bytes_per_cell, cells) if info else 0

    async def _spawn(self) -> EngineProcess:
        await asyncio.to_thread(read_gguf, self.settings.path)  # before llama.cpp maps it; raises BadModelFile
        return await EngineProcess.start(self.settings)

    async def _prepare(self, engine: EngineProcess, request: Request) -> protocol.Prepared:
        try:
            async with asyncio.timeout(self.settings.first_token_timeout_s):
                return await engine.prepare(request)
        except TimeoutError:
            raise DeadlineExceeded(
                "The prompt could not be tokenised in time.", retry_after=self.retry_after()
            ) from None

    def _admit(self) -> None:
        if self._queued >= self.settings.queue_length:
            raise Overloaded(
                f"{self._queued} requests are waiting for {self.name}, as many as may wait.",
                retry_after=self.retry_after(),
            )
        if self._supervisor.status in ("stopped", "failed"):
            # Told at once; the supervisor would try again and again, each time later.
            self._budget.check(self.name, self._need())

    async def _next(
        self, events: AsyncIterator[Event | protocol.Began], seconds: float, code: str, what: str
    ) -> Event | protocol.Began:
        """The engine's next event, within a bound.

        Not `asyncio.wait_for`: in Python 3.11 it swallows a cancellation that comes together with the event.
        """
        try:
            async with asyncio.timeout(seconds):
                return await anext(events)
        except TimeoutError:
            message = f"The request {what} for {seconds:g} s."
            raise DeadlineExceeded(message, code=code, retry_after=self.retry_after()) from None

    def _learn(self, usage: Usage, request: Request) -> None:
        self._completion += 0.1 * (usage.completion_tokens / request.choices - self._completion)

    def _memory(self, pid: int) -> int:
        """Resident bytes, at most a second old: each request takes a snapshot of the site."""
        now = time.monotonic()
        if now >= self._memory_until:
            self._memory_bytes, self._memory_until = resident_bytes(pid), now + 1.0
        return self._memory_bytes

    def _read_info(self) -> GGUFInfo | None:
        if self._info is None:
            try:
                self._info = read_gguf(self.settings.path)
            except (BadModelFile, OSError):
                return None  # the load will say what is wrong
        return self._info
