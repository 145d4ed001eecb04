"""A process that reads files in as the gateway does, until it is killed or all is done. Its vectors are made up."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from rag.extract import Extractor
from rag.ingest import Ingest
from rag.store.base import DocumentStore, open_store
from rag.types import Embedder

if TYPE_CHECKING:
    from rag.store.engine import Vectors

T = TypeVar("T")
LEASE_S = 0.5
WAIT_S = 0.005
"""That a few texts take."""


class Threads:
    """See `rag.retrieve.Running`."""

    def __init__(self, store: DocumentStore) -> None:
        self._store = store

    async def run(self, work: Callable[[DocumentStore], T]) -> T:
        """In a thread."""
        return await asyncio.to_thread(work, self._store)


class MadeUp:
    """See `rag.ingest.Embeds`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def folder(self, embedder: Embedder) -> Path:
        """Where the tokenizer is."""
        return self._folder

    async def documents(self, embedder: Embedder, texts: Sequence[str]) -> Vectors:
        """Each text has its own."""
        await asyncio.sleep(WAIT_S)
        return np.stack([vector(text, embedder.dimensions) for text in texts])


def vector(text: str, dimensions: int) -> Vectors:
    """The same for the same text, of unit length."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
    found = np.random.default_rng(seed).standard_normal(dimensions)
    return (found / np.linalg.norm(found)).astype(np.float32)


async def main(where: str, work: str, folder: str) -> None:
    """Until all is done. Says a line when it begins, and after each file."""
    store = open_store(where)
    embeds = MadeUp(Path(folder))
    print("begun", flush=True)
    async with Extractor() as extractor:
        ingest = Ingest(Threads(store), extractor, Path(work), lease_s=LEASE_S)
        while await ingest.one(embeds):
            print("done", flush=True)
    store.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
