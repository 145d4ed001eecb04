"""A second look: parts of the best pieces, and what it changes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.rank import Candidate, Scores
from rag.rank_looks import MOST_PARTS, PART_WORDS, looks, parts
from rag.rank_passages import answer, looked_again
from rag.rank_words import pieces
from rag.types import Chunk

MANUAL = """Safety
Disconnect the pump from the mains before any work on it. Wait five minutes. Never run the pump dry: the shaft seal is
cooled by the liquid and fails within one minute. Open the suction valve fully. Vent the casing at plug V2.

Faults
E07 Motor overheated: let it cool for 30 minutes and clean the fan cover. E12 Dry running: fill and vent the casing.

Maintenance
Change the oil every 2000 hours of operation. Use 0.4 litres of ISO VG 46.
"""


def candidate(text: str, number: int = 0, headings: tuple[str, ...] = ("Pump P-101",)) -> Candidate:
    chunk = Chunk(text, 0, len(text), 99, headings)
    return Candidate(number, "file", 2 * number, chunk, Scores(0.6, None, 0.6, -8.0, 0.3))


@given(st.text(st.sampled_from("ab .!\n"), max_size=2_000), st.integers(1, 60))
def test_the_parts_are_all_of_the_text_in_order(text: str, most: int) -> None:
    said = [part.split() for part in parts(text, most)]
    assert [word for words in said for word in words if word.strip(".!")] == [
        word for word in text.split() if word.strip(".!")
    ] or "".join("".join(words) for words in said) == "".join(text.split())
    assert all(len(pieces(part)) <= 2 * most for part in parts(text, most))


def test_a_part_ends_with_a_sentence_or_a_line() -> None:
    found = list(parts(MANUAL))
    assert all(part.endswith(".") for part in found)
    assert found[-1].startswith("Maintenance"), "a paragraph begins another one"
    assert found[-1].endswith("Change the oil every 2000 hours of operation. Use 0.4 litres of ISO VG 46.")
    assert all(len(pieces(part)) <= PART_WORDS for part in found)


def test_the_parts_about_the_question_come_first_with_their_heading() -> None:
    first = looks("How often must the oil be changed?", [candidate(MANUAL)])[0]
    assert first.startswith("Pump P-101: ")
    assert "Change the oil every 2000 hours" in first


def test_few_parts_of_few_pieces_are_looked_at() -> None:
    many = [candidate(MANUAL * 20, n) for n in range(9)]
    assert len(looks("oil", many)) == MOST_PARTS
    assert len(looks("oil", many, 2)) == 2
    assert looks("oil", many, 0) == []
    assert looks("oil", []) == []


@pytest.mark.parametrize(("logit", "answered"), [(6.0, True), (-10.0, False)])
def test_a_second_look_may_find_an_answer_and_takes_none_away(logit: float, answered: bool) -> None:
    question, found = "How often must the oil be changed?", [candidate(MANUAL)]
    said = answer(question, found, 3)
    again = looked_again(question, said, found, [-9.0, logit])
    assert again.passages == said.passages
    assert again.answered == (said.answered or answered)
    assert again.confidence >= said.confidence
