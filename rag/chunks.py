"""From a file's text to the pieces that it is searched in. Pure.

Where to cut is decided on one tokenisation of the text; each chunk is then counted by itself, since at its edges a
tokenizer may see other words than within the whole. A chunk ends, of the places in its last quarter, at the best one:
before a heading, else after a paragraph, else after a line, else after a sentence, else after a word. A row (of a
table, of code) is only cut where it alone is longer than a chunk; then it is cut like any text.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rag.cuts import Cuts, find_cuts
from rag.types import Chunk, Extracted, Heading, Page

Tokenize = Callable[[str], Sequence[tuple[int, int]]]
"""A text's tokens, as places (start, end) in characters, in their order; special tokens are not among them."""

MAX_TOKENS = 800
OVERLAP = 400
LEAST_MAX_TOKENS, MOST_MAX_TOKENS = 100, 4096
LEAST_FILL = 0.75  # of a chunk, from which it may end early for a better place
BARE = 0.1  # of a chunk: a section of no more text is a heading only
DEEPEST = 99  # what stands before the first heading stands under none


@dataclass(frozen=True, slots=True)
class Strategy:
    """How a file is cut.

    Attributes:
        max_tokens: of a chunk, by the embedder's own tokenizer: 100 to 4096.
        overlap: tokens at most that a chunk repeats of the one before; no more than half of `max_tokens`.
        by_structure: a chunk never goes from under one heading to where a higher one begins; sections that fit are put
            together, and only those that do not fit are cut, with the overlap.

    Raises `ValueError`, with a sentence for whoever asked.
    """

    max_tokens: int = MAX_TOKENS
    overlap: int = OVERLAP
    by_structure: bool = False

    def __post_init__(self) -> None:
        if not LEAST_MAX_TOKENS <= self.max_tokens <= MOST_MAX_TOKENS:
            raise ValueError(f"max_chunk_size_tokens must lie between {LEAST_MAX_TOKENS} and {MOST_MAX_TOKENS}.")
        if not 0 <= self.overlap <= self.max_tokens // 2:
            raise ValueError("chunk_overlap_tokens must lie between 0 and half of max_chunk_size_tokens.")


def chunk(extracted: Extracted, tokenize: Tokenize, strategy: Strategy | None = None) -> tuple[Chunk, ...]:
    """The file's chunks, in their order; together they hold all of its text but blanks.

    The time is about that of tokenising the text three times.
    """
    strategy = strategy or Strategy()
    cuts = find_cuts(extracted, tokenize, strategy.max_tokens)
    places = _Places(extracted)
    cutter = _Cutter(extracted.text, tokenize, cuts, strategy)
    spans = _sections(cuts, extracted.headings, strategy.max_tokens) if strategy.by_structure else [(0, cuts.last)]
    return tuple(
        Chunk(
            extracted.text[start:end],
            start,
            end,
            tokens,
            places.headings(start),
            places.page(start),
            places.inside(start, end),
        )
        for first, last in spans
        for start, end, tokens in cutter.cut(first, last)
    )


class _Cutter:
    """Cuts between two of the text's cuts."""

    def __init__(self, text: str, tokenize: Tokenize, cuts: Cuts, strategy: Strategy) -> None:
        self._text = text
        self._tokenize = tokenize
        self._cuts = cuts
        self._most = strategy.max_tokens
        self._overlap = strategy.overlap

    def cut(self, first: int, last: int) -> Iterator[tuple[int, int, int]]:
        """(start, end, tokens) of each chunk. `first`, `last`: numbers of cuts."""
        at, done = first, first  # `done`: up to this cut all is in a chunk
        while done < last:
            end = self._end(at, max(done + 1, at + 1), last)
            start_char, end_char = self._trimmed(at, end)
            if start_char < end_char:
                tokens = self._count(start_char, end_char)
                if tokens <= self._most:
                    yield start_char, end_char, tokens
                else:
                    # At its edges the piece has more tokens than the whole text had there.
                    end = self._shorter(at, done + 1, end)
                    yield from self._pieces(*self._trimmed(at, end))
            done = end
            at = self._next_start(at, done, last)

    def _end(self, at: int, least: int, last: int) -> int:
        """The best cut for a chunk from `at`, no earlier than `least`."""
        cuts = self._cuts
        furthest = cuts.within(at, self._most)
        if furthest >= last:
            return last
        furthest = max(furthest, least)
        enough = bisect_left(cuts.tokens, cuts.tokens[at] + int(self._most * LEAST_FILL))
        window = range(max(least, min(enough, furthest)), furthest + 1)
        return max(window, key=lambda i: (cuts.ranks[i], i))

    def _shorter(self, at: int, least: int, end: int) -> int:
        """The last cut before `end` that does. By halves, so that few pieces are counted."""
        low, high = least, max(least, end - 1)
        while low < high:
            middle = (low + high + 1) // 2
            if self._count(*self._trimmed(at, middle)) <= self._most:
                low = middle
            else:
                high = middle - 1
        return low

    def _pieces(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """One, as a rule: what stands between two cuts fits, but where a tokenizer makes more of it alone."""
        while start < end:
            places = self._tokenize(self._text[start:end])
            if len(places) <= self._most:
                yield start, end, len(places)
                return
            take = self._most
            while take > 1 and self._count(start, start + places[take][0]) > self._most:
                take -= max(1, take // 8)
            cut = max(start + places[take][0], start + 1)
            yield start, cut, self._count(start, cut)
            start = cut

    def _count(self, start: int, end: int) -> int:
        return len(self._tokenize(self._text[start:end]))

    def _next_start(self, at: int, end: int, last: int) -> int:
        """As far before `end` as the overlap goes, if the next piece of text still fits behind it."""
        cuts = self._cuts
        if end >= last or not self._overlap:
            return end
        following = min(end + 1, last)
        earliest = max(cuts.tokens[end] - self._overlap, cuts.tokens[following] - self._most)
        # At the best place of the first quarter of the overlap: not in the midst of a sentence.
        first = max(at + 1, bisect_left(cuts.tokens, earliest))
        if first >= end:
            return end
        late = bisect_right(cuts.tokens, cuts.tokens[first] + self._overlap // 4) - 1
        window = range(first, max(first, min(late, end - 1)) + 1)
        return max(window, key=lambda i: (cuts.ranks[i], -i))

    def _trimmed(self, first: int, last: int) -> tuple[int, int]:
        """Without blanks at its ends, but for those that its first line begins with: code means something by them."""
        start, end = self._cuts.chars[first], self._cuts.chars[last]
        piece = self._text[start:end]
        blanks = len(piece) - len(piece.lstrip())
        return start + piece.rfind("\n", 0, blanks) + 1, start + len(piece.rstrip())


def _sections(cuts: Cuts, headings: Sequence[Heading], most: int) -> Iterator[tuple[int, int]]:
    """Spans of cuts: sections, put together while they fit and no heading stands higher than the first one's."""
    starts: list[tuple[int, int]] = [(0, DEEPEST)]  # (cut, level)
    for heading in headings:
        at = bisect_left(cuts.chars, heading.start)
        if at >= cuts.last or cuts.chars[at] != heading.start:
            continue
        if starts[-1][0] == at:
            starts[-1] = (at, min(starts[-1][1], heading.level))
        else:
            starts.append((at, heading.level))
    first, level = before = starts[0]
    ends = [at for at, _ in starts[1:]] + [cuts.last]
    for (at, next_level), end in zip(starts[1:], ends[1:], strict=True):
        if next_level < level or cuts.tokens[end] - cuts.tokens[first] > most:
            # A heading with hardly any text of its own goes with what stands under it.
            bare = next_level > before[1] and cuts.tokens[at] - cuts.tokens[before[0]] <= most * BARE
            then, then_level = before if bare else (at, next_level)
            if then > first:
                yield first, then
                first, level = then, then_level
        before = (at, next_level)
    yield first, cuts.last


class _Places:
    """Looks up what a place stands under, and on which page."""

    def __init__(self, extracted: Extracted) -> None:
        self._pages = [page.start for page in extracted.pages]
        self._numbers = [page.number for page in extracted.pages]
        self._starts = [heading.start for heading in extracted.headings]
        self._paths: list[tuple[str, ...]] = []
        path: list[Heading] = []
        for heading in extracted.headings:
            while path and path[-1].level >= heading.level:
                path.pop()
            path.append(heading)
            self._paths.append(tuple(above.text for above in path))

    def headings(self, start: int) -> tuple[str, ...]:
        at = bisect_right(self._starts, start)
        return self._paths[at - 1] if at else ()

    def inside(self, start: int, end: int) -> tuple[Page, ...]:
        first, last = bisect_right(self._pages, start), bisect_left(self._pages, end)
        return tuple(Page(self._numbers[at], self._pages[at]) for at in range(first, last))

    def page(self, start: int) -> int | None:
        at = bisect_right(self._pages, start)
        return self._numbers[max(0, at - 1)] if self._numbers else None
