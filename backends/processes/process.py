"""The gateway's end of any worker process: starts it, hears it, ends it if it hangs."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self

from backends.errors import BackendError, EngineFailed
from backends.processes.link import Link
from backends.processes.wire import unpack_error

STOP_S = 2.0

log = logging.getLogger("outstation.processes")


class WorkerProcess(ABC):
    """One running worker. Made by `launch`; of no use once `ended()` returns.

    A subclass says what a message means, and who waits for one.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.pid = process.pid
        self.ready: Mapping[str, Any] = {}
        self._process = process
        self._link: Link | None = None
        self._loaded: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        self._ended: asyncio.Task[str] | None = None
        self._heard = time.monotonic()
        self._asked = False

    @classmethod
    async def launch(cls, module: str, name: str, options: Mapping[str, Any], silence_s: float) -> Self:
        """Run `python -m module FD`, tell it its options, and wait until it is ready.

        Args:
            silence_s: a worker that says nothing for so long while it is waited for is ended.

        Raises `EngineFailed` if it ends before, or what it says is wrong (`BadModelFile`).
        """
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                module,
                str(theirs.fileno()),
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                start_new_session=True,  # a Ctrl-C in the terminal is the gateway's to handle
                env=_worker_environment(),
            )
        worker = cls(process)
        worker._link = await Link.over(ours, worker._dispatch)
        worker._ended = asyncio.create_task(worker._until_end(), name=f"end of {name}")
        try:
            await worker._load(options)
        except BaseException:
            await worker.stop()
            raise
        silence = asyncio.create_task(worker._watch_silence(silence_s))
        worker._ended.add_done_callback(lambda _: silence.cancel())
        return worker

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

    # -- what a subclass says ------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def waited_for(self) -> bool:
        """Whether somebody waits for a word of the worker."""

    @abstractmethod
    def receive(self, message: Mapping[str, Any]) -> None:
        """A message came."""

    @abstractmethod
    def lose(self, error: BackendError) -> None:
        """The process has ended: give the error to all who wait."""

    # -- what a subclass uses ------------------------------------------------------------------------------------

    @property
    def open(self) -> bool:
        """Whether messages can still be sent."""
        return self._link is not None and self._link.open

    def send(self, message: Mapping[str, Any]) -> None:
        """Raises `EngineFailed` once the process has ended."""
        if not self._link or not self._link.open:
            raise EngineFailed("The model's process has ended. Try again.", retry_after=2)
        self._link.send(message)

    def begin_listening(self) -> None:
        """To be called before something is asked: from now on silence counts."""
        if not (self.waited_for or self._asked):
            self._heard = time.monotonic()
        self._asked = True  # stays when the client gives up: a hang is found even if nobody waits that long

    # -- parts ---------------------------------------------------------------------------------------------------

    async def _load(self, options: Mapping[str, Any]) -> None:
        self.send(options)
        assert self._ended is not None
        either: set[asyncio.Future[Any]] = {self._loaded, self._ended}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not self._loaded.done():
            raise EngineFailed(
                f"The model's process ended while it loaded ({self._ended.result()}). Try again.", retry_after=5
            )
        self.ready = self._loaded.result()
        if self.ready["op"] != "ready":
            raise unpack_error(self.ready["error"])

    def _dispatch(self, message: Mapping[str, Any]) -> None:
        self._heard, self._asked = time.monotonic(), False
        if self._loaded.done():
            self.receive(message)
        elif message["op"] in ("ready", "failed"):
            self._loaded.set_result(message)

    async def _watch_silence(self, limit_s: float) -> None:
        """A worker that has something to do and says nothing for `limit_s` hangs (it may be stopped, or stuck in a
        system call): end it, and the supervisor starts another. A working one speaks several times a second."""
        while True:
            await asyncio.sleep(limit_s / 4)
            if (self.waited_for or self._asked) and time.monotonic() - self._heard > limit_s:
                log.error("the worker %d has said nothing for %g s: ending it", self.pid, limit_s)
                self._process.kill()
                return

    async def _until_end(self) -> str:
        assert self._link is not None
        await self._link.closed
        why = await self._why()
        self.lose(EngineFailed("The model's process ended while it answered. Try again.", retry_after=2))
        return why

    async def _why(self) -> str:
        try:
            async with asyncio.timeout(STOP_S):
                code = await self._process.wait()
        except TimeoutError:
            self._process.kill()
            code = await self._process.wait()
        return f"signal {-code}" if code < 0 else f"exit code {code}"


def resident_bytes(pid: int) -> int:
    """Memory that the process holds now; 0 if there is none of that id."""
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def _worker_environment() -> dict[str, str]:
    """The gateway's own, but for its secrets, which a worker has no use for."""
    return {k: v for k, v in os.environ.items() if k != "OUTSTATION_API_KEY"} | {
        "OUTSTATION_GATEWAY_PID": str(os.getpid())
    }
