"""Mistral: first a list of JSON objects (7B v0.3, Nemo, Small 3.1), since Small 3.2 each call's name and arguments
behind control tokens (Devstral, Magistral, Ministral 3).

Source: https://github.com/mistralai/mistral-common, `tests/data/chat_templates`.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

from backends.llama.family import Calls, Family, call_list, has, parse_call_list
from backends.llama.history import Message, system_within, texts_later
from backends.llama.lark import Lark, quoted
from backends.llama.reader import Reader, Steps

CALLS, ID, ARGUMENTS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
ID_LENGTH = 9
NOT_BOTH = (
    r"elif \(?message\.tool_calls is defined|if message\.get\('tool_calls'\) %\}|cannot have both content and tool"
)
"""Templates that show either the text of an assistant's turn or its calls."""

LETTERS = string.ascii_letters + string.digits


class MistralLists(Family):
    """Their templates refuse a conversation whose calls have ids other than of nine letters and digits."""

    name = "mistral"
    open = (CALLS,)
    lists = True
    id_length = ID_LENGTH

    def speaks(self, template: str) -> bool:
        return has(template, r"\btools\b", r"\[TOOL_CALLS\]", without=(r"\[ARGS\]",))

    def history(
        self, messages: Sequence[Message], tools: Sequence[Message], template: str
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        told = [_with_short_ids(message) for message in messages]
        if has(template, NOT_BOTH):
            told = texts_later(told)
        if has(template, r"loop\.last and system_message is defined"):  # or it is forgotten behind a tool's result
            told = system_within(told, last=True)
        return super().history(told, tools, template)

    def calls(self, lark: Lark, calls: Calls) -> str:
        return call_list(lark, calls)

    def parse_calls(self, reader: Reader, calls: Calls) -> Steps[None]:
        yield from parse_call_list(reader)


class MistralNames(MistralLists):
    """Since version 11 of their format."""

    name = "mistral-names"
    lists = False

    def speaks(self, template: str) -> bool:
        return has(template, r"\btools\b", r"\[TOOL_CALLS\]", r"\[ARGS\]")

    def marks(self) -> tuple[str, ...]:
        return (CALLS, ID, ARGUMENTS)

    def calls(self, lark: Lark, calls: Calls) -> str:
        id_ = f"({lark.mark(ID)} {lark.rule('ID', '/[A-Za-z0-9]{1,32}/')})?"
        wanted = [
            f"{quoted(function.name)} {id_} {lark.mark(ARGUMENTS)} {lark.json(f'arguments_{at}', function.parameters)}"
            for at, function in enumerate(calls.functions)
        ]
        return " | ".join(wanted)

    def parse_calls(self, reader: Reader, calls: Calls) -> Steps[None]:
        name, end = yield from reader.word((ID, ARGUMENTS, "{"))
        if end == ID:
            _, end = yield from reader.word((ARGUMENTS,))
        if not end:
            reader.drop_the_rest()
            return
        reader.begin(name.strip())
        if end == "{":  # the control token before it was not written
            reader.put_back(end)
        yield from reader.skip()
        if (yield from reader.json_object(reader.argue)):
            reader.finish()
        yield from reader.skip()


def _with_short_ids(message: Message) -> dict[str, Any]:
    said = dict(message)
    if calls := said.get("tool_calls"):
        said["tool_calls"] = [{**call, "id": _short(call["id"])} for call in calls]
    if id_ := said.get("tool_call_id"):
        said["tool_call_id"] = _short(id_)
    return said


def _short(id_: str) -> str:
    """The same for the same id, wherever it came from."""
    if len(id_) == ID_LENGTH and all(letter in LETTERS for letter in id_):
        return id_
    return "".join(LETTERS[byte % len(LETTERS)] for byte in blake2b(id_.encode(), digest_size=ID_LENGTH).digest())


FAMILIES = (MistralLists(), MistralNames())
