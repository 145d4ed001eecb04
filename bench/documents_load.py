"""The loads of `bench.documents`: files that are read in, the embedder alone, and searches beside."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.documents_report import Ingested, Searched
from bench.documents_site import Wire, database, renewed
from rag.ingest import embedded
from rag.store.base import open_store

WAYS = ((0, 1), (1, 3), (1, 4), (2, 3), (4, 2))
"""How the embedder alone is asked: texts of a request (0: all in one), requests at once. The best one counts."""
SETTLE_S = 0.5
SILENCE_S = 2.5
"""After as long without a search, files are read in by all cores."""


@dataclass(slots=True)
class Files:
    """Documents, and the vector store that searches ask.

    Attributes:
        chunks: of all of them; texts: as they are embedded, the short ones first.
    """

    home: Path
    documents: Mapping[str, bytes]
    store: str = ""
    chunks: int = 0
    tokens: int = 0
    texts: Sequence[str] = ()

    async def fill(self, wire: Wire) -> None:
        """Reads all in, for searches, and tells what has become of them."""
        self.store = await wire.store("searched")
        ids = [await wire.upload(name, content) for name, content in self.documents.items()]
        await wire.finished(self.store, await wire.batch(self.store, ids))
        await asyncio.to_thread(self._look, ids)

    def _look(self, ids: Sequence[str]) -> None:
        store = open_store(str(database(self.home)))
        try:
            pieces = [piece.chunk for id_ in ids for piece in store.search.of_file(self.store, id_)]
        finally:
            store.close()
        self.chunks, self.tokens = len(pieces), sum(piece.tokens for piece in pieces)
        self.texts = sorted(map(embedded, pieces), key=len)

    async def ingest(self, wire: Wire) -> Ingested:
        """All of them once more, changed so that they are new. Seconds."""
        mark = str(random.random())
        store = await wire.store(mark)
        begun = time.perf_counter()
        ids = [await wire.upload(name, renewed(name, content, mark)) for name, content in self.documents.items()]
        uploaded = time.perf_counter()
        await wire.finished(store, await wire.batch(store, ids))
        ended = time.perf_counter()
        return Ingested(self.chunks, ended - uploaded, ended - begun)


async def alone(port: int, texts: Sequence[str], way: tuple[int, int]) -> float:
    """Seconds for the embedder to make vectors of all."""
    size, clients = way[0] or len(texts), way[1]
    groups = iter([texts[at : at + size] for at in range(0, len(texts), size)])

    async def lane() -> None:
        wire = Wire(port)
        for group in groups:
            await wire.embed(group)

    begun = time.perf_counter()
    await asyncio.gather(*(lane() for _ in range(clients)))
    return time.perf_counter() - begun


async def best(port: int, texts: Sequence[str]) -> tuple[int, int]:
    """The way in which it is fastest, of a third of the texts."""
    some = texts[::3]
    took = {way: await alone(port, some, way) for way in WAYS}
    return min(took, key=lambda way: took[way])


@dataclass(frozen=True, slots=True)
class Asking:
    """How searches are asked, one after another.

    Attributes:
        rerank: with the default settings; False: the ranker is `none`.
        pause: seconds between an answer and the next question, from and to.
    """

    questions: Sequence[str]
    rerank: bool = True
    pause: tuple[float, float] = (0.05, 0.35)

    def wait_s(self) -> float:
        """Until the next one."""
        return random.uniform(*self.pause)


async def idle(wire: Wire, store: str, asking: Asking) -> Searched:
    """Searches while nothing else happens."""
    times = []
    for question in asking.questions:
        await asyncio.sleep(asking.wait_s())
        times.append(await _timed(wire, store, question, asking))
    return Searched(times)


async def beside(wire: Wire, store: str, asking: Asking, batches: Batches) -> Searched:
    """Searches while ten files are read in. One after which none was in progress any more does not count."""
    found = Searched([])
    async with batches.running():
        for question in asking.questions:
            await asyncio.sleep(asking.wait_s())
            while True:
                took = await _timed(wire, store, question, asking)
                if left := await batches.left():
                    break
                found.late += 1
                await batches.begin()
            found.times.append(took)
            found.left.append(left)
        found.finished = await batches.finished()
    return found


async def _timed(wire: Wire, store: str, question: str, asking: Asking) -> float:
    begun = time.perf_counter()
    page = await wire.search(store, question, rerank=asking.rerank)
    took = time.perf_counter() - begun
    if not page["data"]:
        raise RuntimeError(f"nothing was found for {question!r}")
    return took


class Batches:
    """Files that are read in, ten at a time, again and again."""

    def __init__(self, wire: Wire, documents: Mapping[str, bytes]) -> None:
        self._wire = wire
        self._documents = documents
        self._store = self._batch = ""

    async def begin(self) -> None:
        """Ten new ones."""
        mark = str(random.random())
        ids = [await self._wire.upload(name, renewed(name, body, mark)) for name, body in self._documents.items()]
        self._batch = await self._wire.batch(self._store, ids)

    async def left(self) -> int:
        """Files in progress."""
        return (await self._wire.counts(self._store, self._batch))["in_progress"]

    async def finished(self) -> int:
        """Files that are there."""
        return int((await self._wire.get(f"/v1/vector_stores/{self._store}"))["file_counts"]["completed"])

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """From a moment after the first were begun. What is left at the end is cancelled."""
        self._store = await self._wire.store("beside")
        await self.begin()
        await asyncio.sleep(SETTLE_S)
        yield
        await self._wire.cancel(self._store, self._batch)
        await asyncio.sleep(SETTLE_S)
