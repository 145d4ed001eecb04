"""The operator's own data classes: regular expressions that cannot be made to run for ever."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from policies.detect_numbers import Span
from policies.detect_text import Plain

LONGEST = 1000
"""Characters of a pattern."""

WINDOW, OVERLAP = 1024, 256
"""Characters of text that a pattern sees at once, and of them those that the next window sees again."""

UNBOUNDED = 64
"""A repeat of more than so many counts as one without end."""

MOST_UNBOUNDED = 3
NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")

_parser: Any = import_module("re._parser")


def compiled(name: str, pattern: str) -> re.Pattern[str]:
    """The pattern, if it is safe to run on any text.

    Raises:
        ValueError: it does not compile, matches the empty text, or may take exponential time.
    """
    try:
        if not NAME.fullmatch(name):
            raise ValueError("a class is named with small letters, digits and underscores")
        if len(pattern) > LONGEST:
            raise ValueError(f"it is longer than {LONGEST} characters")
        regex = re.compile(pattern)
        if regex.match("") or regex.search(""):
            raise ValueError("it matches the empty text")
        if _unbounded(_parser.parse(pattern), False) > MOST_UNBOUNDED:
            raise ValueError(f"it has more than {MOST_UNBOUNDED} repeats without end: give them bounds, as in {{1,20}}")
    except (re.error, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"the data class {name!r}: {pattern[:80]!r} cannot be used: {error}") from error
    return regex


def matches(name: str, regex: re.Pattern[str], plain: Plain) -> Iterator[Span]:
    """What a pattern finds, as it comes; matches of two windows may overlap."""
    text = plain.text
    for start in range(0, max(1, len(text) - OVERLAP), WINDOW - OVERLAP):
        for match in regex.finditer(text, start, min(len(text), start + WINDOW)):
            if match.end() > match.start():
                yield name, match.start(), match.end()


def _unbounded(items: Any, repeated: bool) -> int:
    """How many repeats without end a parsed pattern has. Raises ValueError for one inside another."""
    found = 0
    for op, value in items:
        kind = str(op)
        if kind in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
            low, high, body = value
            endless = high > UNBOUNDED
            # One repeat in another can split the same text in exponentially many ways.
            if repeated and kind != "POSSESSIVE_REPEAT" and high != low:
                raise ValueError("it has a repeat inside a repeat without end")
            found += endless + _unbounded(body, repeated or endless)
        elif kind == "BRANCH":
            if repeated and len({str(branch[:1]) for branch in value[1] if _literal(branch)}) < len(value[1]):
                raise ValueError("it has alternatives that may begin alike inside a repeat without end")
            found += max(_unbounded(branch, repeated) for branch in value[1])
        elif kind == "SUBPATTERN":
            found += _unbounded(value[3], repeated)
        elif kind in ("ASSERT", "ASSERT_NOT"):
            found += _unbounded(value[1], repeated)
        elif kind == "ATOMIC_GROUP":
            found += _unbounded(value, repeated)
        elif kind in ("GROUPREF", "GROUPREF_EXISTS"):
            raise ValueError("it refers back to a group")
    return found


def _literal(branch: Any) -> bool:
    return len(branch) > 0 and str(branch[0][0]) == "LITERAL"
