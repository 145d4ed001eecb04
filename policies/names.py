"""From what a model says of the pieces of a text to the names of persons in it. Pure.

A name begins where the model is sure of a word, and goes on over the words beside it that it half believes in, over
initials, and over particles that another word of the name follows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from policies.detect_text import plain
from policies.name_places import strings_in

NAME = "name"
"""The data class."""

LABELS = frozenset({"GIVEN_NAME", "SURNAME"})
WINDOW, OVERLAP = 480, 64
"""Characters that the model sees at once, as its authors cut texts, and of them those that the next window sees too."""

SEED, EXTEND = 0.5, 0.15
"""Probabilities from which a word begins a name, and from which a neighbour belongs to it: measured to be best."""

PARTICLES = frozenset("van von der den de la le di da del bin al ten ter zu dos".split())

Found = tuple[int, int, str, float]
"""Start and end in characters, label, probability."""

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_BETWEEN = re.compile(r"[ \t.'’-]{1,3}")
_HALVES = re.compile("[\ud800-\udfff]")  # of a character beyond the 16-bit ones, escaped: no text to send anybody
_PART = re.compile(r"[^\W\d_]{2,}")


def texts_of(raw: Mapping[str, Any], trusted: frozenset[str] = frozenset()) -> list[str]:
    """The texts of a body that may hold names, plain, each once; without those that the gateway wrote itself."""
    said = (text for text in strings_in(raw) if text not in trusted)
    texts = dict.fromkeys(_HALVES.sub("\ufffd", plain(text).text) for text in said)
    return [text for text in texts if _PART.search(text)]


def windows(text: str) -> Iterator[str]:
    """The text in pieces that the model can take; where one ends between words, the next begins between words."""
    start = 0
    while len(text) - start > WINDOW:
        end = _space(text, start + WINDOW - OVERLAP // 2, start + WINDOW)
        yield text[start:end]
        start = _space(text, end - OVERLAP, end - OVERLAP // 2)
    yield text[start:]


def _space(text: str, least: int, most: int) -> int:
    """The last place between those where a word ends; the latest where none does."""
    at = max(text.rfind(" ", least, most), text.rfind("\n", least, most))
    return at if at >= 0 else most


def spans_of(text: str, found: Iterable[Found]) -> list[tuple[int, int]]:
    """Where whole names stand in a window, by what the model found in it."""
    words = [match.span() for match in _WORD.finditer(text)]
    scores = _scores(words, found)
    named = [score >= SEED for score in scores]
    if not any(named):
        return []
    beside = [_BETWEEN.fullmatch(text, a[1], b[0]) is not None for a, b in pairwise(words)]
    _extend([text[start:end] for start, end in words], scores, beside, named)
    spans: list[tuple[int, int]] = []
    for i, (start, end) in enumerate(words):
        if named[i]:
            joined = i > 0 and named[i - 1] and beside[i - 1]
            spans[-1:] = [(spans[-1][0], end)] if joined else [*spans[-1:], (start, end)]
    return spans


def _scores(words: Sequence[tuple[int, int]], found: Iterable[Found]) -> list[float]:
    """Of each word the best of its pieces; a piece may be a given name or a surname."""
    pieces: dict[tuple[int, int], float] = {}
    for start, end, label, probability in found:
        if label.removeprefix("B-").removeprefix("I-") in LABELS and end > start:
            pieces[start, end] = pieces.get((start, end), 0.0) + probability
    scores = [0.0] * len(words)
    for (start, end), score in pieces.items():
        if score < EXTEND:
            continue
        for i, (begin, stop) in enumerate(words):
            if start < stop and begin < end:
                scores[i] = max(scores[i], score)
    return scores


def _extend(words: Sequence[str], scores: Sequence[float], beside: Sequence[bool], named: list[bool]) -> None:
    """Names grow over their neighbours until nothing changes."""
    grown = True
    while grown:
        grown = False
        for i, word in enumerate(words):
            after = i > 0 and named[i - 1] and beside[i - 1]
            ahead = i + 1 < len(words) and named[i + 1] and beside[i]
            if named[i] or not (after or ahead):
                continue
            initial = len(word) == 1 and word.isupper()
            if scores[i] >= EXTEND or initial or (ahead and word.lower() in PARTICLES):
                named[i] = grown = True


def literals(names: Iterable[str]) -> list[str]:
    """What is looked for in the whole request: each name, and the words that it consists of."""
    strings: dict[str, None] = {}
    for name in names:
        whole = re.sub(r"['’]s$", "", name)
        strings[whole] = None
        strings.update((part, None) for part in _PART.findall(whole) if part.lower() not in PARTICLES)
    return list(strings)
