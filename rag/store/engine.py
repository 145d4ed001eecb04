"""What a database must do for the store. The SQL of `rag/store` is one for all: parameters are `?`, rows tuples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from rag.store.records import Found
from rag.types import Chunk, Filter

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Vectors = npt.NDArray[np.float32]
    Ids = npt.NDArray[np.int64]

SHIFT: Final = 20
"""A piece's id is its document's, shifted, and its place in it: what holds of a document holds of its pieces."""
MOST_PIECES: Final = 1 << SHIFT

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a search looks for.

    Attributes:
        store, embedder: their numbers.
        text: empty: nothing by words. vector: [dimensions], of unit length; None: nothing by vector.
        limit: by each path.
    """

    store: int
    embedder: int
    wanted: Filter | None
    text: str
    vector: Vectors | None
    limit: int


class Cursor(Protocol):
    """Inside one transaction."""

    def all(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        """Every row."""
        ...

    def one(self, sql: str, values: Sequence[Any] = ()) -> Row | None:
        """The first row."""
        ...

    def run(self, sql: str, values: Sequence[Any] = ()) -> int:
        """How many rows it changed."""
        ...

    def many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """The same statement with each row's values."""
        ...


class Engine(Protocol):
    """A database with vectors and words. Any thread may call; writers wait for each other.

    Raises:
        StoreTrouble: from everything, when the database cannot be used.
    """

    def write(self) -> AbstractContextManager[Cursor]:
        """A transaction, all of which happens when the block ends, or nothing. One at a time."""
        ...

    def read(self) -> AbstractContextManager[Cursor]:
        """A view of the database as it is at the first statement."""
        ...

    def prepare(self, cursor: Cursor, embedder: int, dimensions: int) -> None:
        """Makes room for the vectors of an embedder, where there is none yet."""
        ...

    def put(self, cursor: Cursor, embedder: int, doc: int, chunks: Sequence[Chunk], vectors: Vectors) -> None:
        """A document's vectors and words; its chunks are in `chunks` already."""
        ...

    def remove(self, cursor: Cursor, embedder: int, doc: int, pieces: int) -> None:
        """The same, away."""
        ...

    def drop(self, cursor: Cursor, embedder: int) -> None:
        """The room for an embedder of which no document is left."""
        ...

    def search(self, cursor: Cursor, asked: Asked) -> Found:
        """The best pieces of a store among those that the filter takes, by words and by vector."""
        ...

    def warm(self, cursor: Cursor, embedder: int, dimensions: int) -> None:
        """Reads into memory what the first search would."""
        ...

    def tidy(self) -> None:
        """Gives back to the disk, bit by bit, what is not used any more; writers wait for a moment at most."""
        ...

    def close(self) -> None:
        """Ends everything; nothing may be called afterwards."""
        ...


def piece_id(doc: int, place: int) -> int:
    """See `SHIFT`."""
    return doc << SHIFT | place
