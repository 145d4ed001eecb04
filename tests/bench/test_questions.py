"""The question set, and the figures that are made of places."""

from __future__ import annotations

from bench.questions_corpus import absent, answering, plain, questions
from bench.questions_report import REFERENCE, interval, ranking, reached, reciprocal
from bench.questions_ways import place


def test_there_are_enough_questions_none_of_them_twice_and_both_halves_are_large() -> None:
    asked = questions()
    without = absent()
    assert len(asked) > 150
    assert len({one.text for one in [*asked, *without]}) == len(asked) + len(without)
    assert all(one.known_by and all(len(words) >= 7 for words in one.known_by) for one in asked)
    for all_ in (asked, without):
        assert 0.35 < sum(one.held for one in all_) / len(all_) < 0.65
    assert sum(one.near for one in without) > 20


def test_no_question_is_the_words_that_it_is_known_by() -> None:
    copied = [one.text for one in questions() if any(plain(one.text) in words for words in one.known_by)]
    assert not copied


def test_a_piece_answers_where_it_has_the_words_whatever_their_case_and_quotes() -> None:
    pieces = {7: "Then set   POWERDOWNFLAG;\nit’s the file.", 9: "Nothing."}
    question = questions()[0]
    known = type(question)("which file", (plain("powerdownflag; it's"),))
    assert answering([known, question], pieces) == [frozenset({7}), frozenset()]


def test_a_place_is_of_the_first_that_answers_and_ends_at_ten() -> None:
    found = [{n} for n in range(20)]
    assert place(found, frozenset({3, 5})) == 4
    assert place(found, frozenset({10})) is None
    assert place([{7, 8}], frozenset({8})) == 1, "what was left out as the same counts as found"


def test_figures_of_places() -> None:
    places = [1, 2, None, 4]
    assert (reached(places, 1), reached(places, 3), reached(places, 10)) == (0.25, 0.5, 0.75)
    assert reciprocal(places) == [1.0, 0.5, 0.0, 0.25]


def test_an_interval_tells_a_gain_from_chance() -> None:
    low, high = interval([1.0] * 60 + [0.0] * 40, [0.0] * 100)
    assert 0.4 < low < 0.6 < high < 0.8
    assert interval([0.5] * 9, [0.5] * 9) == (0.0, 0.0)
    table = ranking("T", "N", {REFERENCE: [None, 2], "other": [1, 1]})
    assert [row[:2] for row in table.rows] == [[REFERENCE, "0.000"], ["other", "1.000"]]
    assert table.rows[1][5].startswith("+1.000")
