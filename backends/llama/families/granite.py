"""Granite 3: a list of JSON objects behind `<|tool_call|>`, of which 3.1 and 3.2 also write `<tool_call>`.

Sources: their chat templates; https://github.com/ibm-granite/granite-io. Granite 4 calls as Hermes does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from backends.llama.family import Calls, Family, call_list, has, parse_call_list
from backends.llama.history import Message
from backends.llama.lark import Lark
from backends.llama.reader import Reader, Steps

RESPONSE, RESPONSE_END = "<response>", "</response>"


class Granite(Family):
    """Their templates take `tools`, but know nothing of earlier calls: those are written as the model writes them."""

    name = "granite"
    open = ("<|tool_call|>", "<tool_call>")
    lists = True

    def speaks(self, template: str) -> bool:
        return has(template, r"\btools\b", r"<\|tool_call\|>", r"<\|start_of_role\|>")

    def history(
        self, messages: Sequence[Message], tools: Sequence[Message], template: str
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        if "tool_calls" not in template:
            messages = [_written(message) for message in messages]
        return super().history(messages, tools, template)

    def calls(self, lark: Lark, calls: Calls) -> str:
        return call_list(lark, calls)

    def parse(self, reader: Reader, calls: Calls | None, *, begun: bool) -> Steps[None]:
        """Behind a thought its words are within tags of their own."""
        if not begun:
            space = yield from reader.spaces()
            if (yield from reader.accept((RESPONSE,))):
                yield from reader.skip("\n")
                yield from self._parse_response(reader, calls)
                return
            reader.put_back(space)
        yield from super().parse(reader, calls, begun=begun)

    def _parse_response(self, reader: Reader, calls: Calls | None) -> Steps[None]:
        opens = self.open if calls else ()
        while mark := (yield from reader.until((*opens, RESPONSE_END), reader.say)):
            if mark != RESPONSE_END:
                yield from parse_call_list(reader)

    def parse_calls(self, reader: Reader, calls: Calls) -> Steps[None]:
        yield from parse_call_list(reader)


def _written(message: Message) -> dict[str, Any]:
    said = dict(message)
    if calls := said.pop("tool_calls", None):
        called = [{key: call["function"][key] for key in ("name", "arguments")} for call in calls]
        said["content"] = f"{said['content']}<|tool_call|>{orjson.dumps(called).decode()}"
    return said


FAMILIES = (Granite(),)
