"""Hermes 2 Pro and 3, Qwen 2.5 and 3, QwQ, Granite 4 and many others: JSON objects between XML tags.

Sources: their chat templates; https://github.com/NousResearch/Hermes-Function-Calling
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar

from backends.llama.family import Calls, Family, call_objects, has
from backends.llama.history import Message, texts_apart
from backends.llama.json_pieces import SPACE
from backends.llama.lark import Lark
from backends.llama.reader import Reader, Steps

CLOSE = "</tool_call>"
FENCE = "```"

BARE = r'[ \n]*(```(json)?[ \n]*)?\{[ \n]*"name"[ \n]*:'
"""How a call begins whose tags were forgotten; as a regular expression for llguidance too."""

_BARE = re.compile(BARE)
_BARE_BEGUN = re.compile(
    r'[ \n]*(?:`{1,2}|```(?:j|js|jso|json)?[ \n]*)?(?:\{[ \n]*(?:"(?:n|na|nam|name|name"[ \n]*)?)?)?'
)
"""What may become that."""


class Hermes(Family):
    """Small models of the family forget the tags: a completion that begins as a call's object is a call."""

    name = "hermes"
    open = ("<tool_call>",)
    fenced: ClassVar[tuple[str, ...]] = tuple(f"{FENCE}{kind}\n<tool_call>" for kind in ("", "json", "xml"))
    between = "\n"

    def speaks(self, template: str) -> bool:
        asks = r'\\?"name\\?": *(<|\\?"|\{)', r'\\?"arguments\\?": *(<|\\?"|\{|\')'
        return has(template, r"\btools\b", "<tool_call>", *asks, without=("<tool_calls>", "<function=", "<arg_key>"))

    def history(
        self, messages: Sequence[Message], tools: Sequence[Message], template: str
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        if has(template, r"tool_calls is not defined"):  # Hermes' own show no text beside calls
            messages = texts_apart(messages)
        return super().history(messages, tools, template)

    def marks(self) -> tuple[str, ...]:
        return (*super().marks(), CLOSE)

    def plain_text(self) -> str:
        return rf"{Lark.TEXT} & ~/{BARE}(.|\n)*/"

    def calls(self, lark: Lark, calls: Calls) -> str:
        # No other space: a small model that had rather ended its turn would go on with it.
        return rf'"\n"? {call_objects(lark, calls)} "\n"? {lark.mark(CLOSE)}'

    def answer(self, lark: Lark, calls: Calls) -> str:
        answer = super().answer(lark, calls)
        if calls.required or calls.otherwise is not None:
            return answer
        bare = lark.rule("BARE", f"/{BARE}/"), lark.rule("FENCE", rf"/([ \n]*{FENCE})?/")
        return f"{answer} | {bare[0]} WS? named {bare[1]}"

    def parse(self, reader: Reader, calls: Calls | None, *, begun: bool) -> Steps[None]:
        if calls and not begun and (yield from reader.begins(_BARE, _BARE_BEGUN)):
            yield from reader.skip(SPACE)
            yield from reader.accept((f"{FENCE}json", FENCE))
            yield from self.parse_calls(reader, calls)
        while calls and (yield from reader.until((*self.open, *self.fenced), reader.say)):
            yield from self.parse_calls(reader, calls)
        yield from reader.until((), reader.say)

    def parse_calls(self, reader: Reader, calls: Calls) -> Steps[None]:
        yield from reader.skip(SPACE)
        if (yield from reader.peek()) != "{":
            return
        yield from reader.call_object()
        yield from reader.skip(SPACE + ";")
        yield from reader.accept((CLOSE,))
        yield from reader.skip(SPACE)
        yield from reader.accept((FENCE,))
        yield from reader.skip(SPACE)


FAMILIES = (Hermes(),)
