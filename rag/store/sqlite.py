"""The store in one SQLite file: vectors as sqlite-vec has them in rows, words in FTS5, a scan in memory in front."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

from rag.filters import to_sql
from rag.store.engine import SHIFT, Asked, Cursor, piece_id
from rag.store.live import Live
from rag.store.parts import dump
from rag.store.records import Found, Hit
from rag.store.sqlite_db import SqliteCursor, SqliteDb
from rag.store.words import question
from rag.types import Chunk

if TYPE_CHECKING:
    from rag.store.engine import Ids, Vectors

SCAN_BYTES: Final = 400 << 20
RESCORED: Final = 64
"""At least so many of the scan's best are compared in float32: the ten nearest were among the first 26."""
MOST_CACHED: Final = 32
# Words are looked up first, then whose they are: only then their BM25 is computed.
_WORDS: Final = (
    "SELECT rowid, -bm25(words) AS score FROM words WHERE words MATCH ? AND EXISTS (SELECT 1 FROM members m "  # noqa: S608
    f"WHERE m.doc = words.rowid >> {SHIFT} AND m.store = ? AND m.status = 'completed' AND "
)


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
        self._allowed: dict[tuple[int, int, str], Ids] = {}

    def write(self) -> AbstractContextManager[SqliteCursor]:
        """See `Engine`."""
        return self._db.write()

    def read(self) -> AbstractContextManager[SqliteCursor]:
        """See `Engine`."""
        return self._db.read()

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
        return Found(self._by_vector(cursor, asked), self._by_words(cursor, asked))

    def _by_words(self, cursor: Cursor, asked: Asked) -> list[Hit]:
        match = question(cursor, asked.text)
        if match is None:
            return []
        # The plus keeps SQLite from going through all files that the filter takes for each row.
        condition, values = to_sql(asked.wanted, asked.store, "+m.n")
        sql = f"{_WORDS}{condition}) ORDER BY score DESC, rowid LIMIT ?"
        return [Hit(*row) for row in cursor.all(sql, (match, asked.store, *values, asked.limit))]

    def _by_vector(self, cursor: Cursor, asked: Asked) -> list[Hit]:
        if asked.vector is None:
            return []
        docs = self._docs(cursor, asked)
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

    def _docs(self, cursor: Cursor, asked: Asked) -> Ids:
        """The documents that the filter takes, kept until any file in any store changes."""
        import numpy as np

        version = cursor.one("SELECT value FROM state WHERE name = 'members'")
        assert version is not None
        # By its text: 1.0 and True are equal in Python, and not in a filter.
        key = (version[0], asked.store, repr(asked.wanted))
        found = self._allowed.get(key)
        if found is None:
            condition, values = to_sql(asked.wanted, asked.store, "m.n")
            # One text in place of thousands of rows.
            row: Any = cursor.one(
                "SELECT group_concat(m.doc) FROM members m WHERE m.store = ? AND m.status = 'completed' "  # noqa: S608
                f"AND {condition}",
                (asked.store, *values),
            )
            found = np.unique(np.array((row[0] or "").split(","), dtype=np.int64)) if row[0] else np.empty(0, np.int64)
            with self._lock:
                while len(self._allowed) >= MOST_CACHED:
                    del self._allowed[next(iter(self._allowed))]
                self._allowed[key] = found
        return found
