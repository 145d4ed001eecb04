"""Where a text may be cut, and how good each place is. Pure."""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rag.types import Extracted

INSIDE, WORD, SENTENCE, LINE, PARAGRAPH, HEADING = range(6)

BLOCK_CHARS = 1 << 16  # tokenised at once: what a tokenizer says of a text is ten times as large as the text
# No word is longer. A tokenizer may take what is for one unknown word, of which an embedder sees nothing.
MOST_WORD_CHARS = 64
STEP_CHARS = 16  # between cuts where there are no words

_STRETCH = re.compile(r"\S+")
# Ends of sentences, with what closes behind them; in Chinese and Japanese no blank follows.
_SENTENCE_END = re.compile(r"[.!?…][\"'”’)\]]*\Z")
_WIDE_ENDS = "。！？"


@dataclass(frozen=True, slots=True)
class Cuts:
    """Places in a text, the beginning and the end among them.

    Attributes:
        chars: in characters, ascending.
        tokens: of each, how many tokens of the text begin before it.
        ranks: of each, how good a place it is to cut.
    """

    chars: Sequence[int]
    tokens: Sequence[int]
    ranks: Sequence[int]

    @property
    def last(self) -> int:
        """The number of the last one."""
        return len(self.chars) - 1

    def within(self, first: int, tokens: int) -> int:
        """The last cut so that no more than so many tokens lie between."""
        return bisect_right(self.tokens, self.tokens[first] + tokens) - 1


def find_cuts(extracted: Extracted, tokenize: Callable[[str], Sequence[tuple[int, int]]], most: int) -> Cuts:
    """All places where the text may be cut; between two of them there are at most `most` tokens.

    Args:
        tokenize: the text's tokens as places (start, end).
        most: a row of more tokens may be cut inside.
    """
    text = extracted.text
    starts = _token_starts(text, tokenize)
    rows = list(_closed(extracted, starts, most))
    chars, ranks, tokens = array("q", [0]), array("b", [HEADING]), array("q", [0])
    row = 0
    for place, rank in _candidates(text, starts, {heading.start for heading in extracted.headings}, most):
        while row < len(rows) and rows[row][1] <= place:
            row += 1
        inside = row < len(rows) and rows[row][0] < place
        if place > chars[-1] and not inside:
            chars.append(place)
            ranks.append(rank)
            tokens.append(bisect_left(starts, place, tokens[-1]))
    if len(text) > chars[-1]:
        chars.append(len(text))
        ranks.append(HEADING)
        tokens.append(len(starts))
    return Cuts(chars, tokens, ranks)


def _closed(extracted: Extracted, starts: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    """Rows that stay whole."""
    for start, end in extracted.rows:
        if bisect_left(starts, end) - bisect_left(starts, start) <= most:
            yield start, end


def _token_starts(text: str, tokenize: Callable[[str], Sequence[tuple[int, int]]]) -> array[int]:
    """Where tokens begin; what is too long for a word counts as a token a character, the most that a tokenizer that
    knows it would make of it."""
    starts = array("q")
    for base, end in _blocks(text):
        for first, behind in tokenize(text[base:end]):
            if behind - first > MOST_WORD_CHARS:
                starts.extend(range(base + first, base + behind))
            else:
                starts.append(base + first)
    return starts


def _blocks(text: str) -> Iterator[tuple[int, int]]:
    """Spans that end with a line, or at least with a word."""
    start = 0
    while start < len(text):
        end = min(len(text), start + BLOCK_CHARS)
        if end < len(text):
            at = max(text.rfind("\n", start, end), 0) or max(text.rfind(" ", start, end), 0)
            end = at if at > start else end
        yield start, end
        start = end


def _candidates(text: str, starts: Sequence[int], headings: set[int], most: int) -> Iterator[tuple[int, int]]:
    """Each place with its rank, in their order."""
    behind, sentence = 0, False  # of the stretch before: where it ends, and whether a sentence ends with it
    line = -1  # where the line before this place began
    for stretch in _STRETCH.finditer(text):
        start, end = stretch.span()
        newlines = text.count("\n", behind, start)
        place = start
        if newlines or not behind:
            place = text.rfind("\n", behind, start) + 1
            # Nothing is cut off from its heading: neither the text, nor a heading under it.
            rank = INSIDE if line in headings else PARAGRAPH if newlines > 1 else LINE
            line = place
        else:
            rank = SENTENCE if sentence else WORD
        yield place, HEADING if place in headings and rank != INSIDE else rank
        first, last = bisect_left(starts, start), bisect_left(starts, end)
        if end - start > MOST_WORD_CHARS or last - first > most // 2:
            yield from _inside(text, starts[first:last], start)
        behind, sentence = end, _SENTENCE_END.search(text, max(start, end - 8), end) is not None


def _inside(text: str, starts: Sequence[int], start: int) -> Iterator[tuple[int, int]]:
    """Of what has no blanks: a language that writes none, an address, data."""
    last = start
    for at in starts:
        wide = text[at - 1] in _WIDE_ENDS
        if at - last >= STEP_CHARS or (wide and at > last):
            last = at
            yield at, SENTENCE if wide else INSIDE
