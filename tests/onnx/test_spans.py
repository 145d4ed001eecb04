"""From tokens' probabilities to spans of whole words."""

from __future__ import annotations

import itertools

import hypothesis.strategies as st
import pytest
from hypothesis import given

from backends.onnx.spans import Span, decode, merge, words

LABELS = ("O", "B-NAME", "I-NAME", "B-CITY", "I-CITY")
TEXT = "Ask Ann O'Brien-Lee in New Ulm, or Bob"


def found(text: str, *tokens: tuple[str, int, str, float]) -> list[Span]:
    """Spans of tokens told as (piece, word number, label, probability); the rest of it is `O`'s."""
    offsets, numbers, rows, at = [], [], [], 0
    for piece, number, label, p in tokens:
        at = text.index(piece, at)
        offsets.append((at, at + len(piece)))
        at += len(piece)
        numbers.append(number)
        row = [0.0] * len(LABELS)
        row[0] = 1.0 - p
        row[LABELS.index(label)] += p
        rows.append(row)
    return decode(text, words(offsets, numbers, rows, LABELS))


def test_a_name_with_marks_in_it_is_one_span() -> None:
    spans = found(
        TEXT,
        ("Ask", 0, "O", 0),
        ("Ann", 1, "B-NAME", 0.9),
        ("O", 2, "I-NAME", 0.8),
        ("'", 3, "O", 0),
        ("Brien", 4, "I-NAME", 0.9),
        ("-", 5, "I-NAME", 0.6),
        ("Lee", 6, "I-NAME", 0.9),
        ("in", 7, "O", 0),
        ("New", 8, "B-CITY", 0.9),
        ("Ulm", 9, "I-CITY", 0.7),
        ("Bob", 10, "B-NAME", 0.9),
    )
    assert [(TEXT[start:end], label) for start, end, label, _ in spans] == [
        ("Ann O'Brien-Lee", "NAME"),
        ("New Ulm", "CITY"),
        ("Bob", "NAME"),
    ]
    assert spans[1][3] == pytest.approx(0.8)


def test_a_word_is_found_whole_or_not_at_all() -> None:
    """Two of its three pieces are sure enough for the third."""
    text = "Hi Schwarzenegger"
    pieces = [("Hi", 0, "O", 0.0), ("Schwarz", 1, "B-NAME", 0.9), ("en", 1, "O", 0.0), ("egger", 1, "I-NAME", 0.9)]
    ((start, end, _, p),) = found(text, *pieces)
    assert (text[start:end], p) == ("Schwarzenegger", pytest.approx(0.6))
    assert found(text, pieces[0], ("Schwarz", 1, "B-NAME", 0.5), *pieces[2:3], ("egger", 1, "O", 0.0)) == []


def test_where_another_begins_there_are_two() -> None:
    text = "Ann Bob"
    spans = found(text, ("Ann", 0, "B-NAME", 0.9), ("Bob", 1, "B-NAME", 0.9))
    assert [(start, end) for start, end, _, _ in spans] == [(0, 3), (4, 7)]


SPAN = st.builds(
    lambda start, n, p: (start, start + n, "NAME", p), st.integers(0, 50), st.integers(1, 9), st.floats(0, 1)
)


@given(st.lists(st.lists(SPAN, max_size=6), max_size=4))
def test_merged_spans_do_not_overlap_and_lose_nothing_that_stands_alone(parts: list[list[Span]]) -> None:
    every = [span for part in parts for span in part]
    merged = merge(parts)
    assert merged == sorted(merged)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(merged))
    assert set(merged) <= set(every)
    for span in every:
        assert any(span[0] < kept[1] and kept[0] < span[1] for kept in merged)
