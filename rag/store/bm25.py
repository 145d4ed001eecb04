"""BM25 of a few pieces for a question, from their texts: what all words together say, for any database."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Collection, Sequence
from typing import Final

from rag.store.engine import Cursor
from rag.store.records import Hit

_SATURATION: Final = 1.2
_LENGTH: Final = 0.75
_LEAST_WEIGHT: Final = 1e-6
"""Of a word that most rows have. All three are FTS5's."""
_MARKS: Final = re.compile("[\u0300-\u036f]+")
_SIGNS: Final = re.compile(r"[^\x00-\x7f\w]+")
_BYTES: Final = bytes(
    byte if byte >= 0x80 or chr(byte).isalnum() else 0x20 for byte in bytes(range(256)).lower()
)  # ASCII in small letters; signs are blanks


def tokens(text: str) -> list[bytes]:
    """Its words and numbers, in small letters and without accents, as the databases' own tokenizers have them."""
    if not text.isascii():
        text = _SIGNS.sub(" ", _MARKS.sub("", unicodedata.normalize("NFKD", text.lower())))
    return text.encode("utf-8", "replace").translate(_BYTES).split()


def scored(
    cursor: Cursor, asked: Sequence[tuple[str, int]], total: int, ids: Collection[int], sure: Collection[int]
) -> list[Hit]:
    """Those of the pieces that have a word of the question, the best first.

    Args:
        asked: words, with the number of rows that have them.
        total: rows in the database.
        sure: those that the database found by their words.
    """
    sought = [(_row(tokens(word)), _weight(rows, total)) for word, rows in asked if rows]
    if not sought or not ids:
        return []
    marks = ",".join("?" * len(ids))
    rows = cursor.all(f"SELECT id, body, headings FROM chunks WHERE id IN ({marks})", tuple(ids))  # noqa: S608
    texts = [(id_, tokens(f"{body} {headings}")) for id_, body, headings in rows]
    mean = sum(len(text) for _, text in texts) / max(1, len(texts)) or 1.0
    hits = []
    for id_, text in texts:
        joined = _row(text)
        least = _SATURATION * (1.0 - _LENGTH + _LENGTH * len(text) / mean)
        score = 0.0
        for word, weight in sought:
            if times := joined.count(word):
                score += weight * times * (_SATURATION + 1.0) / (times + least)
        if score or id_ in sure:
            hits.append(Hit(id_, score))
    return sorted(hits, key=lambda hit: (-hit.score, hit.id))


def _row(words: Sequence[bytes]) -> bytes:
    """Each with blanks of its own, so that one that is there twice in a row is counted twice."""
    return b" " + b"  ".join(words) + b" "


def _weight(rows: int, total: int) -> float:
    """The rarer, the more it says."""
    return max(_LEAST_WEIGHT, math.log((max(total, rows) - rows + 0.5) / (rows + 0.5)))
