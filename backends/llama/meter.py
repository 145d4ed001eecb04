"""What one rendering of a chat template may still use: time, the weight of a value, the weight of all values. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable, ItemsView, KeysView, Mapping, ValuesView
from string import Formatter
from typing import Any

from jinja2.exceptions import SecurityError

VALUE_CHARS = 1 << 20  # weight of one value, beside what the messages allow
WORK_CHARS = 64 << 20  # weight of all values made in one rendering, likewise
VALUE_PER_INPUT = 8
WORK_PER_INPUT = 256  # a text put together turn by turn is made anew at each
ITEM_CHARS = 16  # what a place in a list weighs
MAX_INT = 1 << 64
MAX_DEPTH = 100

_CONTAINERS = (list, tuple, set, frozenset, KeysView, ValuesView, ItemsView, Mapping)


class TooSlow(SecurityError):
    """The rendering's time is up."""


class Meter:
    """Refuses values that are too large, too many or too late, each by a `SecurityError`."""

    def __init__(self, input_chars: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`input_chars`: size of the messages; a long conversation may make long texts."""
        self.limit = VALUE_CHARS + VALUE_PER_INPUT * input_chars
        self._work = WORK_CHARS + WORK_PER_INPUT * input_chars
        self._clock = clock
        self._end = clock() + seconds

    def tick(self) -> None:
        """Raises `TooSlow` once the time is up."""
        if self._clock() > self._end:
            raise TooSlow("it takes too long")

    def expect(self, n: int) -> None:
        """Before an operation that will make a value of weight `n`."""
        if n > self.limit:
            raise SecurityError("it makes too large a value")

    def made(self, value: Any) -> Any:
        """Returns a new `value`, if it may exist."""
        self.tick()
        if isinstance(value, str):
            self.expect(len(value))
            self._spend(len(value))
        elif isinstance(value, int):
            if not -MAX_INT <= value <= MAX_INT:
                raise SecurityError("it computes too large a number")
        elif isinstance(value, _CONTAINERS):
            self.weigh(value)
            self._spend(ITEM_CHARS * len(value))
        return value

    def sliced(self, value: Any) -> Any:
        """`made`, for a part of something that exists: of a list, no heavier than the whole."""
        if not isinstance(value, (list, tuple)):
            return self.made(value)
        self.tick()
        self._spend(ITEM_CHARS * len(value))
        return value

    def weigh(self, value: Any) -> int:
        """The weight of a value's text: a list that holds another twice counts it twice, as its text would."""
        if isinstance(value, str):
            return len(value) + 1
        weight, level = ITEM_CHARS, [value]
        for _ in range(MAX_DEPTH):
            below: list[Any] = []
            for each in level:
                if isinstance(each, str):
                    weight += len(each)
                elif isinstance(each, _CONTAINERS):
                    self.tick()
                    weight += ITEM_CHARS * len(each)
                    self.expect(weight)
                    below.extend(each)
                    if isinstance(each, Mapping):
                        below.extend(each.values())
            self.expect(weight)
            if not below:
                return weight
            level = below
        raise SecurityError("it nests values too deeply")

    def _spend(self, n: int) -> None:
        self._work -= n
        if self._work < 0:
            raise SecurityError("it makes too many values")


def percent_widths(pattern: str) -> list[str]:
    """Of `pattern % values`: what stands between each `%` (with its key, whose parentheses may nest) and the type."""
    widths, at = [], pattern.find("%")
    while at >= 0:
        at += 1
        if pattern[at : at + 1] == "(":
            depth = 1
            while depth and at + 1 < len(pattern):
                at += 1
                depth += (pattern[at] == "(") - (pattern[at] == ")")
            at += 1
        begin = at
        while at < len(pattern) and pattern[at] in "-#0 +*.123456789hlL":
            at += 1
        widths.append(pattern[begin:at])
        at = pattern.find("%", at + 1)
    return widths


def field_widths(pattern: str) -> list[str]:
    """Of `pattern.format(values)`: each field's format specification. Raises ValueError for a malformed pattern."""
    return [spec or "" for _, name, spec, _ in Formatter().parse(pattern) if name is not None]
