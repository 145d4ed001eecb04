"""A store's settings from questions whose answers are known."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from rag.rank import Settings
from rag.rank_tune import LEAST_CASES, Case, fitted, reciprocals, tuned


@dataclass(frozen=True, slots=True)
class Hit:
    id: int
    score: float


VECTORS = (Hit(1, 0.70), Hit(2, 0.69), Hit(3, 0.50))
WORDS = (Hit(3, 20.0), Hit(2, 2.0))


def cases(answer: int, n: int = LEAST_CASES) -> list[Case]:
    """All alike: 1 is the best by vectors, 3 by words."""
    return [Case(VECTORS, WORDS, frozenset({answer})) for _ in range(n)]


def test_where_the_words_know_they_get_more_weight_and_where_they_mislead_none() -> None:
    assert tuned(cases(3)).words > Settings().words
    assert tuned(cases(1), Settings(words=1.0)).words <= 0.2
    assert reciprocals(cases(3), tuned(cases(3))) == [1.0] * LEAST_CASES


def test_what_is_as_good_or_cannot_be_told_stays_as_it_is() -> None:
    assert tuned(cases(3), Settings(words=0.6)).words == 0.6
    assert tuned(cases(3, LEAST_CASES - 1)) == Settings()
    # One question among many that go on well: chance.
    assert tuned([*cases(2, 40), *cases(3, 1)], Settings(words=0.15)).words == 0.15


def test_a_floor_is_fitted_to_what_tells_the_two_apart() -> None:
    yes = [(0.8 + n / 100, n % 3) for n in range(12)]
    no = [(0.5 + n / 100, n % 3) for n in range(30)]
    bias, near, other = fitted([*yes, *no], [True] * 12 + [False] * 30)
    assert near > 10 * abs(other)
    assert bias + 0.9 * near > 0 > bias + 0.5 * near
    with pytest.raises(ValueError, match="that the documents answer"):
        fitted(yes, [True] * 12)
