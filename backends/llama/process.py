"""The gateway's end of one worker process: starts it, speaks `protocol` with it, and hands each request its events."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any

from backends.errors import BackendError, EngineFailed
from backends.llama import protocol
from backends.llama.link import Link
from backends.llama.settings import LlamaSettings
from backends.types import Chunk, Event, Request, Sampling

STOP_S = 2.0
LEAST_SILENCE_S = 2.0  # a step of a large model may take as long

log = logging.getLogger("outstation.llama")


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


class EngineProcess:
    """One running worker. Made by `start`; of no use once `ended()` returns."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.pid = process.pid
        self.ready: Mapping[str, Any] = {}
        self.stats: Mapping[str, Any] = {}
        self._process = process
        self._link: Link | None = None
        self._loaded: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        self._pending: dict[str, Pending] = {}
        self._prepared: dict[str, asyncio.Future[protocol.Prepared]] = {}
        self._ended: asyncio.Task[str] | None = None
        self._heard = time.monotonic()
        self._asked = False

    @classmethod
    async def start(cls, settings: LlamaSettings) -> EngineProcess:
        """Spawn a worker and wait until its model is loaded. Raises `BadModelFile` or `EngineFailed`."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "backends.llama.worker",
                str(theirs.fileno()),
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                start_new_session=True,  # a Ctrl-C in the terminal is the gateway's to handle
                env=_worker_environment(),
            )
        engine = cls(process)
        engine._link = await Link.over(ours, engine._dispatch)
        engine._ended = asyncio.create_task(engine._until_end(), name=f"end of {settings.name}")
        try:
            await engine._load(settings)
        except BaseException:
            await engine.stop()
            raise
        silence = asyncio.create_task(engine._watch_silence(max(settings.first_token_timeout_s, LEAST_SILENCE_S)))
        engine._ended.add_done_callback(lambda _: silence.cancel())
        return engine

    async def _load(self, settings: LlamaSettings) -> None:
        self._send(
            {
                "path": str(settings.path),
                "context_length": settings.context_length,
                "kv_cells": settings.kv_cells,
                "max_sequences": settings.max_sequences,
                "threads": settings.threads,
                "step_budget_s": settings.step_budget_s,
                "prefix_cache_mb": settings.prefix_cache_mb,
            }
        )
        assert self._ended is not None
        either: set[asyncio.Future[Any]] = {self._loaded, self._ended}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not self._loaded.done():
            raise EngineFailed(
                f"The model's process ended while it loaded ({self._ended.result()}). Try again.", retry_after=5
            )
        self.ready = self._loaded.result()
        if self.ready["op"] != "ready":
            raise protocol.unpack_error(self.ready["error"])

    # -- requests ------------------------------------------------------------------------------------------------

    @property
    def unseen(self) -> list[Pending]:
        """Requests submitted so lately that `stats` do not count them yet."""
        return [pending for pending in self._pending.values() if not pending.seen]

    async def prepare(self, request: Request) -> protocol.Prepared:
        """Render and tokenise in the worker."""
        future: asyncio.Future[protocol.Prepared] = asyncio.get_running_loop().create_future()
        self._begin_listening()
        self._prepared[request.id] = future
        try:
            self._send(protocol.prepare(request))
            return await future
        finally:
            del self._prepared[request.id]

    async def generate(
        self, request: Request, sampling: Sampling, uncached: int = 0
    ) -> AsyncGenerator[Event | protocol.Began, None]:
        """Start a prepared request and yield what comes for it. Closing the iterator cancels it in the worker."""
        self._begin_listening()
        pending = self._pending[request.id] = Pending(request, sampling, uncached)
        finished = False
        try:
            self._send(protocol.submit(request, sampling))
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

    def _begin_listening(self) -> None:
        if not (self._pending or self._asked):
            self._heard = time.monotonic()
        self._asked = True  # stays when the client gives up: a hang is found even if nobody waits that long

    async def _watch_silence(self, limit_s: float) -> None:
        """A worker that has something to do and says nothing for `limit_s` hangs (it may be stopped, or stuck in a
        system call): end it, and the supervisor starts another. A working one speaks several times a second."""
        while True:
            await asyncio.sleep(limit_s / 4)
            if (self._pending or self._asked) and time.monotonic() - self._heard > limit_s:
                log.error("the worker %d has said nothing for %g s: ending it", self.pid, limit_s)
                self._process.kill()
                return

    def forget(self, request_id: str) -> None:
        """Cancel a request, or drop what was prepared for it."""
        if self._link and self._link.open:
            self._link.send({"op": "cancel", "id": request_id})

    async def ended(self) -> str:
        """Wait until the process is gone; returns how it ended."""
        assert self._ended is not None
        return await asyncio.shield(self._ended)

    async def stop(self) -> None:
        """End the process now: its socket closes, and it is killed if that does not do."""
        if self._link:
            self._link.close()
        try:
            async with asyncio.timeout(STOP_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        if self._ended:
            await self._ended

    # -- the wire ------------------------------------------------------------------------------------------------

    def _send(self, message: Mapping[str, Any]) -> None:
        if not self._link or not self._link.open:
            raise EngineFailed("The model's process has ended. Try again.", retry_after=2)
        self._link.send(message)

    async def _until_end(self) -> str:
        assert self._link is not None
        await self._link.closed
        why = await self._why()
        error = EngineFailed("The model's process ended while it answered. Try again.", retry_after=2)
        for pending in self._pending.values():
            pending.events.put_nowait(error)
        for future in self._prepared.values():
            if not future.done():
                future.set_exception(error)
        return why

    def _dispatch(self, message: Mapping[str, Any]) -> None:
        self._heard, self._asked = time.monotonic(), False
        if message["op"] == "step":
            if stats := message.get("stats"):
                self._count(stats)
            for row in message["out"]:
                self._deliver(*protocol.unpack_output(row))
            return
        if message["op"] in ("ready", "failed"):
            self._loaded.set_result(message)
            return
        future = self._prepared.get(message["id"])
        if message["op"] == "prepared":
            if future and not future.done():
                future.set_result(protocol.Prepared(message["n"], message["cached"], message["uncached"]))
            return
        error = protocol.unpack_error(message["error"])
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
            pending.events.put_nowait(EngineFailed(event.message))
            return
        if isinstance(event, Chunk):
            pending.uncached = 0
            pending.generated.setdefault(event.index, []).extend(event.tokens)
        pending.events.put_nowait(event)

    async def _why(self) -> str:
        try:
            async with asyncio.timeout(STOP_S):
                code = await self._process.wait()
        except TimeoutError:
            self._process.kill()
            code = await self._process.wait()
        return f"signal {-code}" if code < 0 else f"exit code {code}"


def _worker_environment() -> dict[str, str]:
    """The gateway's own, but for its secrets, which a worker has no use for."""
    return {k: v for k, v in os.environ.items() if k != "OUTSTATION_API_KEY"} | {
        "OUTSTATION_GATEWAY_PID": str(os.getpid())
    }
