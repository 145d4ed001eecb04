"""What a person asks, as a question to FTS5 that nothing in it can break, and that never costs more than a bound."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from rag.store.engine import Cursor

MOST_WORDS: Final = 32
BUDGET: Final = 4_000
"""Rows whose BM25 is computed for a question: about 2 µs each."""
_COUNT: Final = "SELECT count(*) FROM (SELECT 1 FROM words WHERE words MATCH ? LIMIT ?)"
_HAS_TOKEN: Final = re.compile(r"[^\W_]")


def phrases(text: str) -> list[str]:
    """Its words, each quoted: what has several tokens, such as P-101/A, is found with these in a row."""
    words = dict.fromkeys(word for word in text.replace("\0", " ").split() if _HAS_TOKEN.search(word))
    return ['"' + word.replace('"', '""') + '"' for word in words][:MOST_WORDS]


def chosen(asked: Sequence[str], rows: Callable[[str], int]) -> list[tuple[int, str]]:
    """The rarest of the phrases, as many as the budget allows, with their rows. Those left out decide least by BM25.

    Where even the rarest is in too many rows, there is one, in which the rarest are joined by AND until few enough
    rows have them all. Empty: nothing that could be found is asked for.

    Args:
        rows: in how many it is, which are counted up to `BUDGET` + 1.
    """
    # Of those that are too common to be counted the longer ones are taken for the rarer ones.
    counted = sorted(((count, one) for one in asked if (count := rows(one))), key=lambda two: (two[0], -len(two[1])))
    if not counted or counted[0][0] > BUDGET:
        return _narrowed([phrase for _, phrase in counted], rows)
    found: list[tuple[int, str]] = []
    spent = 0
    for count, phrase in counted:
        spent += count
        if spent > BUDGET and found:
            break
        found.append((count, phrase))
    return found


def _narrowed(common: Sequence[str], rows: Callable[[str], int]) -> list[tuple[int, str]]:
    if not common:
        return []
    asked, fewest = common[0], BUDGET + 1
    for phrase in common[1:]:
        narrower = f"{asked} AND {phrase}"
        count = rows(narrower)
        if count:
            asked, fewest = narrower, count
        if count and count <= BUDGET:
            break
    return [(fewest, asked)]


def question(cursor: Cursor, text: str) -> str | None:
    """The text for FTS5's MATCH. None: nothing that could be found is in it."""
    return " OR ".join(asked for _, asked in chosen(phrases(text), lambda asked: _rows(cursor, asked))) or None


def _rows(cursor: Cursor, asked: str) -> int:
    row = cursor.one(_COUNT, (asked, BUDGET + 1))
    return int(row[0]) if row else 0
