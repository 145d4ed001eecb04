"""One embedder's vectors in memory, in step with the database: what any process committed is there."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Any, Final

from rag.store.engine import SHIFT, Cursor

if TYPE_CHECKING:
    from rag.store.engine import Vectors
    from rag.store.scan import View

SAMPLE: Final = 8_192
"""Vectors that the mean is taken of. Of fewer it is taken again when there are `GROWTH` times as many."""
GROWTH: Final = 8
MOST_AT_ONCE: Final = 8_192


class Live:
    """Kept by reading what is new. Any thread may ask; one of them reads, the others wait for it.

    Args:
        most_bytes: above it nothing is kept.
    """

    def __init__(self, embedder: int, dimensions: int, most_bytes: int) -> None:
        self._embedder = embedder
        self._dimensions = dimensions
        self._most_bytes = most_bytes
        self._lock = Lock()
        self._version = -1
        self._sampled = 0
        self._view: View | None = None

    def view(self, cursor: Cursor) -> View | None:
        """What the transaction sees, or what came later. None: it does not fit into the memory that there is for it."""
        version = _version(cursor)
        if version <= self._version:
            return self._view
        with self._lock:
            if version > self._version:
                self._view = self._read(cursor)
                self._version = version
            return self._view

    def _read(self, cursor: Cursor) -> View | None:
        from rag.store import scan

        total = self._total(cursor)
        if total * (-(-self._dimensions // 64) * 40 + 8) > self._most_bytes:
            self._sampled = 0
            return None
        view = self._view
        stale = self._sampled < SAMPLE and total >= GROWTH * self._sampled
        if view is None or stale or view.dead > view.rows // 4:
            view = scan.empty(self._mean(cursor))
        view = self._with_new(cursor, view)
        if view.rows - view.dead != total:
            view = scan.removed(view, _ids(cursor, self._embedder))
        return view

    def _total(self, cursor: Cursor) -> int:
        row = cursor.one("SELECT pieces FROM embedders WHERE n = ?", (self._embedder,))
        return int(row[0]) if row else 0

    def _mean(self, cursor: Cursor) -> Vectors:
        import numpy as np

        rows = cursor.all(f"SELECT vector FROM vectors_{self._embedder} LIMIT ?", (SAMPLE,))  # noqa: S608
        self._sampled = len(rows)
        mean = _matrix(rows, self._dimensions).mean(axis=0) if rows else np.zeros(self._dimensions, np.float32)
        return mean.astype(np.float32)

    def _with_new(self, cursor: Cursor, view: View) -> View:
        """With the documents behind the last one: SQLite commits them in the order of their numbers."""
        from rag.store import scan

        last = int(view.docs[-1]) if len(view.docs) else 0
        asked = "SELECT n, pieces FROM docs WHERE embedder = ? AND n > ? ORDER BY n"
        docs: list[int] = []
        sizes: list[int] = []
        for doc, pieces in [*cursor.all(asked, (self._embedder, last)), (0, MOST_AT_ONCE)]:
            if docs and sum(sizes) + pieces > MOST_AT_ONCE:
                rows = cursor.all(
                    f"SELECT vector FROM vectors_{self._embedder} WHERE id >= ? AND id < ? ORDER BY id",  # noqa: S608
                    (docs[0] << SHIFT, docs[-1] + 1 << SHIFT),
                )
                view = scan.added(view, docs, sizes, _matrix(rows, self._dimensions))
                docs, sizes = [], []
            docs.append(doc)
            sizes.append(pieces)
        return view


def _version(cursor: Cursor) -> int:
    row = cursor.one("SELECT value FROM state WHERE name = 'docs'")
    return int(row[0]) if row else 0


def _ids(cursor: Cursor, embedder: int) -> Any:
    import numpy as np

    return np.array(
        [n for (n,) in cursor.all("SELECT n FROM docs WHERE embedder = ? ORDER BY n", (embedder,))], np.int64
    )


def _matrix(rows: list[tuple[Any, ...]], dimensions: int) -> Vectors:
    import numpy as np

    return np.frombuffer(b"".join(one for (one,) in rows), np.float32).reshape(-1, dimensions)
