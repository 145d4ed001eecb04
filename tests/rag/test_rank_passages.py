"""Passages, and when the documents do not say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.rank import Candidate, Scores
from rag.rank_passages import MOST_MERGED, Floor, answer, passages
from rag.rank_words import Coverage, content, window
from rag.types import Chunk

FILE = "".join(f"Section {n}. The value of part {n} is set with lever {n}, then locked.\n\n" for n in range(30))


def at(start: int, end: int, place: int, *, file: str = "a", cosine: float = 0.8) -> Candidate:
    """A piece of `FILE`."""
    chunk = Chunk(FILE[start:end], start, end, 9, ("Manual",))
    return Candidate(
        place if file == "a" else 1000 + place, file, place, chunk, Scores(cosine, 1.0, cosine, None, cosine)
    )


def sections(size: int, overlap: int = 0) -> list[Candidate]:
    """`FILE` in pieces of `size` characters."""
    starts = range(0, len(FILE) - overlap, size - overlap)
    return [at(start, min(len(FILE), start + size), place) for place, start in enumerate(starts)]


def test_neighbours_become_one_passage_where_the_better_one_stood() -> None:
    all_ = sections(100)
    found = passages([all_[7], all_[3], all_[8]], 5)
    assert [(one.start, one.end) for one in found] == [(700, 900), (300, 400)]
    assert found[0].text == FILE[700:900]
    assert found[0].best is all_[7]


def test_a_piece_between_two_passages_joins_them() -> None:
    all_ = sections(100)
    found = passages([all_[4], all_[1], all_[6], all_[5]], 3)
    assert [(one.start, one.end) for one in found] == [(400, 700), (100, 200)]
    assert found[0].best is all_[4]


def test_places_next_to_each_other_in_other_files_are_no_neighbours() -> None:
    assert len(passages([at(0, 50, 0), at(50, 90, 1, file="b")], 5)) == 2


def test_blanks_between_pieces_keep_places_right() -> None:
    found = passages([at(0, 40, 0), at(43, 80, 1)], 5)
    assert found[0].text[43:80] == FILE[43:80]
    assert found[0].text[40:43].isspace()
    assert len(found[0].text) == found[0].end - found[0].start


PLACES = st.lists(st.integers(0, 19), unique=True, max_size=20)


@given(PLACES, st.integers(1, 12), st.sampled_from([0, 20, 49]))
def test_passages_are_bounded_apart_and_true(order: list[int], limit: int, overlap: int) -> None:
    all_ = sections(100, overlap)
    given_ = [all_[n % len(all_)] for n in order if n < len(all_)]
    found = passages(given_, limit)
    assert len(found) <= limit
    assert all(len(one.pieces) <= MOST_MERGED for one in found)
    assert all(one.text == FILE[one.start : one.end] for one in found)
    shown = [piece.id for one in found for piece in one.pieces]
    assert len(shown) == len(set(shown))
    assert {one.id for one in given_[:1]} <= set(shown)
    best = [given_.index(one.best) for one in found]
    assert best == sorted(best)
    assert all(given_.index(one.best) == min(map(given_.index, one.pieces)) for one in found)


def test_what_nobody_wrote_about_is_not_answered() -> None:
    near = answer("which lever sets the value of part 7", [at(0, 200, 0)], 3)
    far = answer("what is the capital of Australia", [at(0, 200, 0, cosine=0.45)], 3)
    assert near.answered
    assert not far.answered
    assert far.passages, "who wants to see them may"
    assert answer("anything", [], 3).confidence == 0.0


def test_a_reranker_has_its_say_about_what_is_said() -> None:
    found = [at(0, 200, 0), at(400, 600, 4)]
    yes = answer("which lever", found, 3, logits={0: 6.0, 4: 0.0})
    no = answer("which lever", found, 3, logits={0: -8.0, 4: -8.0})
    assert yes.confidence > no.confidence


@given(
    st.floats(-1, 1),
    st.floats(0, 1),
    st.none() | st.floats(-8, 8),
    st.floats(0, 0.5),
    st.floats(0, 0.5),
    st.floats(0, 3),
)
def test_nothing_that_speaks_for_an_answer_speaks_against_it(
    cosine: float, covered: float, rerank: float | None, nearer: float, more: float, higher: float
) -> None:
    floor = Floor()
    rest = [] if rerank is None else [rerank]
    least = floor.confidence([cosine, covered, *rest])
    assert 0 <= least <= 1
    assert floor.confidence([cosine + nearer, covered, *rest]) >= least
    assert floor.confidence([cosine, covered + more, *rest]) >= least
    assert floor.confidence([cosine, covered, *(logit + higher for logit in rest)]) >= least


def test_rare_words_of_a_question_count_more() -> None:
    pages = ["the pump is red", "the pump is blue", "the pump has a gasket", "pump", "pump and valve"]
    coverage = Coverage("where is the gasket of the pump", pages)
    assert coverage.of([pages[2]]) == pytest.approx(1.0)
    assert 0 < coverage.of([pages[0]]) < 0.2
    assert coverage.of(["nothing"]) == coverage.of([]) == 0.0


@given(st.text(), st.lists(st.text(), max_size=4))
def test_coverage_is_a_share(question: str, pages: list[str]) -> None:
    assert 0 <= Coverage(question, pages).of(pages) <= 1


def test_a_question_of_empty_words_only_is_taken_at_its_word() -> None:
    assert content("what is it") == {"what", "is", "it"}
    assert content("what is the torque") == {"torqu"}


@given(st.text(alphabet="ab .,\n7-", max_size=200), st.text(alphabet="ab 7"), st.integers(1, 20))
def test_a_window_is_a_part_of_the_text_and_short(text: str, question: str, most: int) -> None:
    part = window(text, question, most)
    assert part in text
    assert part == text or len(part.split()) <= most
