"""What an embedder cannot take at once, in windows. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from rag.chunks import Tokenize

MOST_WORD_TOKENS = 16


def windows(text: str, tokenize: Tokenize, room: int) -> tuple[tuple[int, int], ...]:
    """Places (start, end) that together are the whole text, each of at most `room` tokens, about equally long, and cut
    between words. One, where all of it fits.

    A chunk may be longer than its embedder reads: nothing of it is cut off, its vector is made of its windows'
    (the mean of the normalised ones, weighted by their tokens).
    """
    tokens = tokenize(text)
    if len(tokens) <= room:
        return ((0, len(text)),)
    n = -(-len(tokens) // room)
    while True:
        cuts = sorted({0, len(text), *(_near(text, tokens, len(tokens) * i // n) for i in range(1, n))})
        places = tuple(pairwise(cuts))
        if n >= len(tokens) or all(len(tokenize(text[start:end])) <= room for start, end in places):
            return places
        n += 1


def _near(text: str, tokens: Sequence[tuple[int, int]], at: int) -> int:
    """The beginning of a word, at this token or a little before."""
    for n in range(at, max(0, at - MOST_WORD_TOKENS), -1):
        start = tokens[n][0]
        if start and text[start - 1].isspace():
            return start
    return tokens[at][0]
