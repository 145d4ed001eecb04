"""Reads a completion as it comes: what is said, thought and called, whatever the pieces it comes in. Pure.

A family's parser is a generator that asks a `Reader` for what it expects next, and waits (`yield`) while that is not
there yet. Nothing is held back longer than it takes to know what it is: a call's arguments are passed on as they are
written.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import TypeVar

from backends.llama.json_pieces import SPACE, Braces, CallObject
from backends.types import ToolDelta

T = TypeVar("T")
Steps = Generator[None, None, T]
"""A part of a parser: it yields while it waits for more text, and returns what it found."""

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
LONG_ID = 24


@dataclass(frozen=True, slots=True)
class Parsed:
    """A piece of each."""

    text: str = ""
    reasoning: str = ""
    tools: tuple[ToolDelta, ...] = ()


class Reader:
    """Of one completion.

    Attributes:
        calls: how many are whole.
        thinking: it is in the midst of a thought.
    """

    def __init__(self, id_length: int = LONG_ID) -> None:
        self.calls = 0
        self.thinking = False
        self._id_length = id_length
        self._held = ""
        self._ended = False
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._tools: list[ToolDelta] = []

    # -- in and out ----------------------------------------------------------------------------------------------

    def add(self, text: str) -> None:
        """Further characters."""
        self._held += text

    def end(self) -> None:
        """There are no more."""
        self._ended = True

    def taken(self) -> Parsed:
        """What was found since the last time."""
        parsed = Parsed("".join(self._text), "".join(self._reasoning), tuple(self._tools))
        self._text.clear()
        self._reasoning.clear()
        self._tools.clear()
        return parsed

    # -- what a parser finds -------------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """Text for the client."""
        self._text.append(text)

    def reason(self, text: str) -> None:
        """What the model only thought."""
        self._reasoning.append(text)

    def begin(self, name: str) -> None:
        """A call, up to its name."""
        letters = "".join(secrets.choice(_LETTERS) for _ in range(self._id_length))
        id_ = f"call_{letters}" if self._id_length == LONG_ID else letters
        self._tools.append(ToolDelta(self.calls, id_, name))

    def argue(self, text: str) -> None:
        """A piece of its arguments."""
        if text:
            self._tools.append(ToolDelta(self.calls, arguments=text))

    def finish(self) -> None:
        """It is whole."""
        self.calls += 1

    # -- what a parser asks for ----------------------------------------------------------------------------------

    def more(self) -> Steps[bool]:
        """Waits for further characters; False: the completion is at its end."""
        if self._ended:
            return False
        yield
        return True

    def peek(self) -> Steps[str]:
        """The next character; empty: there is none."""
        while not self._held:
            if not (yield from self.more()):
                return ""
        return self._held[0]

    def put_back(self, text: str) -> None:
        """It belongs to what follows."""
        self._held = text + self._held

    def drop_the_rest(self) -> None:
        """If the completion is at its end: what is left is the beginning of something that was cut."""
        if self._ended:
            self._held = ""

    def begins(self, whole: re.Pattern[str], part: re.Pattern[str]) -> Steps[bool]:
        """Whether what comes next matches; `part` matches all of what may still come to do so. Nothing is taken."""
        while not whole.match(self._held):
            if not part.fullmatch(self._held) or not (yield from self.more()):
                return False
        return True

    def spaces(self) -> Steps[str]:
        """Takes all that come next."""
        while not self._held.lstrip(SPACE):
            if not (yield from self.more()):
                break
        size = len(self._held) - len(self._held.lstrip(SPACE))
        spaces, self._held = self._held[:size], self._held[size:]
        return spaces

    def skip(self, characters: str = SPACE) -> Steps[None]:
        """Passes over these."""
        while True:
            self._held = self._held.lstrip(characters)
            if self._held or not (yield from self.more()):
                return

    def accept(self, marks: Iterable[str]) -> Steps[str]:
        """Takes the mark that comes next, the longest of several; empty: none of them does."""
        marks = sorted(filter(None, marks), key=len, reverse=True)
        while any(len(mark) > len(self._held) and mark.startswith(self._held) for mark in marks):
            if not (yield from self.more()):
                break
        found = next((mark for mark in marks if self._held.startswith(mark)), "")
        self._held = self._held[len(found) :]
        return found

    def until(self, marks: Iterable[str], into: Callable[[str], None], *, trim: str = SPACE) -> Steps[str]:
        """Passes on what stands before the first of the marks, and takes that; empty: the end came before any.

        Characters of `trim` right before a mark belong to neither side, and are dropped.
        """
        marks = tuple(filter(None, marks))
        while True:
            at, mark = _first(self._held, marks)
            if mark:
                before, self._held = self._held[:at].rstrip(trim), self._held[at + len(mark) :]
                if before:
                    into(before)
                return mark
            settled = self._held[: len(self._held) - _overlap(self._held, marks)]
            self._pass_on(len(settled.rstrip(trim) if marks else settled), into)
            if not (yield from self.more()):
                self._pass_on(len(self._held), into)
                return ""

    def word(self, ends: Iterable[str], most: int = 256) -> Steps[tuple[str, str]]:
        """What stands before the first of the ends, and that end; nothing is taken if none comes within `most`."""
        ends = tuple(ends)
        while True:
            at, end = _first(self._held, ends)
            if end:
                word, self._held = self._held[:at], self._held[at + len(end) :]
                return word, end
            if len(self._held) > most or not (yield from self.more()):
                return "", ""

    def json_object(self, into: Callable[[str], None]) -> Steps[bool]:
        """Passes on the object that begins here, as it is written; False: the end came first."""
        braces = Braces()
        while True:
            self._pass_on(braces.scan(self._held), into)
            if braces.closed:
                return True
            if not (yield from self.more()):
                return False

    def call_object(self) -> Steps[bool]:
        """A call as an object with its name and its arguments; a whole object without a name is text, and one that was
        cut before its name is nothing: who required a call is not to take it for an answer."""
        call = CallObject()
        told = False
        while True:
            self._held = call.feed(self._held)
            if call.name and not told:
                told = True
                self.begin(call.name)
            if told:
                self.argue(call.taken())
            if call.closed or not (yield from self.more()):
                break
        if not told and call.closed:
            self.say(call.raw)
        elif call.closed:
            if not call.argued:
                self.argue("{}")
            self.finish()
        return told and call.closed

    def _pass_on(self, size: int, into: Callable[[str], None]) -> None:
        if size:
            into(self._held[:size])
            self._held = self._held[size:]


def _first(text: str, marks: tuple[str, ...]) -> tuple[int, str]:
    """Where the first of the marks stands, the longest of those that begin there; empty: none does."""
    found = [(at, -len(mark), mark) for mark in marks if (at := text.find(mark)) >= 0]
    return (min(found)[0], min(found)[2]) if found else (-1, "")


def _overlap(text: str, marks: tuple[str, ...]) -> int:
    """Characters at the end of `text` that may be the beginning of a mark."""
    longest = max(map(len, marks), default=1) - 1
    return next((n for n in range(min(len(text), longest), 0, -1) if any(m.startswith(text[-n:]) for m in marks)), 0)
