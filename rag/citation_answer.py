"""An answer as its citations see it: its words, its sentences, and which of them a marker such as `[2]` speaks for."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from rag.citation_words import Reader, Words

_NUMBERS: Final = r"\d{1,3}(?:\s?[,;、，]\s?\d{1,3}){0,19}"
_MARKER: Final = re.compile(rf"\[\^?\s?({_NUMBERS})\s?\]|[【［]\s?({_NUMBERS})(?:†[^】］\n]{{0,99}})?[】］]")
_CODE: Final = re.compile(r"```.*?(?:```|\Z)|`[^`\n]+`", re.DOTALL)
_LINE: Final = re.compile(r"\n")
# A sentence's end, with what closes it; a table's cell, a line.
_PART: Final = re.compile(r"[\n|]|[.!?…][\"'”’»)\]*_]*(?=[\s\x00]|\Z)|[。！？]")
# With these and a file's name a line tells where words are from, and says nothing itself.
_NAMING: Final = frozenset("source sources page pages see reference references quelle quellen seite siehe".split())
_MOST_NAMING: Final = 40
# Stands for a marker: in no word, and no blank.
_NOTHING: Final = "\x00"
_MARKERS_CELL: Final = re.compile(r"\|[ \t]*\x00[ \t\x00]*(?=\||\n|\Z)")


@dataclass(frozen=True, slots=True)
class Marker:
    """One number of a marker.

    Attributes:
        start, end: of the marker, in characters.
        at: the word that it stands before. first, behind: the words that it speaks for. All as numbers of words.
        trails: it stands behind what it speaks for.
    """

    number: int
    start: int
    end: int
    at: int = 0
    first: int = 0
    behind: int = 0
    trails: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """What an answer is made of.

    Attributes:
        parts: words with which a sentence, a line or a table's cell begins, and the number of all words.
        stretches: the same, between markers.
    """

    words: Words
    parts: Sequence[int]
    stretches: Sequence[int]
    markers: Sequence[Marker]


def parsed(text: str, reader: Reader, naming: Callable[[int], frozenset[str]]) -> Answer:
    """Of an answer.

    Args:
        naming: the words by which the source of a number is called, beside the number.
    """
    found = markers(text)
    bare = _without(text, found)
    words = reader.words(bare)
    places = _Places(words, bare, naming)
    placed = [places.of(marker) for marker in found]
    return Answer(words, places.parts, sorted({0, len(words.keys), *(one.at for one in placed)}), placed)


def markers(text: str) -> list[Marker]:
    """All, without what they speak for. In code `[1]` is a place in a list."""
    code = [match.span() for match in _CODE.finditer(text)]
    found = []
    for match in _MARKER.finditer(text):
        at = bisect_right(code, (match.start(), len(text))) - 1
        if at < 0 or match.start() >= code[at][1]:
            numbers = re.findall(r"\d+", match[1] or match[2])
            found += [Marker(int(number), *match.span()) for number in dict.fromkeys(numbers)]
    return found


def _without(text: str, found: Iterable[Marker]) -> str:
    """The text, of the same length, with nothing in the markers' places."""
    parts, at = [], 0
    for marker in found:
        if marker.start >= at:  # several numbers may be of one
            parts += [text[at : marker.start], _NOTHING * (marker.end - marker.start)]
            at = marker.end
    return "".join([*parts, text[at:]])


class _Places:
    """Knows what a marker speaks for: the sentence before it; the one behind it where it begins a line; the row, where
    it has a table's cell of its own; the whole answer, where its line only tells where things are from."""

    def __init__(self, words: Words, bare: str, naming: Callable[[int], frozenset[str]]) -> None:
        self._words = words
        self._naming = naming
        self.parts = self._cuts(bare, _PART)
        self._lines = self._cuts(bare, _LINE)
        self._newlines = [match.start() for match in _LINE.finditer(bare)]
        self._cells = [match.span() for match in _MARKERS_CELL.finditer(bare)]
        self._length = len(bare)

    def _cuts(self, bare: str, pattern: re.Pattern[str]) -> list[int]:
        starts = self._words.starts
        return sorted({0, len(starts), *(bisect_left(starts, match.end()) for match in pattern.finditer(bare))})

    def of(self, marker: Marker) -> Marker:
        """With what it speaks for."""
        at = bisect_left(self._words.starts, marker.start)
        first, behind = self._line(marker, at)
        if first < behind and self._only_names(marker.number, first, behind):
            return replace(marker, at=at, first=0, behind=len(self._words.keys), trails=False)
        trails = first < at or first == behind
        if first < behind and self._alone_in_cell(marker):
            return replace(marker, at=at, first=first, behind=behind, trails=trails)
        first, behind = self._part(at - 1 if trails else at)
        return replace(marker, at=at, first=first, behind=behind, trails=trails)

    def _line(self, marker: Marker, at: int) -> tuple[int, int]:
        """Of the words in the marker's line."""
        line = bisect_left(self._newlines, marker.start)
        start = self._newlines[line - 1] + 1 if line else 0
        end = self._newlines[line] if line < len(self._newlines) else self._length
        return bisect_left(self._words.starts, start), bisect_left(self._words.starts, end)

    def _part(self, word: int) -> tuple[int, int]:
        if not 0 <= word < len(self._words.keys):
            return 0, 0
        at = bisect_right(self.parts, word)
        return self.parts[at - 1], self.parts[at]

    def _alone_in_cell(self, marker: Marker) -> bool:
        at = bisect_right(self._cells, (marker.start, self._length)) - 1
        return at >= 0 and marker.start < self._cells[at][1]

    def _only_names(self, number: int, first: int, behind: int) -> bool:
        if behind - first > _MOST_NAMING:
            return False
        known = self._naming(number) | _NAMING
        return all(key in known for key in self._words.keys[first:behind])
