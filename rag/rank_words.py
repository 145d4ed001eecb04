"""What two texts share, by their words: how much of a question stands in a passage, and what is said twice. Pure."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

_WORD: Final = re.compile(r"[^\W_]+")
_PIECE: Final = re.compile(r"\w+|[^\w\s]")
_ENDINGS: Final = ("ing", "ed", "es", "s")
_LEAST_STEM: Final = 3
_ANY_FORM: Final = r"(?<![^\W_]){}(?:ing|ed|es|e|s)?(?![^\W_])"
_AROUND: Final = ".,;:!?()[]{}<>'\"“”‘’…*|-"
SHINGLE: Final = 4
"""Words in a row. Fewer are shared by texts that only are of the same matter."""
ALIKE: Final = 0.9
"""Of the smaller text's shingles, from which two texts say the same."""

# Words of which a question is made, whatever it is about.
_EMPTY: Final = frozenset(
    "a about all am an and any are as at be been but by can could did do does doing for from get gets had has have how "
    "i if in into is it its let may me might must my no not of off on one or our out over shall she he should so some "
    "such than that the their them then there these they this those to under until up use used was we were what when "
    "where whether which while who whom whose why will with without would you your".split()
)


def stem(word: str) -> str:
    """Roughly, for English; a word of another language loses its last letters at most. `change` is `changed`."""
    ending = next((one for one in _ENDINGS if word.endswith(one) and len(word) - len(one) >= _LEAST_STEM), "")
    word = word.removesuffix(ending)
    return word[:-1] if word.endswith("e") and len(word) > _LEAST_STEM else word


def stems(text: str) -> frozenset[str]:
    """Of all its words."""
    return frozenset(map(stem, _WORD.findall(text.lower())))


def pieces(text: str) -> list[tuple[int, int]]:
    """Places of its words and signs."""
    return [match.span() for match in _PIECE.finditer(text)]


def content(question: str) -> frozenset[str]:
    """Stems of those words of a question that say what it is about; all of its words where none does."""
    words = _WORD.findall(question.lower())
    return frozenset(stem(word) for word in words if word not in _EMPTY) or frozenset(map(stem, words))


class Coverage:
    """How much of a question stands in passages, its rare words counting more (by BM25's inverse document frequency).

    How rare a word is, is seen among the candidates: what none of them has, the store hardly has.
    """

    def __init__(self, question: str, candidates: Iterable[str]) -> None:
        # Looked for one by one: a question has few words, and the texts have thousands.
        self._words = [(word, re.compile(_ANY_FORM.format(re.escape(word)))) for word in sorted(content(question))]
        found: Counter[str] = Counter()
        n = 0
        for text in candidates:
            found.update(self._in(text))
            n += 1
        self._weights = {word: math.log1p((n - found[word] + 0.5) / (found[word] + 0.5)) for word, _ in self._words}

    def of(self, passages: Iterable[str]) -> float:
        """0 to 1: of that passage which has the most; 1 for a question without words, 0 without passages."""
        whole = sum(self._weights.values())
        if not whole:
            return 1.0
        shares = [sum(self._weights[word] for word in self._in(text)) / whole for text in passages]
        return min(1.0, max(shares, default=0.0))

    def _in(self, text: str) -> list[str]:
        lower = text.lower()
        return [word for word, form in self._words if word in lower and form.search(lower)]


def window(text: str, question: str, most: int) -> str:
    """The part of a text that has most of the question's words; of parts that have as many, the first.

    Args:
        most: words and signs in it. A reranker's tokens are about 1.3 times as many.
    """
    places = pieces(text)
    if len(places) <= most:
        return text
    wanted = content(question)
    kept = [stem(text[start:end].lower()) for start, end in places]
    step = max(1, most // 4)
    starts = [*range(0, len(places) - most, step), len(places) - most]
    best = max(starts, key=lambda at: (_asked(kept[at : at + most], wanted), -at))
    return text[places[best][0] : places[best + most - 1][1]]


def _asked(words: Sequence[str], wanted: frozenset[str]) -> float:
    """Different words first, then how often."""
    found = Counter(word for word in words if word in wanted)
    return sum(1 + 0.1 * min(3, times - 1) for times in found.values())


class Fingerprint:
    """What a text says, for telling whether another one says the same."""

    def __init__(self, text: str) -> None:
        # By blanks: a regular expression takes ten times as long.
        self._words = [bare for word in text.lower().split() if (bare := word.strip(_AROUND))]
        # Pages for two models of a machine often differ in a number only; such are not the same.
        self._names = frozenset(word for word in self._words if not word.isalpha())
        self._made: frozenset[tuple[str, ...]] | None = None

    def same(self, other: Fingerprint) -> bool:
        """Whether one of the two can be left out: nearly all words in the same order, and no other number or name."""
        few, many = sorted((len(self._words), len(other._words)))
        if self._names != other._names or few < ALIKE * many:
            return False
        mine, others = self._shingles(), other._shingles()
        return len(mine & others) >= ALIKE * max(len(mine), len(others))

    def _shingles(self) -> frozenset[tuple[str, ...]]:
        # Few texts come so far.
        if self._made is None:
            last = max(1, len(self._words) - SHINGLE + 1)
            self._made = frozenset(tuple(self._words[at : at + SHINGLE]) for at in range(last))
        return self._made
