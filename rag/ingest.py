"""From a file in a vector store to what it is searched by: one job at a time, whole or not at all.

    claim → (the same content is there already: done) → extract and cut → embed → finish, in one transaction

The job is the file's own row in the store, held while whoever works on it lives: a crash leaves it to the next.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from backends.errors import BackendError
from rag.chunks import MAX_TOKENS, OVERLAP, Strategy
from rag.extract import Cutting, ExtractionError, Extractor
from rag.extract.errors import ReaderEnded
from rag.retrieve import Running
from rag.store.errors import StoreTrouble, Superseded
from rag.store.records import Claim, LastError
from rag.types import Chunk, Document, Embedder

if TYPE_CHECKING:
    from rag.store.engine import Vectors

LEASE_S: Final = 30.0
MOST_ATTEMPTS: Final = 20
"""Times that a file is begun: what takes the gateway down with it must not do so for ever. Those begun least often come
first, so that it keeps nobody waiting."""
MOST_FAULTS: Final = 3
"""The same, where the process that reads it has failed, and not we."""
TOGETHER_TOKENS: Final = 512
"""Of the texts that are embedded together: no more, so that a search waits for little."""

log = logging.getLogger("outstation.documents")


class Embeds(Protocol):
    """Who makes vectors. Raises `BackendError`s."""

    def folder(self, embedder: Embedder) -> Path:
        """Where its tokenizer is."""
        ...

    async def documents(self, embedder: Embedder, texts: Sequence[str]) -> Vectors:
        """[texts, dimensions], float32, of unit length."""
        ...


def chunking(strategy: Strategy) -> dict[str, Any]:
    """As it is kept with each file: what `auto` means may change, what a file was cut by does not."""
    static = {"max_chunk_size_tokens": strategy.max_tokens, "chunk_overlap_tokens": strategy.overlap}
    return {"type": "static", "static": static, **({"by_structure": True} if strategy.by_structure else {})}


def strategy_of(kept: Mapping[str, Any]) -> Strategy:
    """The reverse."""
    static = kept.get("static") or {}
    most, overlap = static.get("max_chunk_size_tokens", MAX_TOKENS), static.get("chunk_overlap_tokens", OVERLAP)
    return Strategy(most, overlap, by_structure=bool(kept.get("by_structure")))


def embedded(chunk: Chunk) -> str:
    """What is embedded of a chunk: a piece of a manual often does not name what it is about, its headings do."""
    return "\n".join(part for part in (" > ".join(chunk.headings), chunk.text) if part)


class Ingest:
    """Does what is left to do.

    Args:
        work: an empty folder of its own, for files while they are read.
        secret: files must not touch the disk while they are read; they are held in memory for it, where that can be.
        told: (store, file, page, pages) as a file is read; page None: it is not read any more.
        turn: held while a few texts are embedded: those who search go first. `lanes`: of those at once, in a file.
    """

    def __init__(
        self,
        library: Running,
        extractor: Extractor,
        work: Path,
        *,
        secret: bool = False,
        told: Callable[[Claim, tuple[int, int] | None], None] = lambda claim, progress: None,
        turn: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
        lanes: int = 1,
        lease_s: float = LEASE_S,
    ) -> None:
        self._library = library
        self._extractor = extractor
        self._work = work
        self._secret = secret
        self._told = told
        self._turn = turn
        self._lanes = lanes
        self._lease_s = lease_s
        self._owner = f"{os.getpid()}-{secrets.token_hex(8)}"

    async def one(self, embeds: Embeds, *, smallest: bool = False) -> bool:
        """The oldest job, or that of the smallest file. False: there is none.

        Raises:
            BackendError: it could not be done now and was given back; it is worth another try in a while.
        """
        claim = await self._library.run(lambda store: store.work.claim(self._owner, self._lease_s, smallest=smallest))
        if claim is None:
            return False
        try:
            async with self._held(claim):
                await self._done(claim, embeds)
        except Superseded:
            log.info("a file is not wanted any more: %s", claim.file.file_id)
        except ExtractionError as error:
            await self._failed(claim, error)
        except StoreTrouble:
            raise
        except BackendError:
            await self._left(claim)
            raise
        except Exception as error:
            # The type only: its text may quote the file.
            log.error("%s could not be ingested: %s", claim.file.file_id, type(error).__name__, exc_info=True)
            await self._failed(claim, ExtractionError("server_error", "The file could not be taken in: see the log."))
        finally:
            self._told(claim, None)
        return True

    async def _done(self, claim: Claim, embeds: Embeds) -> None:
        if claim.file.attempts > MOST_ATTEMPTS:
            raise ExtractionError(
                "server_error", f"The gateway ended {MOST_ATTEMPTS} times while it read this file. Save it anew."
            )
        if await self._library.run(lambda store: store.index.reuse(claim)):
            return
        document = await self._document(claim, Cutting(embeds.folder(claim.embedder), strategy_of(claim.file.chunking)))
        for note in document.extracted.notes:
            log.info("%s: %s", claim.file.file_id, note)
        vectors = await self._vectors(claim, embeds, document.chunks)
        await self._library.run(lambda store: store.index.finish(claim, claim.embedder, document.chunks, vectors))

    async def _document(self, claim: Claim, cutting: Cutting) -> Document:
        def told(page: int, pages: int) -> None:
            self._told(claim, (page, pages))

        self._told(claim, (0, 0))
        with self._place() as place:
            await self._library.run(lambda store: _write(place, store.files.content(claim.file.file_id)))
            return await self._extractor.document(place, claim.file.name, cutting, on_page=told)

    async def _vectors(self, claim: Claim, embeds: Embeds, chunks: Sequence[Chunk]) -> Vectors:
        import numpy as np

        found = np.zeros((len(chunks), claim.embedder.dimensions), dtype=np.float32)
        left = _together(chunks)

        async def lane() -> None:
            for places in left:  # shared: each takes the next
                async with self._turn():
                    found[places] = await embeds.documents(claim.embedder, [embedded(chunks[n]) for n in places])

        await _all_of([lane() for _ in range(self._lanes)])
        return found

    @asynccontextmanager
    async def _held(self, claim: Claim) -> AsyncIterator[None]:
        """Says that we live while the block lasts; what nobody wants any more is broken off with `Superseded`."""
        task = asyncio.current_task()
        assert task is not None
        lost = False

        async def renew() -> None:
            nonlocal lost
            while True:
                await asyncio.sleep(self._lease_s / 3)
                try:
                    await self._library.run(lambda store: store.work.renew(claim, self._lease_s))
                except Superseded:
                    lost = True
                    task.cancel()
                    return
                except StoreTrouble:
                    continue

        renewing = asyncio.create_task(renew())
        try:
            yield
        except asyncio.CancelledError:
            if not lost:
                with suppress(BackendError, Superseded):
                    await self._library.run(lambda store: store.work.release(claim))
                raise
            task.uncancel()
            raise Superseded from None
        finally:
            renewing.cancel()

    async def _failed(self, claim: Claim, error: ExtractionError) -> None:
        """A fault of ours is worth another try. What ends whoever reads it, each time, is the file's own."""
        if isinstance(error, ReaderEnded) and claim.file.attempts >= MOST_FAULTS:
            error = ExtractionError("invalid_file", error.message)
        if error.code == "server_error" and claim.file.attempts < MOST_FAULTS:
            await self._left(claim, tried=True)
            return
        log.warning("%s failed: %s", claim.file.file_id, error.code)
        with suppress(Superseded):
            await self._library.run(lambda store: store.work.fail(claim, LastError(error.code, error.message)))

    async def _left(self, claim: Claim, *, tried: bool = False) -> None:
        with suppress(Superseded):
            await self._library.run(lambda store: store.work.release(claim, tried=tried))

    @contextmanager
    def _place(self) -> Iterator[Path]:
        """Where the file lies while it is read."""
        if self._secret and hasattr(os, "memfd_create"):
            number = os.memfd_create("document", os.MFD_CLOEXEC)
            try:
                yield Path(f"/proc/{os.getpid()}/fd/{number}")
            finally:
                os.close(number)
            return
        self._work.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile(dir=self._work, prefix="reading-") as file:
            yield Path(file.name)


def _together(chunks: Sequence[Chunk]) -> Iterator[list[int]]:
    """Places of chunks of about one length, since what a run computes is padded to its longest."""
    group: list[int] = []
    for n in sorted(range(len(chunks)), key=lambda n: chunks[n].tokens):
        if group and (len(group) + 1) * chunks[n].tokens > TOGETHER_TOKENS:
            yield group
            group = []
        group.append(n)
    if group:
        yield group


async def _all_of(work: Sequence[Coroutine[Any, Any, None]]) -> None:
    """All at once; the first error ends the others, and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            for one in work:
                group.create_task(one)
    except* Exception as errors:  # noqa: BLE001 - it is only unwrapped
        found: BaseException = errors
        while isinstance(found, BaseExceptionGroup):
            found = found.exceptions[0]
        raise found from None


def _write(place: Path, parts: Iterator[bytes]) -> None:
    with place.open("wb") as file:
        for part in parts:
            file.write(part)
