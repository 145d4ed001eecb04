"""All small models of the box: one process that computes them, bounded waits, and what became of each."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager

from backends.errors import BackendError, BadModelFile, DeadlineExceeded, Overloaded
from backends.memory import RUNTIME_BYTES, MemoryBudget, small_memory_need
from backends.onnx import protocol
from backends.onnx.manifest import Manifest
from backends.onnx.process import Again, Died, OnnxProcess, Rows
from backends.onnx.protocol import Prepared
from backends.onnx.settings import OnnxHostSettings, OnnxSettings
from backends.onnx.shelf import Describing, Entry, Shelf
from backends.processes.process import resident_bytes
from backends.processes.supervisor import Supervisor
from backends.types import ModelState, Request, Result

log = logging.getLogger("outstation.processes")

MOST_WAITING_BYTES = 64 << 20
"""Of all texts and pictures that wait or are computed, about."""
KEPT = 256
RUNTIME = "the small models' runtime"


class OnnxHost:
    """Owns the process. Everything runs in the event loop's thread."""

    def __init__(
        self,
        settings: OnnxHostSettings,
        start: Callable[[OnnxHostSettings], Awaitable[OnnxProcess]] | None = None,
        budget: MemoryBudget | None = None,
        describing: Describing | None = None,
    ) -> None:
        """`start` makes the process; tests give another. `budget`: where the memory of all models comes from."""
        self.settings = settings
        self._budget = budget or MemoryBudget()
        self._start = start or OnnxProcess.start
        self._shelf = Shelf(self._unload, describing)
        self._keys = itertools.count(1)
        self._waiting = 0
        self._waiting_bytes = 0
        self._resident = (0.0, 0)
        self._started = False
        self._loading: set[asyncio.Task[None]] = set()
        self._supervisor = self._supervise()

    def _supervise(self) -> Supervisor[OnnxProcess]:
        return Supervisor(
            "the process of the small models",
            self._budget.guarded(RUNTIME, lambda: RUNTIME_BYTES, self._spawn),
            keep_alive_s=self.settings.keep_alive_s,
            load_timeout_s=self.settings.load_timeout_s,
        )

    async def _spawn(self) -> OnnxProcess:
        """The next process loads by itself what the first one was told to: nobody who asks has the time."""
        process = await self._start(self.settings)
        if self._started:
            task = asyncio.create_task(self._load_again(), name="load the small models again")
            self._loading.add(task)
            task.add_done_callback(self._loading.discard)
        self._started = True
        return process

    async def _load_again(self) -> None:
        for name in [name for name in self._shelf if self._shelf[name].settings.load_at_start]:
            try:
                await self.load(name)
            except BackendError as error:
                log.warning("%s is not loaded again: %s", name, error.message)

    # -- which models there are ----------------------------------------------------------------------------------

    def add(self, settings: OnnxSettings) -> None:
        """A model that may be asked for. The last one of a name counts."""
        self._shelf.add(settings)

    async def remove(self, settings: OnnxSettings) -> None:
        """Nobody will ask for it any more: its memory is given back; with the last one the process ends."""
        if not self._shelf.remove(settings):
            return
        if not self._shelf:
            await self.close()
            self._supervisor = self._supervise()
        else:
            self._unload(settings)

    def _unload(self, settings: OnnxSettings) -> None:
        if (process := self._supervisor.engine) and process.open:
            self._budget.give_back(process, settings.name)
            process.send({"op": "unload", "folder": str(settings.folder)})

    def manifest(self, model: str) -> Manifest:
        """Raises `ModelNotFound`, or `BadModelFile` for one that is wrong."""
        return self._shelf.manifest(model)

    def base_of(self, model: str) -> Manifest | None:
        """The manifest of the model that makes its embeddings; None: it needs none, or it is not there."""
        return self._shelf.base_of(model)

    def models(self) -> list[ModelState]:
        """The state of each model."""
        return [self.state(name) for name in self._shelf]

    # -- asking --------------------------------------------------------------------------------------------------

    async def run(self, model: str, request: Request) -> tuple[list[Result], int]:
        """The result of each prompt, in their order, and the prompt tokens of all.

        Raises:
            InvalidRequest: an input that the model cannot take.
            Overloaded: too much waits already.
            EngineFailed: the process died under it, and again when it was asked once more; or the model gave no number.
            DeadlineExceeded, BadModelFile, ModelNotFound: as they say.
        """
        found: dict[int, Result] = {}
        tokens = 0
        async with aclosing(self.stream(model, request)) as rows:
            async for some in rows:
                if isinstance(some, int):
                    tokens = some
                else:
                    found.update(some)
        return [found[i] for i in range(len(request.prompts))], tokens

    async def count(self, model: str, request: Request) -> Prepared:
        """Tokens of its prompts. What was tokenised is kept for a `stream` of the same request soon after."""
        try:
            return await self._count(model, request)
        except Died:
            return await self._count(model, request)

    async def _count(self, model: str, request: Request) -> Prepared:
        entry = self._shelf[model]
        async with self._admitted(entry, request) as process:
            key = self._key()
            message = self._ask(model, key, request, run=False)
            async with self._bounded(self._patience(process, entry)):
                prepared = await process.prepare(message)
            entry.kept[request.id] = process.pid, key, prepared
            if len(entry.kept) > KEPT:
                del entry.kept[next(iter(entry.kept))]
            return prepared

    async def stream(self, model: str, request: Request) -> AsyncGenerator[Rows | int, None]:
        """Results by prompt as they come, in no certain order; last the prompt tokens. Closing it cancels.

        A process that dies before the first result is asked once more, when it is there again: what small models say
        is the same each time. Only once, since it may have died of this very request.

        Raises like `run`.
        """
        begun = False
        try:
            async with aclosing(self._stream(model, request)) as rows:
                async for some in rows:
                    begun = True
                    yield some
                return
        except Died:
            if begun:
                raise
        async with aclosing(self._stream(model, request)) as rows:
            async for some in rows:
                yield some

    async def _stream(self, model: str, request: Request) -> AsyncGenerator[Rows | int, None]:
        entry = self._shelf[model]
        async with self._admitted(entry, request) as process:
            pid, key, _ = entry.kept.pop(request.id, (0, "", None))
            if pid == process.pid:
                try:
                    async with aclosing(self._run(entry, process, {"op": "run", "id": key})) as rows:
                        async for some in rows:
                            yield some
                    return
                except Again:
                    pass
            message = self._ask(model, self._key(), request, run=True)
            async with aclosing(self._run(entry, process, message)) as rows:
                async for some in rows:
                    yield some

    async def load(self, model: str) -> None:
        """Load it now, if it is not."""
        entry = self._shelf[model]
        folder, base = str(entry.settings.folder), self._shelf.base_folder(model)
        message = {"op": "load", "id": self._key(), "folder": folder, "base": base}
        async with (
            self._supervisor.lease(self.settings.load_timeout_s) as process,
            aclosing(self._run(entry, process, message)) as rows,
        ):
            self._take_memory(entry, process)
            async for _ in rows:
                pass

    async def close(self) -> None:
        """End the process."""
        for task in tuple(self._loading):
            task.cancel()
        await self._supervisor.close()

    # -- what it does --------------------------------------------------------------------------------------------

    def state(self, model: str) -> ModelState:
        """What one model does now. Cheap; never blocks."""
        entry, supervisor = self._shelf[model], self._supervisor
        process = supervisor.engine
        figures = process.figures.get(str(entry.settings.folder)) if process else None
        status = supervisor.status
        if entry.problem:
            status = "failed"
        elif status == "ready" and not figures:
            status = "starting" if entry.running else "stopped"  # it is loaded when it is asked for
        manifest = entry.manifest
        return ModelState(
            name=model,
            status=status,
            detail=entry.problem or supervisor.detail,
            pid=process.pid if process else None,
            memory_bytes=figures["memory"] if figures else 0,
            context_length=context_length(manifest) if manifest else 0,
            running=entry.running,
            max_sequences=self.settings.queue_length,
            prefill_rate=figures["tokens"] / figures["seconds"] if figures and figures["seconds"] else 0.0,
            prompt_tokens_total=entry.tokens,
            restarts_total=supervisor.restarts,
            threads=process.ready["threads"] if process else 0,
            step_seconds=figures["seconds"] if figures else 0.0,
        )

    def memory(self) -> tuple[int | None, int]:
        """The process, and the memory that it holds as a whole (at most a second ago), in bytes."""
        process = self._supervisor.engine
        if process is None:
            return None, 0
        now = time.monotonic()
        if now >= self._resident[0]:
            self._resident = now + 1.0, resident_bytes(process.pid)
        return process.pid, self._resident[1]

    def retry_after(self) -> float:
        """Seconds until part of what waits has been computed, about."""
        return min(30.0, 1.0 + self._waiting / 50)

    # -- parts ---------------------------------------------------------------------------------------------------

    def _take_memory(self, entry: Entry, process: OnnxProcess) -> None:
        """Its part of the site's, before the process loads it, and its base's. Raises `Unavailable`."""
        if entry.in_memory_of == process.pid:
            return
        manifest = self.manifest(entry.settings.name)
        parts = {entry.settings.name: manifest}
        if base := self.base_of(entry.settings.name):
            parts[manifest.base] = base
        for name, part in parts.items():
            self._budget.take(process, name, small_memory_need(sum(file.size for file in part.files.values())))
        entry.in_memory_of = process.pid

    def _key(self) -> str:
        return str(next(self._keys))

    def _ask(self, model: str, key: str, request: Request, *, run: bool) -> dict[str, object]:
        folder = str(self._shelf[model].settings.folder)
        return protocol.ask(key, folder, self._shelf.base_folder(model), request, run=run)

    @asynccontextmanager
    async def _admitted(self, entry: Entry, request: Request) -> AsyncIterator[OnnxProcess]:
        """A process for a request that may wait."""
        self.manifest(entry.settings.name)
        size = protocol.weight(request)
        if self._waiting >= self.settings.queue_length or (
            self._waiting and self._waiting_bytes + size > MOST_WAITING_BYTES
        ):
            raise Overloaded(
                f"{self._waiting} requests are waiting for the small models, as many as may wait.",
                retry_after=self.retry_after(),
            )
        if self._supervisor.status in ("stopped", "failed"):
            self._budget.check(RUNTIME, RUNTIME_BYTES)  # told at once; the supervisor would try again later and later
        self._waiting, self._waiting_bytes = self._waiting + 1, self._waiting_bytes + size
        entry.running += 1
        try:
            async with self._supervisor.lease(self.settings.load_timeout_s) as process:
                self._take_memory(entry, process)
                yield process
        except Died:
            await self._seen_dead()
            raise
        except BadModelFile as error:
            entry.problem = error.message
            raise
        finally:
            self._waiting, self._waiting_bytes = self._waiting - 1, self._waiting_bytes - size
            entry.running -= 1

    async def _seen_dead(self) -> None:
        """Wait until the supervisor has seen it as well: until then it would lend out the dead process."""
        supervisor = self._supervisor
        while (dead := supervisor.engine) and not dead.open and supervisor.status == "ready":  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # it has no event for that, and sees it within milliseconds

    async def _run(
        self, entry: Entry, process: OnnxProcess, message: Mapping[str, object]
    ) -> AsyncGenerator[Rows | int, None]:
        async with aclosing(process.run(message)) as rows:
            while True:
                async with self._bounded(self._patience(process, entry)):
                    some = await anext(rows)
                if isinstance(some, int):
                    entry.tokens += some
                    entry.problem = ""
                    yield some
                    return
                yield some

    def _patience(self, process: OnnxProcess, entry: Entry) -> float:
        """Seconds that the next result may take; it may be the first, which loads the model."""
        loaded = str(entry.settings.folder) in process.figures
        seconds = max(self.settings.run_timeout_s, self.settings.wait_timeout_s)
        return seconds + (0.0 if loaded else self.settings.load_timeout_s)

    @asynccontextmanager
    async def _bounded(self, seconds: float) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError:
            raise DeadlineExceeded(
                f"The small models gave no result for {seconds:g} s.", retry_after=self.retry_after()
            ) from None


def context_length(manifest: Manifest) -> int:
    """Tokens of one input; 0: it is no text, or its base reads it."""
    return manifest.tokenizer.max_tokens if manifest.tokenizer else 0
