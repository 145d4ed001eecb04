"""The life cycle of a worker process, in the gateway: one state machine with one writer.

    stopped → starting → ready → draining → stopped
                  ↘         ↘
                    failed ← ┘   (→ starting again, after a back-off)

Callers `lease()` an engine and give it back; they never read the state to act on it. A process that dies is replaced in
the background after a back-off that doubles with each death in a row; the requests in it get one clean error.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Generic, Protocol, TypeVar

from backends.errors import BackendError, BadModelFile, DeadlineExceeded, EngineFailed, Unavailable
from backends.types import ModelStatus

log = logging.getLogger("outstation.processes")

BACKOFF_S = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
STEADY_S = 60.0  # a process that lived this long does not count as dying in a row
DRAIN_S = 30.0


class Process(Protocol):
    """What the supervisor needs of a process."""

    @property
    def pid(self) -> int: ...

    async def ended(self) -> str:
        """Wait until it is gone; returns how it ended."""
        ...

    async def stop(self) -> None:
        """End it now."""
        ...


P = TypeVar("P", bound=Process)


class Supervisor(Generic[P]):
    """Owns one process. Everything runs in the event loop's thread."""

    def __init__(
        self, what: str, spawn: Callable[[], Awaitable[P]], *, keep_alive_s: float, load_timeout_s: float
    ) -> None:
        """`spawn` starts a process and returns once it is ready, or raises a `BackendError`. `what` runs in it:
        "the model m"."""
        self.status: ModelStatus = "stopped"
        self.detail = ""
        self.engine: P | None = None
        self.restarts = 0
        self._what = what
        self._spawn = spawn
        self._keep_alive_s = keep_alive_s
        self._load_timeout_s = load_timeout_s
        self._leases = 0
        self._deaths = 0
        self._permanent = ""  # why its file can never be loaded
        self._starting: asyncio.Task[P] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._unload: asyncio.TimerHandle | None = None
        self._free = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()
        self._closed = False

    @asynccontextmanager
    async def lease(self, timeout_s: float) -> AsyncIterator[P]:
        """A ready engine, loaded first if need be, that is not unloaded before the block ends.

        Raises `Unavailable` (or a subclass) if it cannot be had within `timeout_s`.
        """
        self._leases += 1
        self._free.clear()
        if self._unload:
            self._unload.cancel()
            self._unload = None
        try:
            yield await self._ready(timeout_s)
        finally:
            self._leases -= 1
            if not self._leases:
                self._free.set()
                self._schedule_unload()

    async def start(self) -> None:
        """Load now. Raises like `lease`."""
        async with self.lease(self._load_timeout_s):
            pass

    async def close(self) -> None:
        """Drain for a bounded time, then end the process for good."""
        self._closed = True
        if self._unload:
            self._unload.cancel()
        if self._starting:
            self._starting.cancel()
            await asyncio.wait((self._starting,))  # a half-started process is ended before we go
        await self._drained.wait()
        await self._drain(DRAIN_S if self._leases else 0.0)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def retry_after(self) -> float:
        """Seconds until a failed engine is tried again."""
        return BACKOFF_S[min(self._deaths, len(BACKOFF_S) - 1)] + 1.0

    @property
    def _subject(self) -> str:
        return self._what[0].upper() + self._what[1:]

    # -- the state machine ---------------------------------------------------------------------------------------

    async def _ready(self, timeout_s: float) -> P:
        if self.engine and self.status == "ready":
            return self.engine
        if self._closed:
            raise Unavailable("The gateway is shutting down.", retry_after=5)
        if self._permanent:
            raise BadModelFile(self._permanent)
        task = self._starting or self._begin()
        try:
            # Shielded: the load goes on for the next request when this one's client leaves.
            async with asyncio.timeout(timeout_s):  # not wait_for, which in 3.11 can swallow a cancellation
                return await asyncio.shield(task)
        except TimeoutError:
            raise DeadlineExceeded(
                f"{self._subject} is still loading after {timeout_s:g} s.", retry_after=5, code="load_timeout"
            ) from None
        except asyncio.CancelledError:
            if task.cancelled():
                raise Unavailable("The gateway is shutting down.", retry_after=5) from None
            raise

    def _begin(self) -> asyncio.Task[P]:
        self._starting = asyncio.create_task(self._load(), name=f"load {self._what}")
        # Without a waiter an exception would be reported as never retrieved.
        self._starting.add_done_callback(lambda t: t.cancelled() or t.exception())
        return self._starting

    async def _load(self) -> P:
        try:
            await self._drained.wait()
            self.status = "starting"
            if self._deaths:
                await asyncio.sleep(BACKOFF_S[min(self._deaths - 1, len(BACKOFF_S) - 1)])
            began = time.monotonic()
            async with asyncio.timeout(self._load_timeout_s):
                engine = await self._spawn()
        except TimeoutError:
            self._fail(f"loading took longer than {self._load_timeout_s:g} s")
            raise DeadlineExceeded(f"{self._subject} did not load in time.", retry_after=self.retry_after()) from None
        except BackendError as e:
            if isinstance(e, BadModelFile):
                self._permanent = e.message
            self._fail(e.message)
            raise
        except OSError as e:
            self._fail(f"its process cannot be started ({e})")
            raise EngineFailed(
                f"The process of {self._what} cannot be started: {e}.", retry_after=self.retry_after()
            ) from e
        except asyncio.CancelledError:
            if self.status == "starting":
                self.status = "stopped"
            raise
        finally:
            self._starting = None
        self.engine, self.status, self.detail = engine, "ready", ""
        log.info("%s ready in %.1f s (pid %d)", self._what, time.monotonic() - began, engine.pid)
        self._watch(engine)
        if not self._leases:
            self._schedule_unload()
        return engine

    def _fail(self, why: str) -> None:
        self.status, self.detail, self.engine = "failed", why, None
        self._deaths += 1
        log.error("%s failed: %s", self._what, why)

    def _watch(self, engine: P) -> None:
        async def watch() -> None:
            born = time.monotonic()
            why = await engine.ended()
            if self.engine is not engine or self.status == "draining":
                return
            if time.monotonic() - born > STEADY_S:
                self._deaths = 0
            self._fail(f"its process ended unexpectedly ({why})")
            self.restarts += 1
            if not self._closed and not self._starting:
                self._begin()

        self._spawn_task(watch())

    # -- unloading -----------------------------------------------------------------------------------------------

    def _schedule_unload(self) -> None:
        if self._unload:
            self._unload.cancel()  # of a process that died meanwhile
        if self._keep_alive_s >= 0 and self.status == "ready" and not self._closed:
            loop = asyncio.get_running_loop()
            self._unload = loop.call_later(self._keep_alive_s, lambda: self._spawn_task(self._drain(0.0)))

    async def _drain(self, grace_s: float) -> None:
        """Let the requests under way finish for `grace_s`, then end the process and give its memory back."""
        engine = self.engine
        if engine is None or self.status != "ready" or (self._leases and not self._closed):
            return
        self.status = "draining"
        self._drained.clear()
        try:
            if self._leases:
                async with asyncio.timeout(grace_s):
                    await self._free.wait()
        except TimeoutError:
            log.warning("%s: %d requests did not finish in %g s", self._what, self._leases, grace_s)
        finally:
            await engine.stop()
            self.engine, self.status, self.detail = None, "stopped", ""
            self._drained.set()
        log.info("%s unloaded", self._what)

    def _spawn_task(self, coroutine: Awaitable[None]) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
