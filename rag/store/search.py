"""Looks for pieces of a vector store, and reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import orjson

from rag.filters import matches
from rag.store.engine import SHIFT, Asked, Cursor, Engine, Row, piece_id
from rag.store.errors import NotThere, OtherEmbedder
from rag.store.index import headings
from rag.store.members import SELECT_MEMBER, to_member
from rag.store.parts import embedder_of, number
from rag.store.records import Found, Piece, StoreFile
from rag.types import Chunk, Embedder, Filter, Page

if TYPE_CHECKING:
    from rag.store.engine import Vectors

_CHUNK = "SELECT id, body, first, behind, tokens, headings, page, pages FROM chunks"


class Search:
    """Reads only. Its methods raise `StoreTrouble`, and `NotThere` where an id is not known."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def warm(self, store_id: str) -> None:
        """Reads into memory what the first search would."""
        with self._engine.read() as cursor:
            row = cursor.one("SELECT embedder FROM stores WHERE id = ?", (store_id,))
            if row is None:
                raise NotThere("vector store", store_id)
            self._engine.warm(cursor, row[0], embedder_of(cursor, row[0]).dimensions)

    def find(
        self,
        store_id: str,
        *,
        text: str = "",
        vector: Vectors | None = None,
        embedder: Embedder | None = None,
        wanted: Filter | None = None,
        limit: int = 50,
    ) -> Found:
        """The best `limit` pieces by words and by vector, of those files that the filter takes.

        Args:
            vector: [dimensions], float32, of unit length, made by `embedder`.

        Raises:
            OtherEmbedder: the store is pinned to another one.
        """
        with self._engine.read() as cursor:
            row = cursor.one("SELECT n, embedder FROM stores WHERE id = ?", (store_id,))
            if row is None:
                raise NotThere("vector store", store_id)
            pinned = embedder_of(cursor, row[1])
            if vector is not None and (embedder != pinned or vector.shape != (pinned.dimensions,)):
                raise OtherEmbedder(pinned, embedder or Embedder("unknown", "", len(vector)))
            return self._engine.search(cursor, Asked(row[0], row[1], wanted, text, vector, limit))

    def pieces(self, store_id: str, ids: Sequence[int], wanted: Filter | None = None) -> list[Piece]:
        """Those of the ids that are in the store, in the order of the ids."""
        with self._engine.read() as cursor:
            store = number(cursor, "stores", "vector store", store_id)
            files: dict[int, StoreFile | None] = {}
            found = []
            for id_ in ids:
                doc = id_ >> SHIFT
                if doc not in files:
                    files[doc] = _file(cursor, store, doc, wanted)
                row = cursor.one(f"{_CHUNK} WHERE id = ?", (id_,))
                file = files[doc]
                if row is not None and file is not None:
                    found.append(_piece(row, file))
        return found

    def neighbours(self, piece: Piece, before: int, behind: int) -> list[Piece]:
        """The pieces around one, itself included, in the file's order."""
        doc = piece.id >> SHIFT
        first = piece_id(doc, max(0, piece.place - before))
        last = min(piece.id + behind, piece_id(doc + 1, 0) - 1)
        with self._engine.read() as cursor:
            rows = cursor.all(f"{_CHUNK} WHERE id >= ? AND id <= ? ORDER BY id", (first, last))
        return [_piece(row, piece.file) for row in rows]

    def of_file(self, store_id: str, file_id: str) -> list[Piece]:
        """All pieces of a file in the store, in order; none: it is not completed."""
        with self._engine.read() as cursor:
            rows = cursor.all(
                f"{SELECT_MEMBER} WHERE s.id = ? AND f.id = ?",
                (store_id, file_id),
            )
            if not rows:
                raise NotThere("file in the vector store", file_id)
            doc = cursor.one("SELECT doc FROM members WHERE n = ?", (rows[0][-1],))
            if doc is None or doc[0] is None:
                return []
            ends = (piece_id(doc[0], 0), piece_id(doc[0] + 1, 0))
            chunks = cursor.all(f"{_CHUNK} WHERE id >= ? AND id < ? ORDER BY id", ends)
        return [_piece(row, to_member(rows[0])) for row in chunks]


def _file(cursor: Cursor, store: int, doc: int, wanted: Filter | None) -> StoreFile | None:
    asked = f"{SELECT_MEMBER} WHERE m.store = ? AND m.doc = ? AND m.status = 'completed' ORDER BY m.n"
    files = map(to_member, cursor.all(asked, (store, doc)))
    return next((file for file in files if matches(wanted, file.attributes)), None)


def _piece(row: Row, file: StoreFile) -> Piece:
    id_, body, first, behind, tokens, titles, page, inside = row
    pages = tuple(Page(*one) for one in orjson.loads(inside))
    return Piece(id_, file, id_ & ((1 << SHIFT) - 1), Chunk(body, first, behind, tokens, headings(titles), page, pages))
