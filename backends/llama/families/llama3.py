"""Llama 3.1 to 3.3: a bare JSON object, with nothing before it but perhaps `<|python_tag|>`.

Source: https://github.com/meta-llama/llama-models, `models/llama3_1/prompt_format.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from backends.llama.family import Calls, Family, call_objects, has
from backends.llama.history import Message, one_by_one, texts_apart
from backends.llama.json_pieces import SPACE
from backends.llama.lark import Lark, quoted
from backends.llama.reader import Reader, Steps

TAG = "<|python_tag|>"


class Llama3(Family):
    """Calls one function at a time."""

    name = "llama3"

    def speaks(self, template: str) -> bool:
        return has(template, r"\btools\b", r'\{"name": function name, "parameters":')

    def marks(self) -> tuple[str, ...]:
        return (TAG,)

    def history(
        self, messages: Sequence[Message], tools: Sequence[Message], template: str
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        return super().history(texts_apart(one_by_one(messages)), tools, template)

    def answer(self, lark: Lark, calls: Calls) -> str:
        """A call is all of the completion; any other text begins otherwise."""
        # Meta's own example has the type before the name.
        before = (
            f'({quoted(chr(34) + "type" + chr(34))} WS? ":" WS? {quoted(chr(34) + "function" + chr(34))} WS? "," WS?)?'
        )
        call = f"({lark.mark(TAG)})? {call_objects(lark, calls, 'parameters', before)}"
        if calls.required:
            return call
        if calls.otherwise is not None:
            return f"{lark.json('said', calls.otherwise, strict=True)} | {call}"
        other = lark.rule("OTHER", r"/[^{\s](.|\n)*/")
        return f"{call} | {other}"

    def parse(self, reader: Reader, calls: Calls | None, *, begun: bool) -> Steps[None]:
        if calls and not begun:
            yield from reader.accept((TAG,))
            space = yield from reader.spaces()
            if (yield from reader.peek()) != "{":
                reader.say(space)
            else:
                # It may go on with others behind a semicolon.
                while (yield from reader.peek()) == "{" and (yield from reader.call_object()):
                    yield from reader.skip(SPACE + ";")
        yield from reader.until((), reader.say)


FAMILIES = (Llama3(),)
