"""What the tests of the store share: stores on every database, and files that are easily made."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from rag.store.base import DocumentStore
from rag.store.records import Claim, Entry, StoreFile
from rag.types import AttributeValue, Chunk, Embedder

SMALL = Embedder("small", "a" * 64, 8)
OTHER = Embedder("other", "b" * 64, 12)
WORDS = ("pump", "seal", "valve", "motor", "bearing", "gasket", "flange", "filter")


@dataclass
class Clock:
    """Unix time (s), as the test sets it."""

    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Site:
    """An open store, how another process would open it, and its clock."""

    store: DocumentStore
    where: str
    clock: Clock = field(default_factory=Clock)


def vector(text: str, dimensions: int = 8) -> npt.NDArray[np.float32]:
    """Of unit length: how often each of `WORDS` is in the text, and a little that is the text's own."""
    found = np.zeros(dimensions, np.float32)
    for place, word in enumerate(WORDS):
        found[place] = text.lower().count(word)
    own = np.frombuffer(hashlib.sha256(text.encode()).digest()[:dimensions], np.uint8).astype(np.float32)
    found += own / 2_000.0 + 0.001
    return found / np.float32(np.linalg.norm(found))


def chunks(text: str, size: int = 40) -> list[Chunk]:
    """The text in pieces of `size` characters."""
    return [
        Chunk(text[at : at + size], at, min(len(text), at + size), 9, ("Manual", f"Part {at}"), at // 80 + 1)
        for at in range(0, len(text), size)
    ]


def index(store: DocumentStore, claim: Claim) -> None:
    """What a worker does: the file's text, cut and embedded."""
    text = b"".join(store.files.content(claim.file.file_id)).decode()
    pieces = chunks(text)
    width = claim.embedder.dimensions
    made = np.stack([vector(one.text, width) for one in pieces]) if pieces else np.zeros((0, width), np.float32)
    store.index.finish(claim, claim.embedder, pieces, made)


def work(store: DocumentStore) -> int:
    """All that is left to do. Returns how much that was."""
    done = 0
    while claim := store.work.claim("worker", 60.0):
        if not store.index.reuse(claim):
            index(store, claim)
        done += 1
    return done


def put(
    store: DocumentStore, store_id: str, text: str, attributes: Mapping[str, AttributeValue] | None = None, **how: Any
) -> StoreFile:
    """A file of that text in the store, not yet indexed."""
    file = store.files.add("manual.txt", "assistants", [text.encode()])
    return store.members.add(store_id, Entry(file.id, attributes or {}, how))


def texts(count: int) -> Iterator[str]:
    """Each another one, of a few pieces."""
    for n in range(count):
        yield f"Manual {n}: the {WORDS[n % 8]} of unit P-{n}/A leaks at the {WORDS[(n * 3 + 1) % 8]}. " * 2


def nearest(store: DocumentStore, store_id: str, text: str, **how: Any) -> Sequence[str]:
    """The texts of the pieces that are nearest to a text by vector, the nearest first."""
    found = store.search.find(store_id, vector=vector(text), embedder=SMALL, **how)
    return [one.chunk.text for one in store.search.pieces(store_id, [hit.id for hit in found.vectors])]
