"""From a model's text to what it says, thinks and calls, piece by piece as it comes. Pure.

Nothing is held back longer than it takes to know what it is: a call's arguments are passed on as they are written.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from backends.llama.tools import ToolFormat
from backends.types import ToolDelta

THINK = "<think>"
THOUGHT = "</think>"
FENCE = "```"
SPACE = " \n\r\t"
BARE = re.compile(r'\s*(?:```(?:json)?\s*)?(?P<call>\{\s*"name"\s*:)')
BARE_BEGUN = re.compile(r'\s*(?:`{1,2}|```(?:j|js|jso|json)?\s*)?(?:\{\s*(?:"(?:n|na|nam|name|name"\s*)?)?)?')
"""What may become that."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """A piece of each."""

    text: str = ""
    reasoning: str = ""
    tools: tuple[ToolDelta, ...] = ()


class Parser:
    """Of one completion.

    Args:
        form: how the model calls tools; None: it was given none, so what looks like a call is text.
        thinks: it may think aloud within `<think>`; `thinking`: its prompt ended in the midst of that.
    """

    def __init__(self, form: ToolFormat | None, *, thinks: bool = False, thinking: bool = False) -> None:
        self.calls = 0
        self._form = form
        self._held = ""
        self._first = self._bare if form and form.bare else self._say
        self._state: Callable[[str], tuple[str, bool]] = (
            self._before_thought if thinking else self._start if thinks else self._first
        )
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._tools: list[ToolDelta] = []
        self._call = Call()

    @property
    def thinking(self) -> bool:
        """Whether it is in the midst of a thought."""
        return self._state in (self._before_thought, self._reason)

    def feed(self, text: str) -> Parsed:
        """What these characters add."""
        self._held += text
        again = True
        while again and self._held:
            self._held, again = self._state(self._held)
        return self._taken()

    def close(self) -> Parsed:
        """The end of the completion: what was held back in the hope of more."""
        if self._state in (self._say, self._start, self._bare):
            self._text.append(self._held)
        elif self._state == self._reason:
            self._reasoning.append(self._held)
        self._held = ""
        return self._taken()

    def _taken(self) -> Parsed:
        parsed = Parsed("".join(self._text), "".join(self._reasoning), tuple(self._tools))
        self._text.clear()
        self._reasoning.clear()
        self._tools.clear()
        return parsed

    # Each state takes what is held, and returns the rest, and whether another state may go on with it at once.

    def _start(self, held: str) -> tuple[str, bool]:
        """Whether it begins with a thought."""
        begun = held.lstrip(SPACE)
        if begun.startswith(THINK):
            self._state = self._before_thought
            return begun[len(THINK) :], True
        if THINK.startswith(begun):
            return held, False
        self._state = self._first
        return held, True

    def _before_thought(self, held: str) -> tuple[str, bool]:
        rest = held.lstrip("\n")
        if rest:
            self._state = self._reason
        return rest, bool(rest)

    def _reason(self, held: str) -> tuple[str, bool]:
        before, end, after = held.partition(THOUGHT)
        if end:
            self._reasoning.append(before.rstrip("\n"))
            self._state = self._after_thought
            return after, True
        cut = len(held[: len(held) - _overlap(held, THOUGHT)].rstrip("\n"))
        self._reasoning.append(held[:cut])
        return held[cut:], False

    def _after_thought(self, held: str) -> tuple[str, bool]:
        rest = held.lstrip("\n")
        if rest:
            self._state = self._first
        return rest, bool(rest)

    def _bare(self, held: str) -> tuple[str, bool]:
        """A call whose marks were forgotten begins the completion, or there is none such."""
        if begun := BARE.match(held):
            self._state = self._inside
            self._call = Call()
            return held[begun.start("call") :], True
        if BARE_BEGUN.fullmatch(held):
            return held, False
        self._state = self._say
        return held, True

    def _say(self, held: str) -> tuple[str, bool]:
        form = self._form
        if form is None:
            self._text.append(held)
            return "", False
        opening = form.open.rstrip("\n")
        if not opening:
            return self._say_or_object(held)
        before, found, after = held.partition(opening)
        if found:
            # The space between what is said and a call belongs to neither.
            self._text.append(before.rstrip(SPACE))
            self._state = self._between if not form.array else self._array
            return after, True
        cut = len(held[: len(held) - _overlap(held, opening)].rstrip(SPACE))
        self._text.append(held[:cut])
        return held[cut:], False

    def _say_or_object(self, held: str) -> tuple[str, bool]:
        """A format without a mark: a call begins the completion, or there is none."""
        begun = held.lstrip(SPACE)
        if not begun:
            return held, False
        if begun.startswith("{"):
            self._state = self._between
            return begun, True
        self._form = None
        return held, True

    def _array(self, held: str) -> tuple[str, bool]:
        rest = held.lstrip(SPACE + "[,")
        if rest.startswith("]"):
            self._state = self._rest
            return rest[1:], True
        if rest:
            self._state = self._inside
            self._call = Call()
        return rest, bool(rest)

    def _between(self, held: str) -> tuple[str, bool]:
        rest = held.lstrip(SPACE)
        if rest:
            self._state = self._inside
            self._call = Call()
        return rest, bool(rest)

    def _inside(self, held: str) -> tuple[str, bool]:
        assert self._form is not None
        call = self._call
        rest = call.feed(held)
        if call.name and not call.told:
            call.told = True
            self._tools.append(ToolDelta(self.calls, self._form.new_id(), call.name))
        if call.told and (arguments := call.taken()):
            self._tools.append(ToolDelta(self.calls, arguments=arguments))
        if not call.done:
            return rest, False
        if call.told:
            self.calls += 1
        self._state = self._array if self._form.array else self._rest
        return rest, True

    def _rest(self, held: str) -> tuple[str, bool]:
        """After a call: its end, and then another one or nothing."""
        form = self._form
        assert form is not None
        opening, closing = form.open.rstrip("\n"), form.close.lstrip("\n")
        rest = held.lstrip(SPACE + ";")
        for mark in filter(None, (closing, opening, FENCE if form.bare else "")):
            if rest.startswith(mark):
                if mark == opening:
                    self._state = self._array if form.array else self._between
                return rest[len(mark) :], True
            if mark.startswith(rest):
                return rest, False
        if not opening and rest.startswith("{"):
            self._state = self._between
            return rest, True
        self._state = self._say
        return rest, bool(rest)


class Call:
    """One call's JSON object, as it comes: its name, and the text of its arguments."""

    def __init__(self) -> None:
        self.name = ""
        self.told = False
        self.done = False
        self._depth = 0
        self._string = False
        self._escaped = False
        self._key: str | None = None
        self._token: list[str] = []
        self._value: list[str] = []
        self._expects_value = False
        self._ready: list[str] = []

    def taken(self) -> str:
        """The text of the arguments since the last time."""
        text = "".join(self._ready)
        self._ready.clear()
        return text

    def feed(self, text: str) -> str:
        """Reads up to the end of the object; returns what lies behind it."""
        for at, char in enumerate(text):
            self._read(char)
            if self.done:
                return text[at + 1 :]
        return ""

    def _read(self, char: str) -> None:
        if self._string:
            self._in_string(char)
        elif char == '"':
            self._string = True
            self._token = []
            self._keep(char)
        elif char in "{[":
            self._keep(char)
            self._depth += 1
        elif char in "}]":
            self._depth -= 1
            if self._depth == 0:
                self.done = True
            else:
                self._keep(char)
        elif self._depth == 1 and char in ":,":
            self._expects_value = char == ":"
        else:
            self._keep(char)

    def _in_string(self, char: str) -> None:
        self._keep(char)
        if self._escaped:
            self._escaped = False
            self._token.append("\\" + char)
        elif char == "\\":
            self._escaped = True
        elif char == '"':
            self._string = False
            if self._depth == 1:
                self._string_ended("".join(self._token))
        else:
            self._token.append(char)

    def _string_ended(self, token: str) -> None:
        if not self._expects_value:
            self._key = token
        elif self._key == "name":
            self.name = token

    def _keep(self, char: str) -> None:
        """What belongs to the arguments' value goes out as it is."""
        if self._depth >= 1 and self._expects_value and self._key in ("arguments", "parameters"):
            if self._depth == 1 and char in SPACE:
                return
            self._ready.append(char)


def _overlap(text: str, mark: str) -> int:
    """Characters at the end of `text` that may be the beginning of `mark`."""
    for n in range(min(len(text), len(mark) - 1), 0, -1):
        if mark.startswith(text[-n:]):
            return n
    return 0
