"""A second look at the best pieces before it is said that the documents do not answer. Pure.

A chunk of a short manual holds several matters: its vector is near to no question, and a reranker takes all of it for
beside the point. A part of it that is about one matter it takes for what it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from rag.rank import Candidate
from rag.rank_words import content, pieces, stems

PART_WORDS: Final = 48
MOST_PARTS: Final = 6
_LOOKED_AT: Final = 3
"""Of the best pieces."""
_STOP: Final = re.compile(r"[.!?]['\")\]]*\s+|\n+")


def looks(question: str, candidates: Sequence[Candidate], most: int = MOST_PARTS) -> list[str]:
    """Parts of the best pieces, for a reranker: those with most of the question's words first.

    Args:
        candidates: in their order, the best first.
    """
    wanted = content(question)
    found = []
    for place, one in enumerate(candidates[:_LOOKED_AT]):
        heading = f"{one.chunk.headings[-1]}: " if one.chunk.headings else ""
        found += [(-len(stems(part) & wanted), place, heading + part) for part in parts(one.chunk.text)]
    return [text for _, _, text in sorted(found, key=lambda one: one[:2])[: min(most, MOST_PARTS)]]


def parts(text: str, most: int = PART_WORDS) -> Iterator[str]:
    """The text in parts of about `most` words that end with a line or a sentence, where it has any."""
    start, before, held = 0, 0, 0
    ends = [(match.end(), "\n\n" in match[0]) for match in _STOP.finditer(text)]
    for end, paragraph in [*ends, (len(text), True)]:
        words = len(pieces(text[before:end]))
        if held and held + words > most:
            yield from _cut(text[start:before], most)
            start, held = before, 0
        held += words
        before = end
        if paragraph and held >= most // 3:  # a heading alone goes with what follows
            yield from _cut(text[start:end], most)
            start, held = end, 0
    if held:
        yield from _cut(text[start:], most)


def _cut(part: str, most: int) -> Iterator[str]:
    """As it is; or, where one sentence is far too long, between words."""
    words = pieces(part)
    if len(words) <= 2 * most:
        yield part.strip()
        return
    for at in range(0, len(words), most):
        yield part[words[at][0] : words[min(at + most, len(words)) - 1][1]]
