"""A process that reads files in as the gateway does, until it is killed or done. Only its vectors are made up."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from rag.extract import Extractor
from rag.ingest import Ingest
from rag.store.base import DocumentStore, open_store
from rag.types import Embedder
from tests.onnx.conftest import find_folder
from tests.rag.stores import vector

if TYPE_CHECKING:
    from rag.store.engine import Vectors

T = TypeVar("T")


class Threads:
    """`Running`, of one store."""

    def __init__(self, store: DocumentStore) -> None:
        self.store = store

    async def run(self, work: Callable[[DocumentStore], T]) -> T:
        return await asyncio.to_thread(work, self.store)


class Counting:
    """`Embeds` by the words that tests count. `wait_s`: that each few texts take."""

    def __init__(self, wait_s: float = 0.0) -> None:
        self.texts: list[str] = []
        self.error: Exception | None = None
        self._wait_s = wait_s

    def folder(self, embedder: Embedder) -> Path:
        return find_folder("bge-small-en-v1.5")

    async def documents(self, embedder: Embedder, texts: Sequence[str]) -> Vectors:
        await asyncio.sleep(self._wait_s)
        if self.error:
            raise self.error
        self.texts += texts
        return np.stack([vector(text, embedder.dimensions) for text in texts])


async def main(where: str, work: str) -> None:
    """Until all is done."""
    store = open_store(where)
    async with Extractor() as extractor:
        ingest = Ingest(Threads(store), extractor, Path(work), lease_s=0.5)
        while await ingest.one(Counting(0.005)):
            print("done", flush=True)
    store.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
