"""Where an answer repeats what the documents say: each citation is checked to be a quote. Pure.

A model may write `[2]` behind anything. What is cited is what stands there: a run of words that the answer and a source
have in common, long enough not to be there by chance. How long that is was measured on documents that do not quote
each other; see `Rules`.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from rag.citation_answer import Marker, markers, parsed
from rag.citation_runs import Run, Shared
from rag.citation_words import Reader, Words, weights
from rag.context import Source, header


@dataclass(frozen=True, slots=True)
class Citation:
    """Words of an answer that a source has too.

    Attributes:
        index: in characters of the answer: behind the words, or behind the marker that follows them and names the
            source.
        start, end: in characters of the file's text. quote: what stands there.
        page: of the quote's first character.
        marked: a marker in the same sentence names the source.
    """

    index: int
    source: Source
    start: int
    end: int
    page: int | None
    quote: str
    marked: bool


@dataclass(frozen=True, slots=True)
class Unsupported:
    """A marker, in whose sentence there are no words of the source that it names.

    Attributes:
        number: that it names. source: None: there is none of this number.
        start, end: of the marker, in characters of the answer.
    """

    number: int
    source: Source | None
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Checked:
    """An answer's citations and markers, each in the answer's order."""

    citations: tuple[Citation, ...]
    unsupported: tuple[Unsupported, ...]


@dataclass(frozen=True, slots=True)
class Rules:
    """From where on a run of words counts as a quote. Words are counted as `weights` says.

    Attributes:
        words, telling: of a run on its own. marked_words, marked_telling: of one whose source is named in its
            sentence.
        A run that is a whole sentence, line or table cell, or the whole answer, counts where it has one word that
        tells, and its source is named; without a marker it needs a number besides.
    """

    words: float = 6
    telling: float = 3
    marked_words: float = 3
    marked_telling: float = 2


def citations(answer: str, sources: Sequence[Source], rules: Rules | None = None) -> tuple[Citation, ...]:
    """The answer's quotes; see `checked`."""
    return checked(answer, sources, rules).citations


def unsupported(answer: str, sources: Sequence[Source], rules: Rules | None = None) -> tuple[Unsupported, ...]:
    """The answer's markers that no words stand behind; see `checked`."""
    return checked(answer, sources, rules).unsupported


def checked(answer: str, sources: Sequence[Source], rules: Rules | None = None) -> Checked:
    """What of an answer are quotes.

    The longest runs come first, and no word of the answer is cited twice; of runs as long, that of a source which a
    marker in its sentence names, then the best one's.

    Args:
        sources: the best first, as the model was given them. Numbers are theirs, whatever their order.
    """
    if not answer or not sources:
        return Checked((), tuple(Unsupported(m.number, None, m.start, m.end) for m in markers(answer)))
    return _Check(answer, sources, rules or Rules()).checked()


class _Check:
    """One answer against its sources."""

    def __init__(self, answer: str, sources: Sequence[Source], rules: Rules) -> None:
        self._sources = sources
        self._rules = rules
        self._reader = Reader()
        self._number = {source.number: rank for rank, source in reversed(tuple(enumerate(sources)))}
        self._names: dict[int, frozenset[str]] = {}
        self._answer = parsed(answer, self._reader, self._naming)
        keys = self._answer.words.keys
        told = [weights(key) for key in keys]
        self._count = list(accumulate((count for count, _ in told), initial=0.0))
        self._telling = list(accumulate((telling for _, telling in told), initial=0.0))
        self._digits = list(accumulate((not key.isalpha() for key in keys), initial=0))
        self._parts = frozenset(self._answer.parts)
        self._spoken = self._spans()
        self._trailing: dict[int, list[Marker]] = {}
        for marker in self._answer.markers:
            if marker.trails:
                self._trailing.setdefault(marker.at, []).append(marker)

    def _naming(self, number: int) -> frozenset[str]:
        """The words of a source's header."""
        if number not in self._names:
            rank = self._number.get(number)
            said = "" if rank is None else header(self._sources[rank])
            self._names[number] = frozenset(self._reader.words(said).keys)
        return self._names[number]

    def _spans(self) -> dict[int, list[tuple[int, int]]]:
        """Of each source that is named, the words that its markers speak for; spans that touch are one."""
        found: dict[int, list[tuple[int, int]]] = {}
        for marker in sorted(self._answer.markers, key=lambda one: (one.first, one.behind)):
            rank = self._number.get(marker.number)
            if rank is None or marker.first == marker.behind:
                continue
            spans = found.setdefault(rank, [])
            if spans and marker.first <= spans[-1][1]:
                spans[-1] = (spans[-1][0], max(spans[-1][1], marker.behind))
            else:
                spans.append((marker.first, marker.behind))
        return found

    def checked(self) -> Checked:
        """All of it."""
        found = self._found()
        chosen = sorted(self._chosen(found), key=lambda one: one[1].start)
        return Checked(
            tuple(self._citation(rank, run, words) for rank, run, words in chosen), tuple(self._unsupported(found))
        )

    def _found(self) -> list[tuple[Words, list[Run]]]:
        """Of each source, its words and what of the answer they are, in the answer's order."""
        parts, stretches = self._answer.parts, self._answer.stretches
        ids: dict[str, int] = {}
        numbers = [ids.setdefault(key, len(ids)) for key in self._answer.words.keys]
        shared = Shared(
            [numbers[start:end] for start, end in pairwise(stretches)],
            [start for start, end in pairwise(parts) if end == start + 1],
        )
        found = []
        for rank, source in enumerate(self._sources):
            words = self._reader.words(source.text)
            runs = shared.runs([ids.get(key, -1) for key in words.keys])
            found.append((words, [run for run in runs if self._counts(rank, run.start, run.end)]))
        return found

    def _counts(self, rank: int, start: int, end: int) -> bool:
        """Whether these words of the answer count as a quote; see `Rules`."""
        rules = self._rules
        words, telling = self._count[end] - self._count[start], self._telling[end] - self._telling[start]
        if words >= rules.words and telling >= rules.telling:
            return True
        marked = self._marked(rank, start, end)
        if marked and words >= rules.marked_words and telling >= rules.marked_telling:
            return True
        if start not in self._parts or end not in self._parts or telling < 1:
            return False
        return marked or (words > 1 and self._digits[end] > self._digits[start])

    def _marked(self, rank: int, start: int, end: int) -> bool:
        spans = self._spoken.get(rank, ())
        at = bisect_left(spans, start, key=lambda span: span[1] - 1)  # the first that ends behind `start`
        return at < len(spans) and spans[at][0] < end

    def _chosen(self, found: Sequence[tuple[Words, Sequence[Run]]]) -> Iterator[tuple[int, Run, Words]]:
        """The longest first; what is left of others, if it still counts."""
        heap = [self._entry(rank, run) for rank, (_, runs) in enumerate(found) for run in runs]
        heapq.heapify(heap)
        taken: dict[int, Run] = {}  # by each of its words
        while heap:
            _, _, rank, run = heapq.heappop(heap)
            # What was taken is as long at least, so it covers an end of this one, or nothing, or all.
            start, end = run.start, run.end
            while start < end and start in taken:
                start = taken[start].end
            while start < end and end - 1 in taken:
                end = taken[end - 1].start
            left = Run(start, end - start, run.source + start - run.start)
            if left == run:
                taken.update(dict.fromkeys(range(start, end), run))
                yield rank, run, found[rank][0]
            elif start < end and self._counts(rank, start, end):
                heapq.heappush(heap, self._entry(rank, left))

    def _entry(self, rank: int, run: Run) -> tuple[int, bool, int, Run]:
        return -run.length, not self._marked(rank, run.start, run.end), rank, run

    def _citation(self, rank: int, run: Run, words: Words) -> Citation:
        source = self._sources[rank]
        start, end = words.starts[run.source], words.ends[run.source + run.length - 1]
        index = self._answer.words.ends[run.end - 1]
        for marker in self._trailing.get(run.end, ()):
            if marker.number == source.number:
                index = marker.end
        return Citation(
            index=index,
            source=source,
            start=source.start + start,
            end=source.start + end,
            page=source.page_at(source.start + start),
            quote=source.text[start:end],
            marked=self._marked(rank, run.start, run.end),
        )

    def _unsupported(self, found: Sequence[tuple[Words, Sequence[Run]]]) -> Iterator[Unsupported]:
        for marker in self._answer.markers:
            rank = self._number.get(marker.number)
            runs = found[rank][1] if rank is not None else ()
            at = bisect_right(runs, marker.first, key=lambda run: run.end)
            if at == len(runs) or runs[at].start >= marker.behind:
                source = None if rank is None else self._sources[rank]
                yield Unsupported(marker.number, source, marker.start, marker.end)
