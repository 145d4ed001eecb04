"""Finds given strings as whole words: what a model found in one request counts everywhere in it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from policies.detect_numbers import Span
from policies.detect_text import Plain, plain

_LETTERS = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True, slots=True)
class Given:
    """Values of one data class. One of several words is found in capitals or small letters; a single word as it is
    written or all in capitals, for `Will` is a name and `will` is not. Linear in the length of the text.

    Attributes:
        values: those that hold a letter, plain, the longest first.
    """

    cls: str
    values: tuple[Plain, ...]
    _by_first: dict[str, list[Plain]] = field(default_factory=dict, compare=False)

    @classmethod
    def of(cls, name: str, values: Iterable[str]) -> Given:
        """The values of the data class `name`."""
        made = cls(name, tuple(plain(value) for value in sorted({*values}, key=lambda value: (-len(value), value))))
        for value in made.values:
            if (first := _LETTERS.search(value.lower)) and first.start() == 0:
                made._by_first.setdefault(first[0], []).append(value)
        return made

    def find(self, seen: Plain) -> Iterator[Span]:
        """Where they stand, as they come; they may overlap."""
        for word in _LETTERS.finditer(seen.lower):
            for value in self._by_first.get(word[0], ()):
                end = word.start() + len(value.text)
                if _same(seen, word.start(), end, value) and not seen.text[end : end + 1].isalpha():
                    yield self.cls, word.start(), end
                    break


def _same(seen: Plain, start: int, end: int, value: Plain) -> bool:
    if not value.text.isalpha():
        return seen.lower.startswith(value.lower, start)
    written = seen.text[start:end]
    if written in (value.text, value.text.upper()):
        return True
    return value.text in (value.lower, value.text.upper()) and written == value.text.title()
