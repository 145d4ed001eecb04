"""What files are searched by: documents, cut and embedded. A document is in the store whole, or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import orjson

from backends.errors import InvalidRequest
from rag.extract.kinds import READERS, promised
from rag.store.engine import MOST_PIECES, Cursor, Engine, piece_id
from rag.store.errors import OtherEmbedder, Superseded
from rag.store.parts import dump, embedder_number, embedder_of, kept
from rag.store.records import Claim
from rag.types import Chunk, Embedder

if TYPE_CHECKING:
    from rag.store.engine import Vectors

MOST_REMOVED: Final = 1 << 62
"""More than there can be."""
_DONE = "status = 'completed', doc = ?, owner = '', until = 0, error_code = NULL, error = NULL"


class Index:
    """Writes documents. Its methods raise `StoreTrouble`, and `Superseded` where the claim is no longer good."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def reuse(self, claim: Claim) -> bool:
        """Completes the file with what its content was indexed to before, if it was: nothing is computed or copied."""
        with self._engine.write() as cursor:
            member, embedder = _held(cursor, claim)
            doc = _find(cursor, claim, embedder)
            if doc is not None:
                _complete(self._engine, cursor, claim, member, doc)
        return doc is not None

    def finish(self, claim: Claim, embedder: Embedder, chunks: Sequence[Chunk], vectors: Vectors) -> None:
        """Completes the file: chunks, words, vectors and status in one transaction; on the disk when this returns.

        Args:
            vectors: [chunks, dimensions], of unit length, in the order of the chunks.

        Raises:
            OtherEmbedder: the store is pinned to another one.
            InvalidRequest: shapes that do not fit, numbers that are not finite, or too many chunks.
        """
        if embedder != claim.embedder:
            raise OtherEmbedder(claim.embedder, embedder)
        _check(embedder, chunks, vectors)
        chunks = [replace(one, text=kept(one.text), headings=tuple(map(kept, one.headings))) for one in chunks]
        with self._engine.write() as cursor:
            member, number = _held(cursor, claim)
            doc = _find(cursor, claim, number)
            if doc is None:
                doc = self._insert(cursor, claim, number, chunks, vectors)
            _complete(self._engine, cursor, claim, member, doc)

    def _insert(self, cursor: Cursor, claim: Claim, embedder: int, chunks: Sequence[Chunk], vectors: Vectors) -> int:
        size = sum(len(chunk.text.encode()) for chunk in chunks) + vectors.nbytes
        made = cursor.one(
            "INSERT INTO docs (sha256, chunking, embedder, pieces, bytes) VALUES (?, ?, ?, ?, ?) RETURNING n",
            (claim.file.sha256, _how(claim), embedder, len(chunks), size),
        )
        assert made is not None
        doc = int(made[0])
        cursor.many(
            "INSERT INTO chunks (id, body, first, behind, tokens, headings, page, pages) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                (
                    piece_id(doc, place),
                    one.text,
                    one.start,
                    one.end,
                    one.tokens,
                    dump(one.headings),
                    one.page,
                    dump([(page.number, page.start) for page in one.pages]),
                )
                for place, one in enumerate(chunks)
            ),
        )
        self._engine.put(cursor, embedder, doc, chunks, vectors)
        _count(cursor, embedder, len(chunks))
        return doc


def _check(embedder: Embedder, chunks: Sequence[Chunk], vectors: Vectors) -> None:
    import numpy as np

    if len(chunks) > MOST_PIECES:
        raise InvalidRequest(f"The file has {len(chunks)} pieces; {MOST_PIECES} is the most.")
    wanted = (len(chunks), embedder.dimensions)
    if vectors.shape != wanted or vectors.dtype != np.float32:
        raise InvalidRequest(f"Vectors of shape {vectors.shape} ({vectors.dtype}); wanted {wanted} (float32).")
    if not np.isfinite(vectors).all():
        raise InvalidRequest("A vector has a number that is not finite.")


def _held(cursor: Cursor, claim: Claim) -> tuple[int, int]:
    """The numbers of the file in the store and of the embedder that its vectors are to be of."""
    row = cursor.one(
        "SELECT m.n, m.status, m.owner, s.embedder, s.next_embedder FROM members m JOIN stores s ON s.n = m.store "
        "JOIN files f ON f.n = m.file WHERE s.id = ? AND f.id = ?",
        (claim.file.store_id, claim.file.file_id),
    )
    if row is None or row[2] != claim.owner or row[1] != ("completed" if claim.rebuild else "in_progress"):
        raise Superseded
    embedder = row[4] if claim.rebuild else row[3]
    if embedder is None or embedder_of(cursor, embedder) != claim.embedder:
        raise Superseded
    return int(row[0]), int(embedder)


def _find(cursor: Cursor, claim: Claim, embedder: int) -> int | None:
    row = cursor.one(
        "SELECT n FROM docs WHERE sha256 = ? AND chunking = ? AND embedder = ?",
        (claim.file.sha256, _how(claim), embedder),
    )
    return int(row[0]) if row else None


def _how(claim: Claim) -> str:
    """What else a document depends on: how it was cut, and as what it was read, and by which version of the readers."""
    return dump({**claim.file.chunking, "as": promised(claim.file.name), "readers": READERS})


def _complete(engine: Engine, cursor: Cursor, claim: Claim, member: int, doc: int) -> None:
    change = "next_doc = ?, next_failed = 0, owner = '', until = 0" if claim.rebuild else _DONE
    before = cursor.one("SELECT doc, next_doc FROM members WHERE n = ?", (member,))
    cursor.run(f"UPDATE members SET {change} WHERE n = ?", (doc, member))  # noqa: S608
    remove_unused(engine, cursor, [one for one in before or () if one is not None])
    if not claim.rebuild:
        touched(cursor, "members")


def remove_members(engine: Engine, cursor: Cursor, column: str, n: int, most: int = MOST_REMOVED) -> int:
    """The files in stores of that file or store or of that number, and what only they used. Returns how many."""
    sql = f"SELECT n, doc, next_doc FROM members WHERE {column} = ? ORDER BY n LIMIT ?"  # noqa: S608
    rows = cursor.all(sql, (n, most))
    for row in rows:
        cursor.run("DELETE FROM attributes WHERE member = ?", (row[0],))
        cursor.run("DELETE FROM members WHERE n = ?", (row[0],))
    remove_unused(engine, cursor, [doc for row in rows for doc in row[1:] if doc is not None])
    touched(cursor, "members")
    return len(rows)


def remove_unused(engine: Engine, cursor: Cursor, docs: Sequence[int]) -> None:
    """Those of the documents that no file in any store has."""
    for doc in dict.fromkeys(docs):
        if cursor.one("SELECT 1 FROM members WHERE doc = ? OR next_doc = ?", (doc, doc)):
            continue
        row = cursor.one("SELECT embedder, pieces FROM docs WHERE n = ?", (doc,))
        assert row is not None
        engine.remove(cursor, row[0], doc, row[1])
        cursor.run("DELETE FROM chunks WHERE id >= ? AND id < ?", (piece_id(doc, 0), piece_id(doc + 1, 0)))
        cursor.run("DELETE FROM docs WHERE n = ?", (doc,))
        _count(cursor, row[0], -row[1])


def _count(cursor: Cursor, embedder: int, more: int) -> None:
    cursor.run("UPDATE embedders SET pieces = pieces + ? WHERE n = ?", (more, embedder))
    touched(cursor, "docs")


def touched(cursor: Cursor, what: str) -> None:
    """Says to every process that what it holds in memory is of the past: of `docs`, or of which `members` are found."""
    cursor.run("UPDATE state SET value = value + 1 WHERE name = ?", (what,))


def known_embedder(engine: Engine, cursor: Cursor, embedder: Embedder) -> int:
    """Its number, and a place for its vectors."""
    n = embedder_number(cursor, embedder)
    if n is None:
        made = cursor.one(
            "INSERT INTO embedders (name, sha256, dimensions) VALUES (?, ?, ?) RETURNING n",
            (embedder.name, embedder.sha256, embedder.dimensions),
        )
        assert made is not None
        n = int(made[0])
        engine.prepare(cursor, n, embedder.dimensions)
    return n


def headings(text: str) -> tuple[str, ...]:
    """As they were kept."""
    return tuple(orjson.loads(text))
