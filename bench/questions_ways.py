"""The ways to rank that are compared: each gives ids of pieces for a question, the best first."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import apsw

from bench.questions_corpus import plain
from bench.questions_site import Served, Threads
from rag.rank import Candidate, Settings, close, distinct, fuse, pair_text, pool, reranked
from rag.rank_passages import evidence
from rag.reranking import Pace
from rag.retrieve import Retrieved, Retriever, Wanted
from rag.store.base import DocumentStore
from rag.store.records import Found, Hit, Piece
from rag.types import Embedder

SHOWN = 10
LIMIT = 50
_RRF = 60
_WORD = re.compile(r"\S*[^\W_]\S*")

Way = Callable[[str], Awaitable[list[set[int]]]]


@dataclass(slots=True)
class Paths:
    """A vector store, asked by its paths one by one.

    Attributes:
        id: of the vector store. threads: to be ended before the store is closed.
    """

    store: DocumentStore
    id: str
    embedder: Embedder
    served: Served
    threads: Executor

    async def found(self, question: str) -> Found:
        """By both, as the product asks for it."""
        vector = await self.served.question(self.embedder, question)
        return self.store.search.find(self.id, text=question, vector=vector, embedder=self.embedder, limit=LIMIT)

    async def dense(self, question: str) -> list[set[int]]:
        """By the vectors alone."""
        return [{hit.id} for hit in (await self.found(question)).vectors]

    async def words(self, question: str) -> list[set[int]]:
        """By the words alone."""
        return [{hit.id} for hit in self.store.search.find(self.id, text=question, limit=LIMIT).words]

    async def by_rank(self, question: str) -> list[set[int]]:
        """Reciprocal-rank fusion of the two."""
        found = await self.found(question)
        scores: dict[int, float] = {}
        for hits in (found.vectors, found.words):
            for place, hit in enumerate(hits, 1):
                scores[hit.id] = scores.get(hit.id, 0.0) + 1 / (_RRF + place)
        return [{id_} for id_ in sorted(scores, key=lambda one: -scores[one])]

    async def speaks(self, question: str, *, rerank: bool) -> list[float]:
        """What a floor is fitted to: cosine, coverage, and a logit where the reranker was asked."""
        found = await self.found(question)
        ranked = fuse(found.vectors, found.words, Settings())[: pool(SHOWN)]
        pieces = {one.id: one for one in self.store.search.pieces(self.id, [one.id for one in ranked])}
        candidates = distinct([_candidate(pieces[one.id], one.scores) for one in ranked])
        near = close(candidates) if rerank else []
        texts = [pair_text(question, one) for one in near]
        logits = dict(zip((one.id for one in near), await self.served.rerank(question, texts), strict=True))
        return evidence(question, reranked(candidates, logits), Settings().scale)


def _candidate(piece: Piece, scores: Any) -> Candidate:
    return Candidate(piece.id, piece.file.file_id, piece.place, piece.chunk, scores)


class Product:
    """`rag.retrieve` over the store, with what it told of each question kept.

    Args:
        rerank_s: as `documents.rerank_ms` says; 0: no reranker is asked.
        every: scores every piece by its words, in place of the store.
    """

    def __init__(self, paths: Paths, rerank_s: float, every: EveryPiece | None = None) -> None:
        store = _Instead(paths.store, every) if every else paths.store
        self._retriever = Retriever(Threads(store, paths.threads), paths.served, rerank_s, Pace())
        self._stores = (paths.id,)
        self._told: dict[str, Retrieved] = {}

    async def ask(self, question: str) -> Retrieved:
        """What it finds. The second time it is only looked up."""
        if question not in self._told:
            self._told[question] = await self._retriever.search(Wanted(self._stores, (question,)))
        return self._told[question]

    async def ranked(self, question: str) -> list[set[int]]:
        """Piece by piece, as they were before neighbours were merged: comparable with the other ways."""
        pieces = [one for result in (await self.ask(question)).results for one in result.passage.pieces]
        return [_said(one) for one in sorted(pieces, key=lambda one: (-one.scores.final, one.id))]

    async def shown(self, question: str) -> list[set[int]]:
        """What a caller gets: neighbours merged into passages."""
        return [set().union(*map(_said, one.passage.pieces)) for one in (await self.ask(question)).results]


@dataclass(slots=True)
class OverHTTP:
    """`/v1/vector_stores/{id}/search`, for which answering is seen by the text."""

    paths: Paths
    known_by: dict[str, tuple[str, ...]]

    async def ask(self, question: str) -> list[set[int]]:
        """{1} for a passage that holds the answer's words, {0} for another."""
        page = await self.paths.served.wire.search(self.paths.id, question)
        texts = [plain(" ".join(part["text"] for part in one["content"])) for one in page["data"]]
        return [{int(any(words in text for words in self.known_by[question]))} for text in texts]


class EveryPiece:
    """FTS5 with a score for each piece that has any of the words: what the store's search is an approximation of."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._db = apsw.Connection(":memory:")
        self._db.execute(
            "CREATE VIRTUAL TABLE words USING fts5(body, headings, tokenize='unicode61 remove_diacritics 2')"
        )
        with self._db:
            self._db.executemany(
                "INSERT INTO words (rowid, body, headings) VALUES (?, ?, ?)",
                ((piece.id, piece.chunk.text, " ".join(piece.chunk.headings)) for piece in pieces),
            )

    def find(self, text: str, limit: int = LIMIT) -> list[Hit]:
        """The best, with their BM25. A word with signs in it is found as its parts in a row."""
        words = dict.fromkeys(word.replace('"', "") for word in _WORD.findall(text))
        asked = " OR ".join(f'"{word}"' for word in words)
        sql = "SELECT rowid, -bm25(words) AS score FROM words WHERE words MATCH ? ORDER BY score DESC, rowid LIMIT ?"
        return [Hit(*row) for row in self._db.execute(sql, (asked, limit))] if asked else []

    async def alone(self, question: str) -> list[set[int]]:
        """By the words alone."""
        return [{hit.id} for hit in self.find(question)]


class _Instead:
    """The store, with another search by words."""

    def __init__(self, store: DocumentStore, every: EveryPiece) -> None:
        self.stores = store.stores
        self.search = self
        self._search = store.search
        self._every = every
        self.pieces = store.search.pieces

    def find(self, store_id: str, *, text: str, limit: int, **rest: Any) -> Found:
        """See `rag.store.search.Search`."""
        vectors = self._search.find(store_id, text="", limit=limit, **rest).vectors
        return Found(vectors, self._every.find(text, limit))


def place(found: Sequence[set[int]], answering: frozenset[int]) -> int | None:
    """From 1, of the first that answers; None: not among the first ten."""
    return next((at for at, one in enumerate(found[:SHOWN], 1) if one & answering), None)


def _said(one: Candidate) -> set[int]:
    return {one.id, *one.same}
