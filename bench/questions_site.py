"""The documents in a gateway as it is served, and what is asked of it: its models by its API, its store by `rag`."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bench.documents_site import RERANKER, Wire
from rag.store.base import DocumentStore
from rag.store.records import Cut, Piece, StoreFile
from rag.types import Embedder
from rag.vectors import decoded

if TYPE_CHECKING:
    from rag.store.engine import Vectors

T = TypeVar("T")
NAME = "questions"
_LEAST_P = 1e-7


async def filled(wire: Wire, files: Mapping[str, Path], chunking: Mapping[str, Any] | None) -> str:
    """The id of the vector store that has them, made where it is not there yet.

    Args:
        chunking: an OpenAI `chunking_strategy`; None: as `[documents]` has it.
    """
    for store in (await wire.get("/v1/vector_stores"))["data"]:
        if store["name"] == NAME:
            return str(store["id"])
    id_ = await wire.store("filling")
    ids = [await wire.upload(name.replace("/", "-"), path.read_bytes()) for name, path in files.items()]
    body = {"file_ids": ids} | ({"chunking_strategy": dict(chunking)} if chunking else {})
    batch = (await wire.post(f"/v1/vector_stores/{id_}/file_batches", body))["id"]
    await wire.finished(id_, batch)
    await wire.post(f"/v1/vector_stores/{id_}", {"name": NAME})
    return id_


def pieces_of(store: DocumentStore, id_: str) -> list[Piece]:
    """All that are in it."""
    found: list[StoreFile] = []
    while True:
        page = store.members.list(id_, Cut(100, "asc", after=found[-1].file_id if found else None))
        found += page.items
        if not page.has_more:
            return [piece for file in found for piece in store.search.of_file(id_, file.file_id)]


class Threads:
    """See `rag.retrieve.Running`. `store`: it, or what stands in for it."""

    def __init__(self, store: Any, threads: Executor) -> None:
        self._store = store
        self._threads = threads

    async def run(self, work: Callable[[DocumentStore], T]) -> T:
        """In a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, self._store)


@dataclass(slots=True)
class Served:
    """See `rag.retrieve.Models`: those of the gateway.

    Attributes:
        remember: what the reranker said of a pair is not asked again, so that its time says nothing.
        pairs: how many it was asked about, of each question that it was asked about.
    """

    wire: Wire
    remember: bool = False
    pairs: list[int] = field(default_factory=list)
    _vectors: dict[str, Any] = field(default_factory=dict)
    _logits: dict[tuple[str, str], float] = field(default_factory=dict)

    async def question(self, embedder: Embedder, text: str) -> Vectors:
        """[dimensions], float32, of unit length."""
        if text not in self._vectors:
            self._vectors[text] = decoded(await self.wire.embed([text], "query"))[0]
        vector: Vectors = self._vectors[text]
        return vector

    async def rerank(self, question: str, texts: Sequence[str]) -> Sequence[float]:
        """A logit for each text."""
        self.pairs.append(len(texts))
        missing = [text for text in texts if not self.remember or (question, text) not in self._logits]
        if missing:
            body = {"model": RERANKER, "query": question, "documents": missing, "truncate": True}
            for one in (await self.wire.post("/v1/rerank", body))["results"]:
                self._logits[question, missing[one["index"]]] = _logit(one["relevance_score"])
        return [self._logits[question, text] for text in texts]


def _logit(probability: float) -> float:
    bounded = min(max(probability, _LEAST_P), 1 - _LEAST_P)
    return math.log(bounded / (1 - bounded))
