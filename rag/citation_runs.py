"""The longest runs of words that two texts have in common, in time linear in both, whatever they are. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
        answer: stretches, over whose ends no run goes; words as numbers from 0.
        alone: places in the answer of words of which a run of one is wanted; others have two words at least.
    """

    def __init__(self, answer: Sequence[Sequence[int]], alone: Sequence[int] = ()) -> None:
        self._stretches = answer
        words = [word for stretch in answer for word in stretch]
        self._alone = [(at, words[at]) for at in alone]
        self._pairs = {pair for stretch in answer for pair in pairwise(stretch)}

    def runs(self, source: Sequence[int]) -> list[Run]:
        """All that cannot be made longer at either side, in the answer's order; of a run that the source has several
        times, the first place."""
        automaton = _Automaton()
        for start, end in self._stretches_of(source):
            automaton.add(source, start, end)
        found: list[Run] = []
        at = 0
        for stretch in self._stretches:
            found += automaton.runs(stretch, at)
            at += len(stretch)
        if self._alone:
            first = {word: at for at, word in reversed(tuple(enumerate(source)))}
            found += [Run(at, 1, first[word]) for at, word in self._alone if word in first]
            found.sort()
        return found

    def _stretches_of(self, source: Sequence[int]) -> Iterator[tuple[int, int]]:
        """The source's stretches that can hold a run: most of it holds no two words that follow each other in the
        answer too, and what is left out here costs hardly anything."""
        start = 0
        for at in range(1, len(source) + 1):
            if at < len(source) and (source[at - 1], source[at]) in self._pairs:
                continue
            if at - start > 1:
                yield start, at
            start = at


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

    def runs(self, text: Sequence[int], offset: int) -> Iterator[Run]:
        """Of a text that stands at `offset` of the answer."""
        following, link, lengths = self._next, self._link, self._length
        state = length = 0
        for at, word in enumerate(text):
            then = following[state].get(word)
            if then is None:
                if length > 1:
                    yield self._run(state, length, offset + at)
                while then is None and state > 0:
                    state = link[state]
                    length = lengths[state]
                    then = following[state].get(word)
            if then is not None:
                state = then
                length += 1
        if length > 1:
            yield self._run(state, length, offset + len(text))

    def _run(self, state: int, length: int, end: int) -> Run:
        return Run(end - length, length, self._end[state] - length)
