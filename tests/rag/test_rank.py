"""Fusion, duplicates and a reranker's scores: by example, and by laws that hold of anything."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.rank import (
    SCALES,
    Candidate,
    Scale,
    Scores,
    Settings,
    close,
    distinct,
    fuse,
    pair_text,
    pairs_within,
    reranked,
    scale,
)
from rag.types import Chunk


@dataclass(frozen=True, slots=True)
class Hit:
    id: int
    score: float


def piece(id_: int, text: str, final: float = 0.7, *, file: str = "a", place: int | None = None) -> Candidate:
    """A candidate whose chunk stands where `place` puts it."""
    place = id_ if place is None else place
    chunk = Chunk(text, place * 1000, place * 1000 + len(text), len(text.split()), ("Manual", "Pump"))
    return Candidate(id_, file, place, chunk, Scores(final, None, final, None, final))


COSINES = st.integers(-1000, 1000).map(lambda thousandths: thousandths / 1000)
BM25 = st.floats(0.001, 60, allow_nan=False)


def hits(score: st.SearchStrategy[float]) -> st.SearchStrategy[list[Hit]]:
    """As a store gives them: each piece once, the best first."""
    found = st.dictionaries(st.integers(0, 30), score, max_size=12)
    return found.map(lambda by_id: sorted((Hit(*one) for one in by_id.items()), key=lambda hit: -hit.score))


def test_what_both_paths_find_goes_before_what_one_finds_a_little_better() -> None:
    found = fuse([Hit(1, 0.72), Hit(2, 0.70), Hit(9, 0.55)], [Hit(2, 11.0), Hit(3, 12.0)])
    assert [one.id for one in found] == [2, 3, 1, 9]
    assert [one.scores.path for one in found[:3]] == ["both", "words", "vectors"]


def test_the_scores_of_each_path_are_kept_as_they_came() -> None:
    (only, second) = fuse([Hit(5, 0.61)], [Hit(5, 8.0), Hit(6, 2.0)], Settings(words=0.5))
    assert (only.scores.cosine, only.scores.words, only.scores.rerank) == (0.61, 8.0, None)
    assert only.scores.fused == only.scores.final == pytest.approx(1.11)
    # Found by words only: it has at most the lowest cosine, and a quarter of the best piece's words.
    assert second.scores.cosine is None
    assert second.scores.fused == pytest.approx(0.61 + 0.5 / 4)


def test_one_path_alone_keeps_its_order() -> None:
    assert [one.id for one in fuse([Hit(1, 0.9), Hit(2, 0.1)], [])] == [1, 2]
    assert [one.id for one in fuse([], [Hit(4, 3.0), Hit(1, 2.0)])] == [4, 1]
    assert fuse([], []) == []


@given(hits(COSINES), hits(BM25), st.floats(0, 2))
def test_fusing_loses_and_invents_nothing(vectors: list[Hit], words: list[Hit], weight: float) -> None:
    found = fuse(vectors, words, Settings(words=weight))
    assert {one.id for one in found} == {hit.id for hit in [*vectors, *words]}
    assert len(found) == len({one.id for one in found})
    finals = [one.scores.final for one in found]
    assert finals == sorted(finals, reverse=True)
    assert all(0 <= one.scores.score <= 1 for one in found)


@given(hits(COSINES), hits(BM25), st.floats(0.01, 100))
def test_the_scale_of_the_words_scores_does_not_matter(vectors: list[Hit], words: list[Hit], scale: float) -> None:
    """PostgreSQL's are of another scale than BM25."""
    scaled = [replace(hit, score=hit.score * scale) for hit in words]
    before = {one.id: one.scores.final for one in fuse(vectors, words)}
    after = {one.id: one.scores.final for one in fuse(vectors, scaled)}
    assert after == pytest.approx(before)


@given(hits(COSINES), hits(BM25))
def test_who_is_better_by_both_paths_is_better(vectors: list[Hit], words: list[Hit]) -> None:
    place = {one.id: at for at, one in enumerate(fuse(vectors, words))}
    cosine = {hit.id: hit.score for hit in vectors}
    bm25 = {hit.id: hit.score for hit in words}
    both = [id_ for id_ in place if id_ in cosine and id_ in bm25]
    for one in both:
        for other in both:
            if cosine[one] > cosine[other] + 1e-6 and bm25[one] >= bm25[other]:
                assert place[one] < place[other]


@given(hits(COSINES), hits(BM25))
def test_without_a_weight_for_words_the_cosine_decides(vectors: list[Hit], words: list[Hit]) -> None:
    found = [one for one in fuse(vectors, words, Settings(words=0.0)) if one.scores.cosine is not None]
    cosines = [one.scores.cosine for one in found]
    assert cosines == sorted(cosines, key=lambda value: -(value or 0.0))


@given(hits(st.floats(0.3, 0.9)), hits(BM25), st.floats(-0.5, 0.5), st.floats(0.2, 3))
def test_an_embedder_of_another_scale_ranks_the_same(
    vectors: list[Hit], words: list[Hit], moved: float, stretched: float
) -> None:
    other = [replace(hit, score=hit.score * stretched + moved) for hit in vectors]
    standard = Scale()
    theirs = Scale(standard.mean * stretched + moved, standard.spread * stretched)
    before = {one.id: one.scores.final for one in fuse(vectors, words)}
    after = {one.id: one.scores.final for one in fuse(other, words, Settings(scale=theirs))}
    assert after == pytest.approx(before)


def test_a_scale_is_known_or_seen() -> None:
    seen = [0.1, 0.3] * 150
    assert scale("all-minilm-l6-v2", seen) is SCALES["all-minilm-l6-v2"]
    assert scale("of-the-site", seen).mean == pytest.approx(0.2)
    assert scale("of-the-site", seen).spread == pytest.approx(0.1, rel=0.01)
    assert scale("of-the-site", seen[:20]) == Scale(), "too few to say anything"
    assert scale("of-the-site", [0.5] * 300).standard(0.5) == pytest.approx(Scale().mean)


PAGE = "Switch the pump off. Close the valve at the inlet. Open the drain and wait for two minutes until it is empty."


def test_the_same_text_is_shown_once_and_the_better_one_keeps_the_other() -> None:
    found = distinct([piece(1, PAGE), piece(2, "Quite another page about the filter."), piece(3, PAGE.upper() + "\n")])
    assert [one.id for one in found] == [1, 2]
    assert found[0].same == (3,)


def test_pages_of_two_models_are_not_the_same() -> None:
    first = PAGE + " Tighten the bolts to 45 Nm."
    assert len(distinct([piece(1, first), piece(2, first.replace("45", "54"))])) == 2


def test_a_text_is_not_the_same_as_a_longer_one_that_begins_with_it() -> None:
    assert len(distinct([piece(1, PAGE), piece(2, PAGE + " Then call the control room and ask for the key.")])) == 2


@given(
    st.lists(st.sampled_from([PAGE, PAGE.lower(), "", "7", "8", "Oil.", "Change the oil of the pump now."]), max_size=8)
)
def test_of_all_that_say_the_same_one_is_kept(texts: list[str]) -> None:
    given_ = [piece(n, text) for n, text in enumerate(texts)]
    kept = distinct(given_)
    assert sorted(id_ for one in kept for id_ in (one.id, *one.same)) == list(range(len(texts)))
    assert distinct(kept) == kept
    assert [one.id for one in kept] == sorted(one.id for one in kept)


def test_a_reranker_is_asked_about_the_close_ones() -> None:
    found = [piece(1, "a", 0.80), piece(2, "b", 0.79), piece(3, "c", 0.71), piece(4, "d", 0.69)]
    assert [one.id for one in close(found)] == [1, 2, 3]
    assert [one.id for one in close(found, most=2)] == [1, 2]


def test_a_reranker_is_not_asked_where_nothing_could_change() -> None:
    assert close([piece(1, "a", 0.90), piece(2, "b", 0.70)]) == []
    assert close([piece(1, "a")]) == []
    assert close([]) == []
    assert close([piece(1, "a"), piece(2, "b")], most=1) == []
    assert close([piece(1, "a"), piece(2, "b")], most=0) == []


def test_a_budget_of_time_is_a_number_of_pairs() -> None:
    assert pairs_within(0.1, 0.021) == 4
    assert pairs_within(0.0, 0.021) == 0
    assert pairs_within(-1.0, 0.021) == 0
    assert pairs_within(0.1, 0.0) == Settings().most_pairs


def test_a_reranker_changes_the_order_and_those_it_did_not_see_stay_behind() -> None:
    found = reranked([piece(1, "a", 0.80), piece(2, "b", 0.79), piece(3, "c", 0.60)], {1: -3.0, 2: 5.0})
    assert [one.id for one in found] == [2, 1, 3]
    assert [one.scores.rerank for one in found] == [5.0, -3.0, None]
    assert found[2].scores.final == pytest.approx(0.60 - 3.0 * Settings().rerank)


LOGITS = st.floats(-1e6, 1e6)


@given(st.lists(st.floats(-1, 1.5), min_size=1, max_size=9), st.dictionaries(st.integers(0, 8), LOGITS, max_size=6))
def test_reranking_loses_nothing_and_scores_follow_the_order(finals: list[float], logits: dict[int, float]) -> None:
    given_ = [piece(n, "x", final) for n, final in enumerate(sorted(finals, reverse=True))]
    found = reranked(given_, logits)
    assert {one.id for one in found} == {one.id for one in given_}
    assert [one.scores.score for one in found] == sorted((one.scores.score for one in found), reverse=True)
    assert all(0 <= one.scores.score <= 1 for one in found)
    if not logits:
        assert found == given_


def test_a_reranker_reads_the_heading_and_the_part_that_was_asked_for() -> None:
    filler = "This paragraph is about something else entirely and goes on for a while. " * 30
    text = filler + "The inlet valve V-7 is opened with the red lever. " + filler
    read = pair_text("how do I open valve V-7", piece(1, text))
    assert read.startswith("Pump: ")
    assert "V-7 is opened with the red lever" in read
    assert len(read) < len(text) / 3
