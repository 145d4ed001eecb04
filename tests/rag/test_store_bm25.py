"""BM25 from texts: it is FTS5's, whatever the texts say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.store.bm25 import scored, tokens
from rag.store.engine import Cursor

WORDS = ("pump", "Pump", "seal", "P-101/A", "p", "101", "über", "Motor.", "the", "日本", "x_y", "\u201cpump\u201d", "—")


class Texts:
    """The pieces' texts, as a database would give them."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts

    def all(self, _: str, ids: Sequence[int]) -> list[tuple[Any, ...]]:
        return [(id_, self._texts[id_], "[]") for id_ in ids]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join), min_size=1, max_size=12),
    st.lists(st.sampled_from(("pump", "seal", "P-101/A", "uber", "motor", "日本", "101")), min_size=1, unique=True),
)
def test_the_scores_are_those_of_fts5(texts: list[str], words: list[str]) -> None:
    db = apsw.Connection(":memory:")
    db.execute("CREATE VIRTUAL TABLE words USING fts5(body, tokenize='unicode61 remove_diacritics 2')")
    db.executemany("INSERT INTO words (rowid, body) VALUES (?, ?)", enumerate(texts))
    quoted = [f'"{word}"' for word in words]
    count = "SELECT count(*) FROM words WHERE words MATCH ?"
    counted = [(word, db.execute(count, (one,)).fetchall()[0][0]) for word, one in zip(words, quoted, strict=True)]
    sql = "SELECT rowid, -bm25(words) FROM words WHERE words MATCH ?"
    expected = dict(db.execute(sql, (" OR ".join(quoted),)).fetchall())
    found = scored(cast(Cursor, Texts(texts)), counted, len(texts), range(len(texts)), ())
    assert {hit.id: hit.score for hit in found} == pytest.approx(expected)
    assert [hit.score for hit in found] == sorted((hit.score for hit in found), reverse=True)
    db.close()


def test_tokens_are_as_fts5_has_them() -> None:
    assert tokens("P-101/A, ÜBER\u00a0die „Straße“ x_y") == [
        one.encode() for one in ("p", "101", "a", "uber", "die", "straße", "x", "y")
    ]
    assert tokens("… -- \n") == []


def test_what_the_database_found_stays() -> None:
    """Even where its tokenizer sees a word that ours does not."""
    texts = cast(Cursor, Texts(["nothing", "pump", "nor here"]))
    hits = scored(texts, [("pump", 1)], 100, (0, 1, 2), {2})
    assert [(hit.id, hit.score > 0) for hit in hits] == [(1, True), (2, False)]
    assert scored(texts, [("pump", 0)], 100, (0, 1), ()) == []
    assert scored(texts, [("pump", 1)], 100, (), ()) == []
