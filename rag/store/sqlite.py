"""The store in one SQLite file: vectors as sqlite-vec has them in rows, words in FTS5, a scan in memory in front."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Final

from rag.store.allowed import Allowed
from rag.store.bm25 import scored
from rag.store.engine import SHIFT, Asked, Cursor, piece_id
from rag.store.live import Live
from rag.store.parts import dump
from rag.store.records import Found, Hit
from rag.store.sqlite_db import SqliteCursor, SqliteDb
from rag.store.words import Counted, Counts, chosen, words_of
from rag.types import Chunk

if TYPE_CHECKING:
    from rag.store.engine import Ids, Vectors

SCAN_BYTES: Final = 400 << 20
RESCORED: Final = 64
"""At least so many of the scan's best are compared in float32: the ten nearest were among the first 26."""
# The last parameter has a byte for each document's number: whether the filter takes it. A few rows cost nothing so, and
# many 0.1 µs each; only those that it takes are scored.
_WORDS: Final = (
    "SELECT rowid, -bm25(words) AS score FROM words WHERE words MATCH ? "  # noqa: S608
    f"AND substr(?, (rowid >> {SHIFT}) + 1, 1) = x'01' ORDER BY score DESC, rowid LIMIT ?"
)
_COUNT: Final = "SELECT count(*), max(rowid) FROM (SELECT rowid FROM words WHERE words MATCH ? LIMIT ?)"


class SqliteEngine:
    """See `Engine`. Writers wait for a lock, readers for one of a few connections; WAL keeps the two apart.

    Args:
        key: what the file is encrypted with; empty: it is not.
        scan_bytes: of memory for the vectors of all embedders; those that do not fit are scanned by sqlite-vec.
    """

    def __init__(self, path: Path, key: str = "", scan_bytes: int = SCAN_BYTES) -> None:
        self._db = SqliteDb(path, key)
        self._scan_bytes = scan_bytes
        self._lives: dict[int, Live] = {}
        self._lock = Lock()
        self._allowed = Allowed()
        self._counts = Counts(_rows)

    def write(self) -> AbstractContextManager[SqliteCursor]:
        """See `Engine`."""
        return self._db.write()

    def read(self) -> AbstractContextManager[SqliteCursor]:
        """See `Engine`."""
        return self._db.read()

    def tidy(self) -> None:
        """See `Engine`."""
        self._db.tidy()

    def close(self) -> None:
        """See `Engine`."""
        self._db.close()

    def prepare(self, cursor: Cursor, embedder: int, dimensions: int) -> None:
        """See `Engine`. Rows, no `vec0` table: one vector is read 30 times as fast so, all of them 7 times."""
        check = f"CHECK (vec_length(vector) = {int(dimensions)})"
        cursor.run(f"CREATE TABLE vectors_{embedder} (id INTEGER PRIMARY KEY, vector BLOB NOT NULL {check}) STRICT")

    def drop(self, cursor: Cursor, embedder: int) -> None:
        """See `Engine`."""
        cursor.run(f"DROP TABLE vectors_{embedder}")

    def put(self, cursor: Cursor, embedder: int, doc: int, chunks: Sequence[Chunk], vectors: Vectors) -> None:
        """See `Engine`."""
        # The table's name is a number of ours.
        cursor.many(
            f"INSERT INTO vectors_{embedder} (id, vector) VALUES (?, ?)",  # noqa: S608
            ((piece_id(doc, place), vector.tobytes()) for place, vector in enumerate(vectors)),
        )
        cursor.many(
            "INSERT INTO words (rowid, body, headings) VALUES (?, ?, ?)",
            ((piece_id(doc, place), one.text, " ".join(one.headings)) for place, one in enumerate(chunks)),
        )

    def remove(self, cursor: Cursor, embedder: int, doc: int, pieces: int) -> None:
        """See `Engine`."""
        ends = (piece_id(doc, 0), piece_id(doc + 1, 0))
        cursor.run(f"DELETE FROM vectors_{embedder} WHERE id >= ? AND id < ?", ends)  # noqa: S608
        cursor.many("DELETE FROM words WHERE rowid = ?", ((piece_id(doc, place),) for place in range(pieces)))

    def search(self, cursor: Cursor, asked: Asked) -> Found:
        """See `Engine`."""
        docs = self._allowed.of(cursor, asked.store, asked.wanted)
        near = self._by_vector(cursor, asked, docs)
        return Found(near, self._by_words(cursor, asked, docs, near))

    def _by_words(self, cursor: Cursor, asked: Asked, docs: Ids, near: Sequence[Hit]) -> list[Hit]:
        """`near`: what the vectors found; it is scored as well."""
        words = words_of(asked.text)
        if not words or not len(docs):
            return []
        total = self._counts.total(cursor)
        counted = [Counted(_quoted(word), self._counts.of(cursor, _quoted(word))) for word in words]
        match = " OR ".join(
            one.text for one in chosen(counted, None if near else lambda text: self._counts.of(cursor, text))
        )
        rows = cursor.all(_WORDS, (match, _bytes(docs), asked.limit)) if match else []
        found = {id_ for id_, _ in rows}
        known = [(word, one.rows) for word, one in zip(words, counted, strict=True)]
        return scored(cursor, known, total, found | {hit.id for hit in near}, found)[: asked.limit]

    def _by_vector(self, cursor: Cursor, asked: Asked, docs: Ids) -> list[Hit]:
        if asked.vector is None:
            return []
        view = self.live(asked.embedder, len(asked.vector)).view(cursor)
        if view is None:
            among, ids = f"id >> {SHIFT}", docs
        else:
            among, ids = "id", view.nearest(asked.vector, view.mask(docs), max(RESCORED, 4 * asked.limit))
        sql = (
            f"SELECT id, 1.0 - vec_distance_cosine(vector, ?) AS score FROM vectors_{asked.embedder} "  # noqa: S608
            f"WHERE {among} IN (SELECT value FROM json_each(?)) ORDER BY score DESC, id LIMIT ?"
        )
        return [Hit(*row) for row in cursor.all(sql, (asked.vector.tobytes(), dump(ids.tolist()), asked.limit))]

    def warm(self, cursor: Cursor, embedder: int, dimensions: int) -> None:
        """See `Engine`. 1,000,000 pieces take some seconds."""
        self.live(embedder, dimensions).view(cursor)

    def live(self, embedder: int, dimensions: int) -> Live:
        """What of an embedder's vectors is in memory."""
        with self._lock:
            return self._lives.setdefault(embedder, Live(embedder, dimensions, self._scan_bytes))


def _quoted(word: str) -> str:
    """As FTS5 takes it for words alone. One with several tokens, such as P-101/A, is found with these in a row."""
    return '"' + word.replace('"', '""') + '"'


def _rows(cursor: Cursor, text: str, limit: int) -> tuple[int, int | None]:
    row = cursor.one(_COUNT, (text, limit))
    return (row[0], row[1]) if row else (0, None)


def _bytes(docs: Ids) -> bytes:
    import numpy as np

    taken = np.zeros(int(docs[-1]) + 1, np.uint8)
    taken[docs] = 1
    return taken.tobytes()
