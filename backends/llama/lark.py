"""Grammars put together rule by rule, in llguidance's Lark, where some tokens are such as no text can spell. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import orjson

MARK = re.compile(r"(<[^<>\s]{1,60}>|\[/?[A-Z_]{2,40}\])")
"""What looks like a control token."""

Special = Callable[[str], int | None]
"""The id of the control token that a text stands for; None: it is no such thing."""


class JSON(Protocol):
    """What llguidance makes of a JSON schema: all of it, or, if that is not `strict`, as much as can be enforced."""

    def __call__(self, schema: Any, *, strict: bool) -> str: ...


class Lark:
    """A grammar under way, whose first rule is `start`. The methods return words for the right side of a rule."""

    TEXT = r"/(.|\n)*/"

    def __init__(self, special: Special, json: JSON) -> None:
        self.rules: dict[str, str] = {}
        self._special = special
        self._json = json

    def rule(self, name: str, words: str) -> str:
        """Adds a rule (a terminal, if its name is in capitals); returns its name without attributes."""
        self.rules[name] = words
        return name.partition("[")[0]

    def mark(self, text: str) -> str:
        """A text whose control tokens, if the vocabulary has them, stand for themselves."""
        parts = [part for part in MARK.split(text) if part]
        return " ".join(self._part(part) for part in parts)

    def _part(self, part: str) -> str:
        token = self._special(part)
        return quoted(part) if token is None else f"<[{token}]>"

    def is_special(self, mark: str) -> bool:
        """Whether it is a control token."""
        return self._special(mark) is not None

    def text(self, marks: Iterable[str]) -> str:
        """Any text in which none of these occurs."""
        return self.rule("TEXT", without(self.TEXT, marks))

    def text_until(self, name: str, mark: str, text: str = TEXT) -> str:
        """A text, and the mark that ends it: the first that there is."""
        if self.is_special(mark):
            return f"{self.rule(name.upper(), without(text, (mark,)))} {self.mark(mark)}"
        return self.rule(f"{name}[lazy]", f"({text}) {quoted(mark)}")

    def json(self, name: str, schema: Any, *, strict: bool = False) -> str:
        """JSON after a schema. Raises ValueError: it is strict, and cannot be enforced."""
        return self.rule(name, self._json(schema, strict=strict))

    def source(self) -> str:
        """The whole of it."""
        rules = sorted(self.rules.items(), key=lambda rule: rule[0] != "start")
        return "%llguidance {}\n" + "\n".join(f"{name}: {words}" for name, words in rules)


def quoted(text: str) -> str:
    """A text, as it is."""
    return orjson.dumps(text).decode()


def without(text: str, marks: Iterable[str]) -> str:
    """A text, as a terminal, in which none of these occurs."""
    return f"{text} & ~/(.|\\n)*({'|'.join(map(_escaped, marks))})(.|\\n)*/"


def _escaped(text: str) -> str:
    return "".join(char if char.isalnum() or char == "_" else f"\\x{ord(char):02x}" for char in text)
