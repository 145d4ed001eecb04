"""Searching the pieces by both paths, as the store does: exact cosines, and FTS5's BM25."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import apsw

from bench.questions_corpus import Piece
from bench.questions_models import Embedder, Vectors
from rag.rank import Candidate, Ranked

LIMIT = 50
PLAIN = "unicode61 remove_diacritics 2"
_WORD = re.compile(r"\S*[^\W_]\S*")


@dataclass(frozen=True, slots=True)
class Hit:
    """What a path found: the number of a piece."""

    id: int
    score: float


class Index:
    """Of pieces and their vectors.

    Args:
        headings: the path of headings goes before each text that is embedded.
        tokens: FTS5's tokenizer.
    """

    def __init__(
        self, pieces: Sequence[Piece], embedder: Embedder, *, headings: bool = True, tokens: str = PLAIN
    ) -> None:
        self.pieces = pieces
        texts = [_embedded(piece) if headings else piece.chunk.text for piece in pieces]
        self._vectors: Vectors = embedder.vectors(texts)
        self._db = apsw.Connection(":memory:")
        self._db.execute(f"CREATE VIRTUAL TABLE words USING fts5(body, headings, tokenize='{tokens}')")
        with self._db:
            self._db.executemany(
                "INSERT INTO words (rowid, body, headings) VALUES (?, ?, ?)",
                ((n, piece.chunk.text, " ".join(piece.chunk.headings)) for n, piece in enumerate(pieces)),
            )

    def by_vector(self, vector: Vectors, limit: int = LIMIT) -> list[Hit]:
        """The best, with their cosines."""
        cosines = self._vectors @ vector
        return [Hit(int(n), float(cosines[n])) for n in (-cosines).argsort(kind="stable")[:limit]]

    def by_words(self, text: str, limit: int = LIMIT) -> list[Hit]:
        """The best, with their BM25. A word with signs in it is found as its parts in a row."""
        words = dict.fromkeys(word.replace('"', "") for word in _WORD.findall(text))
        asked = " OR ".join(f'"{word}"' for word in words)
        sql = "SELECT rowid, -bm25(words) AS score FROM words WHERE words MATCH ? ORDER BY score DESC, rowid LIMIT ?"
        return [Hit(*row) for row in self._db.execute(sql, (asked, limit))] if asked else []

    def candidates(self, ranked: Sequence[Ranked]) -> list[Candidate]:
        """With their texts."""
        found = []
        for one in ranked:
            piece = self.pieces[one.id]
            found.append(Candidate(one.id, piece.file, piece.place, piece.chunk, one.scores))
        return found


def _embedded(piece: Piece) -> str:
    return "\n".join(part for part in (" > ".join(piece.chunk.headings), piece.chunk.text) if part)
