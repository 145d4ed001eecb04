"""The store in PostgreSQL with pgvector, which several gateways share. No index that would lose neighbours."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final

from rag.filters import to_sql
from rag.store.bm25 import scored
from rag.store.engine import Asked, Cursor, piece_id
from rag.store.postgres_db import PostgresCursor, PostgresDb
from rag.store.records import Found, Hit
from rag.store.words import Counted, Counts, chosen, words_of
from rag.types import Chunk

if TYPE_CHECKING:
    from rag.store.engine import Vectors

LONGEST: Final = 2_046
"""Bytes of a word: PostgreSQL leaves longer ones out of its index, and fails where one is asked for."""
_BETWEEN: Final = re.compile(r"[\W_]+")
_ALLOWED: Final = (
    "EXISTS (SELECT 1 FROM members m WHERE m.doc = {}.doc AND m.store = ? AND m.status = 'completed' AND {})"
)


class PostgresEngine:
    """See `Engine`. `address`: `postgresql://user:password@host/database`."""

    def __init__(self, address: str) -> None:
        self._db = PostgresDb(address)
        self._counts = Counts(_rows)

    def write(self) -> AbstractContextManager[PostgresCursor]:
        """See `Engine`."""
        return self._db.write()

    def read(self) -> AbstractContextManager[PostgresCursor]:
        """See `Engine`."""
        return self._db.read()

    def tidy(self) -> None:
        """See `Engine`. The server does that by itself."""

    def close(self) -> None:
        """See `Engine`."""
        self._db.close()

    def prepare(self, cursor: Cursor, embedder: int, dimensions: int) -> None:
        """See `Engine`."""
        columns = f"id BIGINT PRIMARY KEY, doc BIGINT NOT NULL, vector VECTOR({int(dimensions)}) NOT NULL"
        cursor.run(f"CREATE TABLE vectors_{embedder} ({columns})")
        cursor.run(f"CREATE INDEX vectors_{embedder}_doc ON vectors_{embedder} (doc)")

    def drop(self, cursor: Cursor, embedder: int) -> None:
        """See `Engine`."""
        cursor.run(f"DROP TABLE vectors_{embedder}")

    def put(self, cursor: Cursor, embedder: int, doc: int, chunks: Sequence[Chunk], vectors: Vectors) -> None:
        """See `Engine`."""
        cursor.many(
            f"INSERT INTO vectors_{embedder} (id, doc, vector) VALUES (?, ?, ?)",  # noqa: S608
            [(piece_id(doc, place), doc, vector) for place, vector in enumerate(vectors)],
        )
        cursor.many(
            "INSERT INTO words (id, doc, tokens) VALUES (?, ?, to_tsvector('simple', ?) || to_tsvector('simple', ?))",
            [
                (piece_id(doc, place), doc, _tokens(one.text), _tokens(" ".join(one.headings)))
                for place, one in enumerate(chunks)
            ],
        )

    def remove(self, cursor: Cursor, embedder: int, doc: int, pieces: int) -> None:
        """See `Engine`."""
        cursor.run(f"DELETE FROM vectors_{embedder} WHERE doc = ?", (doc,))  # noqa: S608
        cursor.run("DELETE FROM words WHERE doc = ?", (doc,))

    def warm(self, cursor: Cursor, embedder: int, dimensions: int) -> None:
        """See `Engine`. The server has its own memory."""

    def search(self, cursor: Cursor, asked: Asked) -> Found:
        """See `Engine`."""
        near = self._by_vector(cursor, asked)
        return Found(near, self._by_words(cursor, asked, near))

    def _by_vector(self, cursor: Cursor, asked: Asked) -> list[Hit]:
        if asked.vector is None:
            return []
        condition, values = to_sql(asked.wanted, asked.store, "m.n")
        sql = (
            f"SELECT v.id, 1.0 - (v.vector <=> ?) AS score FROM vectors_{asked.embedder} v "  # noqa: S608
            f"WHERE {_ALLOWED.format('v', condition)} ORDER BY score DESC, v.id LIMIT ?"
        )
        return [Hit(*row) for row in cursor.all(sql, (asked.vector, asked.store, *values, asked.limit))]

    def _by_words(self, cursor: Cursor, asked: Asked, near: Sequence[Hit]) -> list[Hit]:
        """`near`: what the vectors found; it is scored as well."""
        words = {word: phrase for word in words_of(asked.text) if (phrase := _phrase(word))}
        total = self._counts.total(cursor)
        counted = {word: Counted(phrase, self._counts.of(cursor, phrase)) for word, phrase in words.items()}
        rarest = chosen(list(counted.values()), None if near else lambda text: self._counts.of(cursor, text))
        found = self._matched(cursor, asked, rarest, total) if rarest else set()
        known = [(word, one.rows) for word, one in counted.items()]
        return scored(cursor, known, total, found | {hit.id for hit in near}, found)[: asked.limit]

    def _matched(self, cursor: Cursor, asked: Asked, rarest: Sequence[Counted], total: int) -> set[int]:
        """ts_rank knows nothing of how rare a word is: each word's rank is weighted by that, as BM25 does."""
        ranks, weights = [], []
        for one in rarest:
            ranks.append("? * ts_rank(w.tokens, ?::tsquery, 1)")
            rows = min(one.rows, total)
            weights += [math.log(1.0 + (total - rows + 0.5) / (rows + 0.5)), _query(one.text)]
        either = " | ".join(f"({_query(one.text)})" for one in rarest)
        condition, values = to_sql(asked.wanted, asked.store, "m.n")
        sql = (
            f"SELECT w.id, {' + '.join(ranks)} AS score FROM words w WHERE w.tokens @@ ?::tsquery "  # noqa: S608
            f"AND {_ALLOWED.format('w', condition)} ORDER BY score DESC, w.id LIMIT ?"
        )
        return {row[0] for row in cursor.all(sql, (*weights, either, asked.store, *values, asked.limit))}


def _tokens(text: str) -> str:
    """Words and numbers with nothing between, so that PostgreSQL's parser finds no paths, hosts or signs in them."""
    plain = "".join(one for one in unicodedata.normalize("NFKD", text) if not unicodedata.combining(one))
    return _BETWEEN.sub(" ", plain).lower().strip()


def _phrase(word: str) -> str:
    tokens = " ".join(token for token in _tokens(word).split() if len(token.encode()) <= LONGEST)
    return f'"{tokens}"' if tokens else ""


def _query(asked: str) -> str:
    """As a tsquery. Tokens are letters and digits only, so nothing in them can be an operator."""
    parts = (part.strip('"').split() for part in asked.split(" AND "))
    return " & ".join("(" + " <-> ".join(f"'{token}'" for token in tokens) + ")" for tokens in parts)


def _rows(cursor: Cursor, asked: str, limit: int) -> tuple[int, int | None]:
    sql = "SELECT count(*), max(id) FROM (SELECT id FROM words WHERE tokens @@ ?::tsquery LIMIT ?) w"
    row: Any = cursor.one(sql, (_query(asked), limit))
    return int(row[0]), row[1]
