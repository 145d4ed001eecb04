"""The gateway's end of one LLM's worker: speaks `protocol` with it, and hands each request its events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any

from backends.errors import BackendError, EngineFailed, InvalidRequest
from backends.llama import protocol
from backends.llama.settings import LlamaSettings
from backends.processes.process import WorkerProcess
from backends.processes.wire import unpack_error
from backends.types import Chunk, Event, Request, Sampling

LEAST_SILENCE_S = 2.0  # a step of a large model may take as long


@dataclass(eq=False, slots=True)
class Pending:
    """A request in the worker: what came for it, and what an exact resumption elsewhere needs (seed and tokens).

    Attributes:
        uncached: prompt tokens to compute for it.
        seen: whether the worker's figures count it.
    """

    request: Request
    sampling: Sampling
    uncached: int = 0
    seen: bool = False
    events: asyncio.Queue[Event | protocol.Began | BackendError] = field(default_factory=asyncio.Queue)
    generated: dict[int, list[int]] = field(default_factory=dict)


class EngineProcess(WorkerProcess):
    """One running worker. Made by `start`; of no use once `ended()` returns."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        super().__init__(process)
        self.stats: Mapping[str, Any] = {}
        self._pending: dict[str, Pending] = {}
        self._prepared: dict[str, asyncio.Future[protocol.Prepared]] = {}

    @classmethod
    async def start(cls, settings: LlamaSettings) -> EngineProcess:
        """Spawn a worker and wait until its model is loaded. Raises `BadModelFile` or `EngineFailed`."""
        options = {
            "path": str(settings.path),
            "context_length": settings.context_length,
            "kv_cells": settings.kv_cells,
            "max_sequences": settings.max_sequences,
            "threads": settings.threads,
            "step_budget_s": settings.step_budget_s,
            "prefix_cache_mb": settings.prefix_cache_mb,
        }
        silence_s = max(settings.first_token_timeout_s, LEAST_SILENCE_S)
        return await cls.launch("backends.llama.worker", settings.name, options, silence_s)

    # -- requests ------------------------------------------------------------------------------------------------

    @property
    def unseen(self) -> list[Pending]:
        """Requests submitted so lately that `stats` do not count them yet."""
        return [pending for pending in self._pending.values() if not pending.seen]

    async def prepare(self, request: Request) -> protocol.Prepared:
        """Render and tokenise in the worker."""
        future: asyncio.Future[protocol.Prepared] = asyncio.get_running_loop().create_future()
        self.begin_listening()
        self._prepared[request.id] = future
        try:
            self.send(protocol.prepare(request))
            return await future
        finally:
            del self._prepared[request.id]

    async def generate(
        self, request: Request, sampling: Sampling, uncached: int = 0
    ) -> AsyncGenerator[Event | protocol.Began, None]:
        """Start a prepared request and yield what comes for it. Closing the iterator cancels it in the worker."""
        self.begin_listening()
        pending = self._pending[request.id] = Pending(request, sampling, uncached)
        finished = False
        try:
            self.send(protocol.submit(request, sampling))
            while True:
                event = await pending.events.get()
                if isinstance(event, BackendError):
                    finished = True
                    raise event
                finished = not isinstance(event, Chunk | protocol.Began)
                yield event
                if finished:
                    return
        finally:
            del self._pending[request.id]
            if not finished:
                self.forget(request.id)

    def forget(self, request_id: str) -> None:
        """Cancel a request, or drop what was prepared for it."""
        if self.open:
            self.send({"op": "cancel", "id": request_id})

    # -- the wire ------------------------------------------------------------------------------------------------

    @property
    def waited_for(self) -> bool:
        return bool(self._pending)

    def lose(self, error: BackendError) -> None:
        for pending in self._pending.values():
            pending.events.put_nowait(error)
        for future in self._prepared.values():
            if not future.done():
                future.set_exception(error)

    def receive(self, message: Mapping[str, Any]) -> None:
        if message["op"] == "step":
            if stats := message.get("stats"):
                self._count(stats)
            for row in message["out"]:
                self._deliver(*protocol.unpack_output(row))
            return
        future = self._prepared.get(message["id"])
        if message["op"] == "prepared":
            if future and not future.done():
                future.set_result(protocol.Prepared(**{name: message[name] for name in protocol.Prepared.__slots__}))
            return
        error = unpack_error(message["error"])
        if future and not future.done():
            future.set_exception(error)
        elif pending := self._pending.get(message["id"]):
            pending.events.put_nowait(error)

    def _count(self, stats: Mapping[str, Any]) -> None:
        """New figures. The worker takes requests in the order they were submitted in: with the newest one that it
        counts, all before it are counted. Later ones that have ended since are no longer pending."""
        self.stats = stats
        if stats["newest"] in self._pending:
            for key, pending in self._pending.items():
                pending.seen = True
                if key == stats["newest"]:
                    return

    def _deliver(self, key: str, event: Event | protocol.Began | protocol.Failed) -> None:
        pending = self._pending.get(key)
        if pending is None:
            return  # cancelled meanwhile
        if isinstance(event, protocol.Failed):
            pending.events.put_nowait(error_of(event, pending.request))
            return
        if isinstance(event, Chunk):
            pending.uncached = 0
            pending.generated.setdefault(event.index, []).extend(event.tokens)
        pending.events.put_nowait(event)


def error_of(failed: protocol.Failed, request: Request) -> BackendError:
    """What a client gets for it: an error that another try may help, or one that it never will."""
    if failed.code:
        param = request.grammar.param if request.grammar else None
        return InvalidRequest(failed.message, param=param, code=failed.code)
    return EngineFailed(failed.message)
