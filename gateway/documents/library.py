"""The site's documents: one store for the process, opened when it is first needed, and what is left to be read in."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Final, TypeVar

from backends.errors import BackendError
from gateway.documents.courtesy import Courtesy
from rag.reranking import Pace

if TYPE_CHECKING:
    from gateway.reload import Generation
    from rag.extract import Extractor
    from rag.ingest import Ingest
    from rag.store.base import DocumentStore
    from rag.store.records import Claim

THREADS: Final = 4
AT_ONCE: Final = 2
"""Files: while one is read, another is embedded."""
LANES: Final = max(1, min(4, os.cpu_count() or 1))
"""Runs of the embedder at once."""
LOOK_S: Final = 5.0
"""Between looks for work that another gateway has left, where several share a store."""
LEFT_S: Final = 3600.0
TIDY_S: Final = 60.0
BOUND_S: Final = 30.0
"""For what somebody waits for. `LONG_S`: for what may be large."""
LONG_S: Final = 600.0
AGAIN_S: Final = 5.0
PAUSE_S: Final = 5.0

T = TypeVar("T")
Lease = Callable[[], AbstractContextManager["Generation"]]

log = logging.getLogger("outstation.documents")


class Library:
    """One for the process: its work outlives a reload.

    Args:
        where: a path, or a `postgresql://` address.
        key: what the file is encrypted with; empty: it is not.
        work: a folder for files while they are read.

    Attributes:
        pace: of the reranker. courtesy: searches go before files that are read in.
    """

    def __init__(self, where: str, key: str, work: Path) -> None:
        self._where = where
        self._key = key
        self._work = work
        self._threads: ThreadPoolExecutor | None = None
        self._opening = Lock()
        self._store: DocumentStore | None = None
        self._lease: Lease | None = None
        self._ingest: Ingest | None = None
        self._extractor: Extractor | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._news = asyncio.Event()
        self._progress: dict[tuple[str, str], tuple[int, int]] = {}
        self.pace = Pace()
        self.courtesy = Courtesy(LANES + 1)
        self._adding = asyncio.Lock()

    @property
    def uploads(self) -> tuple[Path, bool]:
        """A folder for files on their way in, and whether they must not touch the disk."""
        return self._work.parent, bool(self._key)

    async def run(self, work: Callable[[DocumentStore], T], *, bound_s: float = BOUND_S) -> T:
        """Does it in a thread.

        Args:
            bound_s: nobody waits for longer. What has not begun by then is dropped; what has goes on to its own end.

        Raises:
            StoreTrouble: the store cannot be opened, or does not answer in time. Also what `work` raises.
        """
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="documents")
        async with _within(bound_s):
            return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: work(self._opened()))

    async def add(self, work: Callable[[DocumentStore], T]) -> T:
        """The same for a file that is kept: one at a time. Writers would wait for each other, in all threads."""
        async with _within(LONG_S), self._adding:
            return await self.run(work, bound_s=LONG_S)

    def _opened(self) -> DocumentStore:
        with self._opening:
            if self._store is None:
                from rag.store.base import open_store

                self._store = open_store(self._where, self._key)
            return self._store

    def wake(self) -> None:
        """There is work."""
        self._news.set()

    def progress(self, store_id: str, file_id: str) -> tuple[int, int] | None:
        """(page, pages) of a file that is being read, 0 of 0 where it has none; None: it is not."""
        return self._progress.get((store_id, file_id))

    def _told(self, claim: Claim, progress: tuple[int, int] | None) -> None:
        key = (claim.file.store_id, claim.file.file_id)
        if progress is None:
            self._progress.pop(key, None)
        else:
            self._progress[key] = progress

    def start(self, lease: Lease) -> None:
        """Goes on with what an earlier process left."""
        self._lease = lease
        if self._is_there():
            self.wake()
        self._tasks = [asyncio.create_task(self._work_on(smallest=n > 0)) for n in range(AT_ONCE)]
        self._tasks.append(asyncio.create_task(self._tidy()))

    def _is_there(self) -> bool:
        return "://" in self._where or Path(self._where).exists()

    async def stop(self) -> None:
        """Gives back what is being worked on; the next process goes on with it."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=PAUSE_S)
        self._tasks = []
        if self._extractor:
            await self._extractor.close()

    def close(self) -> None:
        """Nothing may be called afterwards."""
        if self._threads:
            self._threads.shutdown(cancel_futures=True)
        if self._store:
            self._store.close()
            self._store = None

    async def _work_on(self, *, smallest: bool) -> None:
        """`smallest`: one of the places is for small files, so that they need not all wait for large ones."""
        await self._news.wait()
        while True:
            self._news.clear()
            try:
                while await self._one(smallest=smallest):
                    pass
            except Exception as error:
                # A defect must not end it either: files would be in progress for ever, and nobody would know why.
                known = error.message if isinstance(error, BackendError) else ""
                log.warning("documents wait: %s", known or type(error).__name__, exc_info=not known)
                await asyncio.sleep(PAUSE_S)
                self.wake()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._news.wait()

    async def _one(self, *, smallest: bool) -> bool:
        """Does one job. Each in the configuration in force when it begins."""
        assert self._lease is not None
        ingest = await self._ingesting()
        with self._lease() as generation:
            done = await ingest.one(generation.inference.documents.models, smallest=smallest)
        await self.run(_finish_rebuilds, bound_s=LONG_S)
        return done

    async def _ingesting(self) -> Ingest:
        if self._ingest is None:
            from rag.extract import Extractor
            from rag.ingest import Ingest

            await asyncio.to_thread(_clear, self._work)
            self._extractor = Extractor()
            self._ingest = Ingest(
                _Patient(self),
                self._extractor,
                self._work,
                secret=bool(self._key),
                told=self._told,
                turn=self.courtesy.turn,
                lanes=LANES + 1,
            )
        return self._ingest

    async def _tidy(self) -> None:
        """What expires, expires even where nobody asks for anything, and its place on the disk is given back."""
        while True:
            await asyncio.sleep(TIDY_S)
            if self._store is None and not self._is_there():
                continue
            try:
                await self.run(_tidied, bound_s=LONG_S)
            except Exception as error:  # noqa: BLE001 - the next minute may be better
                log.warning("documents are not tidied: %s", type(error).__name__)


def _clear(work: Path) -> None:
    """What a crash has left. Not what is young: another gateway of this home may be reading it."""
    for file in work.glob("reading-*"):
        with contextlib.suppress(OSError):
            if time.time() - file.stat().st_mtime > LEFT_S:
                file.unlink()


@asynccontextmanager
async def _within(bound_s: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(bound_s) as bound:
            yield
    except TimeoutError:
        if not bound.expired():
            raise
        from rag.store.errors import StoreTrouble

        said = f"The store of documents did not answer within {bound_s:g} s."
        raise StoreTrouble(said, retry_after=AGAIN_S) from None


class _Patient:
    """The library, for those who have time."""

    def __init__(self, library: Library) -> None:
        self._library = library

    async def run(self, work: Callable[[DocumentStore], T]) -> T:
        """See `Library.run`."""
        return await self._library.run(work, bound_s=LONG_S)


def _tidied(store: DocumentStore) -> None:
    store.stores.expire()
    store.files.expire()
    store.tidy()


def _finish_rebuilds(store: DocumentStore) -> None:
    for id_ in store.stores.rebuilding():
        if store.stores.finish_rebuild(id_):
            log.info("the vector store %s is rebuilt", id_)
