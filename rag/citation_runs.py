"""The longest runs of words that two texts have in common, in time linear in both, whatever they are. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True, order=True)
class Run:
    """The same words in both texts. All in words.

    Attributes:
        start: in the answer. source: in the source.
    """

    start: int
    length: int
    source: int

    @property
    def end(self) -> int:
        """In the answer."""
        return self.start + self.length


class Shared:
    """What an answer shares with sources.

    Args:
        answer: words as numbers from 0.
        stretches: words with which a stretch begins, and the number of all words: no run goes over a stretch's end.
        alone: words of which a run of one is wanted; others have two words at least.
    """

    def __init__(self, answer: Sequence[int], stretches: Sequence[int], alone: Sequence[int] = ()) -> None:
        self._answer = answer
        self._alone = alone
        self._pairs: dict[tuple[int, int], list[int]] = {}
        for start, end in pairwise(stretches):
            for at, pair in enumerate(pairwise(answer[start:end]), start):
                self._pairs.setdefault(pair, []).append(at)

    def runs(self, source: Sequence[int]) -> list[Run]:
        """All that cannot be made longer at either side, in the answer's order; of a run that the source has several
        times, the first place."""
        # Of two texts most pairs of words are not in both: what is left out here costs hardly anything.
        pairs = tuple(pairwise(source))
        common = self._pairs.keys() & set(pairs)
        automaton = _Automaton()
        for start, end in _stretches(at for at, pair in enumerate(pairs) if pair in common):
            automaton.add(source, start, end)
        found: list[Run] = []
        for start, end in _stretches(sorted(at for pair in common for at in self._pairs[pair])):
            found += automaton.runs(self._answer, start, end)
        return self._with_single(found, source) if self._alone else found

    def _with_single(self, found: list[Run], source: Sequence[int]) -> list[Run]:
        first = {word: at for at, word in reversed(tuple(enumerate(source)))}
        return sorted([*found, *(Run(at, 1, first[word]) for at in self._alone if (word := self._answer[at]) in first)])


def _stretches(pairs: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Of words whose pairs follow each other. `pairs`: where each begins, ascending."""
    start = end = -1
    for at in pairs:
        if at >= end:
            if end > 0:
                yield start, end
            start = at
        end = at + 2
    if end > 0:
        yield start, end


class _Automaton:
    """A suffix automaton of several texts: all of their parts, in as many states as twice their words.

    Blumer et al., "The smallest automaton recognizing the subwords of a text" (1985), with its online construction.
    """

    def __init__(self) -> None:
        self._next: list[dict[int, int]] = [{}]
        self._link = [-1]
        self._length = [0]
        self._end = [0]  # where in the source the state's words end, for the first time

    def add(self, text: Sequence[int], start: int, end: int) -> None:
        last = 0
        for at in range(start, end):
            last = self._extend(last, text[at], at + 1)

    def _extend(self, last: int, word: int, end: int) -> int:
        known = self._next[last].get(word)
        if known is not None:
            # An earlier text begins like this one.
            return known if self._length[known] == self._length[last] + 1 else self._split(last, word, known)
        new = self._state({}, -1, self._length[last] + 1, end)
        at = last
        while at >= 0 and word not in self._next[at]:
            self._next[at][word] = new
            at = self._link[at]
        if at < 0:
            self._link[new] = 0
            return new
        known = self._next[at][word]
        fits = self._length[known] == self._length[at] + 1
        self._link[new] = known if fits else self._split(at, word, known)
        return new

    def _split(self, at: int, word: int, known: int) -> int:
        copy = self._state(dict(self._next[known]), self._link[known], self._length[at] + 1, self._end[known])
        self._link[known] = copy
        while at >= 0 and self._next[at].get(word) == known:
            self._next[at][word] = copy
            at = self._link[at]
        return copy

    def _state(self, following: dict[int, int], link: int, length: int, end: int) -> int:
        self._next.append(following)
        self._link.append(link)
        self._length.append(length)
        self._end.append(end)
        return len(self._next) - 1

    def runs(self, text: Sequence[int], start: int, end: int) -> Iterator[Run]:
        """Of a part of a text."""
        following, link, lengths = self._next, self._link, self._length
        state = length = 0
        for at in range(start, end):
            word = text[at]
            then = following[state].get(word)
            if then is None:
                if length > 1:
                    yield self._run(state, length, at)
                while then is None and state > 0:
                    state = link[state]
                    length = lengths[state]
                    then = following[state].get(word)
            if then is not None:
                state = then
                length += 1
        if length > 1:
            yield self._run(state, length, end)

    def _run(self, state: int, length: int, end: int) -> Run:
        return Run(end - length, length, self._end[state] - length)
