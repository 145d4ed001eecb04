"""JSON that comes in pieces: where a value ends, and what a call's object says. Pure."""

from __future__ import annotations

from typing import ClassVar

SPACE = " \n\r\t"


class Braces:
    """Where a JSON value of braces ends."""

    def __init__(self) -> None:
        self.closed = False
        self.depth = 0
        self.string = False
        self._escaped = False

    def scan(self, text: str) -> int:
        """How many of these characters belong to it."""
        for at, char in enumerate(text):
            if self.string:
                if self._escaped:
                    self._escaped = False
                elif char == "\\":
                    self._escaped = True
                elif char == '"':
                    self.string = False
            elif char == '"':
                self.string = True
            elif char in "{[":
                self.depth += 1
            elif char in "}]":
                self.depth -= 1
                if self.depth <= 0:
                    self.closed = True
                    return at + 1
        return len(text)


class CallObject:
    """A call's JSON object, as it comes: its name, and the text of its arguments, whichever stands first."""

    ARGUMENTS: ClassVar = ("arguments", "parameters")

    def __init__(self) -> None:
        self.name = ""
        self.raw = ""
        self.argued = False
        self._braces = Braces()
        self._value = ""  # of the key at hand, until it is known whole
        self._key = ""
        self._in_value = False
        self._ready = ""

    @property
    def closed(self) -> bool:
        return self._braces.closed

    def taken(self) -> str:
        """The text of the arguments since the last time."""
        text, self._ready = self._ready, ""
        return text

    def feed(self, text: str) -> str:
        """Reads up to the end of the object; returns what lies behind it."""
        for at, char in enumerate(text):
            if not self.name:
                self.raw += char
            depth, string = self._braces.depth, self._braces.string
            self._braces.scan(char)
            outside = depth == 1 and not string
            if outside and char in ":,}":
                self._ends(char)
            elif depth and not (outside and char in SPACE):
                self._keep(char)
            if self.closed:
                return text[at + 1 :]
        return ""

    def _keep(self, char: str) -> None:
        if self._in_value and self._key in self.ARGUMENTS:
            self.argued = True
            self._ready += char
        else:
            self._value += char

    def _ends(self, char: str) -> None:
        """A key or a value of the object itself is whole."""
        word, self._value = self._value.strip(SPACE + '"'), ""
        if char == ":":
            self._key, self._in_value = word, True
            return
        if self._key == "name" and not self.name:
            self.name = word
        self._in_value = False
