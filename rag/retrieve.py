"""What a question finds in vector stores: both paths, then a reranker for as long as there is time.

embed the question → by vector and by words → fuse → read → drop what says the same → rerank the close ones → passages
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from backends.errors import BackendError, InvalidRequest
from rag.rank import Candidate, Ranked, Scores, Settings, distinct, fuse, pool, reranked, scale
from rag.rank_passages import Answer, Passage, answer
from rag.reranking import Pace, Reranking
from rag.types import Embedder, Filter

if TYPE_CHECKING:
    from rag.store.base import DocumentStore
    from rag.store.engine import Vectors
    from rag.store.records import Found, Hit, Piece, StoreFile
    from rag.store.stores import Pinned

_LEAST_LOOKED: Final = 50
"""By each path: the filter is applied before, so this many are of those that it takes."""

T = TypeVar("T")


class Models(Protocol):
    """Who computes what a search needs. Raises `BackendError`s."""

    async def question(self, embedder: Embedder, text: str) -> Vectors:
        """[dimensions], float32, of unit length."""
        ...

    async def rerank(self, question: str, texts: Sequence[str]) -> Sequence[float]:
        """A logit for each text; none: there is no reranker."""
        ...


class Running(Protocol):
    """Does in a thread what touches the store."""

    async def run(self, work: Callable[[DocumentStore], T]) -> T:
        """Raises what `work` does, and `StoreTrouble`."""
        ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is looked for.

    Attributes:
        questions: each is asked alone; what any of them finds counts.
        limit: passages at most.
        rerank: False: the fused order stays. patience: times the usual time for the reranker.
        threshold: passages with a lower score (0 to 1) are left out.
        words: the weight of words, in place of the store's; see `rank.Settings`.
    """

    stores: Sequence[str]
    questions: Sequence[str]
    filters: Filter | None = None
    limit: int = 10
    rerank: bool = True
    threshold: float = 0.0
    words: float | None = None
    patience: float = 1.0


@dataclass(frozen=True, slots=True)
class Result:
    """A passage, and whose it is.

    Attributes:
        sure: that it answers, where it is the best and more is known than its own scores say.
    """

    file: StoreFile
    passage: Passage
    sure: float = 0.0

    @property
    def score(self) -> float:
        """0 to 1: about how often such a passage held the answer."""
        return max(self.scores.score, self.sure)

    @property
    def scores(self) -> Scores:
        """Of its best piece."""
        return self.passage.best.scores

    @property
    def page(self) -> int | None:
        """On which it begins."""
        return self.passage.pieces[0].chunk.page

    @property
    def headings(self) -> tuple[str, ...]:
        """That it begins under."""
        return self.passage.pieces[0].chunk.headings


@dataclass(frozen=True, slots=True)
class Retrieved:
    """What a search brings.

    Attributes:
        results: the best first.
        confidence: 0 to 1: that the documents answer (one of) the questions; `answered`: enough.
        data_classes: of the stores.
    """

    results: tuple[Result, ...] = ()
    confidence: float = 0.0
    answered: bool = False
    data_classes: frozenset[str] = frozenset()


class Retriever:
    """Searches.

    Args:
        rerank_s: for the reranker, of each question; 0: it is not asked.
        pace: kept by the caller: what was measured outlives a configuration.
    """

    def __init__(self, library: Running, models: Models, rerank_s: float, pace: Pace) -> None:
        self._library = library
        self._models = models
        self._rerank_s = rerank_s
        self._pace = pace
        self._touching: set[asyncio.Task[None]] = set()

    async def search(self, wanted: Wanted) -> Retrieved:
        """The passages that fit best.

        Raises:
            BackendError: a store that is not there or has expired, an embedder that is not there any more.
        """
        pins = await self._library.run(lambda store: [store.stores.pinned(id_) for id_ in wanted.stores])
        for pin in pins:
            if pin.expired:
                raise InvalidRequest(f"The vector store {pin.id!r} has expired.", code="vector_store_expired")
        found = [await self._one(question, wanted, pins) for question in wanted.questions]
        classes = frozenset[str]().union(*(pin.classes for pin in pins))
        self._touch(pins)
        results = _merged([results for results, _ in found], wanted)
        sure = max((said.confidence for _, said in found), default=0.0)
        return Retrieved(results, sure, bool(results) and any(said.answered for _, said in found), classes)

    async def _one(self, question: str, wanted: Wanted, pins: Sequence[Pinned]) -> tuple[list[Result], Answer]:
        limit = max(_LEAST_LOOKED, 2 * wanted.limit)
        ranked: list[Ranked] = []
        settings = Settings()
        for embedder, own in _by_embedder(pins).items():
            settings = _settings(own, embedder, wanted)
            vector = await self._models.question(embedder, question)
            paths = await asyncio.gather(
                *(self._find(pin.id, question, vector, embedder, wanted.filters, limit) for pin in own)
            )
            ranked += fuse(_union([one.vectors for one in paths]), _union([one.words for one in paths]), settings)
        ranked = sorted(ranked, key=lambda one: (-one.scores.final, one.id))[: pool(wanted.limit)]
        pieces = await self._pieces([one.id for one in ranked], wanted)
        candidates = distinct([_candidate(one, pieces[one.id]) for one in ranked if one.id in pieces])
        seconds = self._rerank_s * wanted.patience if wanted.rerank else 0.0
        reranking = Reranking(self._models.rerank, seconds, self._pace)
        logits = await reranking.of_close(question, candidates, settings)
        said = answer(question, candidates, wanted.limit, logits=logits, settings=settings)
        if logits and not said.answered:
            said = await reranking.look_again(question, said, reranked(candidates, logits, settings))
        sure = said.confidence if said.answered else 0.0
        results = [Result(pieces[one.best.id].file, one, 0.0 if n else sure) for n, one in enumerate(said.passages)]
        return results, said

    async def _find(
        self, store_id: str, text: str, vector: Vectors, embedder: Embedder, filters: Filter | None, limit: int
    ) -> Found:
        return await self._library.run(
            lambda store: store.search.find(
                store_id, text=text, vector=vector, embedder=embedder, wanted=filters, limit=limit
            )
        )

    async def _pieces(self, ids: Sequence[int], wanted: Wanted) -> Mapping[int, Piece]:
        """Of those ids that are still there."""

        def read(store: DocumentStore) -> dict[int, Piece]:
            found: dict[int, Piece] = {}
            for id_ in wanted.stores:
                missing = [one for one in ids if one not in found]
                found |= {piece.id: piece for piece in store.search.pieces(id_, missing, wanted.filters)}
            return found

        return await self._library.run(read)

    def _touch(self, pins: Sequence[Pinned]) -> None:
        """Says that they are used. Nobody waits for that, and one thread at most: a large file may just be written."""
        if self._touching:
            return

        def used(store: DocumentStore) -> None:
            for pin in pins:
                store.stores.touch(pin.id)

        async def touch() -> None:
            with suppress(BackendError):
                await self._library.run(used)

        task = asyncio.create_task(touch())
        self._touching.add(task)
        task.add_done_callback(self._touching.discard)


def _by_embedder(pins: Sequence[Pinned]) -> dict[Embedder, list[Pinned]]:
    found: dict[Embedder, list[Pinned]] = {}
    for pin in pins:
        found.setdefault(pin.embedder, []).append(pin)
    return found


def _settings(pins: Sequence[Pinned], embedder: Embedder, wanted: Wanted) -> Settings:
    """The first store's, where several are searched at once."""
    of_store: Mapping[str, Any] = pins[0].settings
    settings = replace(Settings(), scale=scale(embedder.name, of_store.get("cosines", ())))
    words = of_store.get("words") if wanted.words is None else wanted.words
    return settings if words is None else replace(settings, words=float(words))


def _union(found: Sequence[Sequence[Hit]]) -> list[Hit]:
    """Of several stores: a piece that is in two of them is one."""
    return list({hit.id: hit for hits in found for hit in hits}.values())


def _candidate(one: Ranked, piece: Piece) -> Candidate:
    return Candidate(one.id, piece.file.file_id, piece.place, piece.chunk, one.scores)


@dataclass(slots=True)
class _Seen:
    """Places that are shown already."""

    spans: dict[str, list[tuple[int, int]]] = field(default_factory=dict)

    def take(self, result: Result) -> bool:
        start, end = result.passage.start, result.passage.end
        spans = self.spans.setdefault(result.file.file_id, [])
        if any(first < end and start < behind for first, behind in spans):
            return False
        spans.append((start, end))
        return True


def _merged(found: Sequence[Sequence[Result]], wanted: Wanted) -> tuple[Result, ...]:
    """What the questions found, the best first; each place once."""
    every = [result for results in found for result in results if result.score >= wanted.threshold]
    if len(found) > 1:
        seen = _Seen()
        every = [
            result for result in sorted(every, key=lambda one: (-one.score, -one.scores.final)) if seen.take(result)
        ]
    return tuple(every[: wanted.limit])
