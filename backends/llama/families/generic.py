"""Models whose template knows no tools, or speaks of them in words that nobody here knows: they are asked in Hermes'
words, which most models have seen, and told of calls and results in plain turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from backends.llama.families.hermes import Hermes
from backends.llama.family import Family, has
from backends.llama.history import Message, joined, system_within

REFUSES_SYSTEM = "(?i)system role (is )?not supported"

INSTRUCTIONS = """# Tools

You may call one or more functions. Their signatures are within <tools></tools>:
<tools>
{tools}
</tools>

For each call, answer with a JSON object within <tool_call></tool_call>:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


class Generic(Hermes):
    """Of a template that takes neither tools nor calls."""

    name = "generic"

    def speaks(self, template: str) -> bool:
        return False

    def history(
        self, messages: Sequence[Message], tools: Sequence[Message], template: str
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        told: list[dict[str, Any]] = []
        if has(template, REFUSES_SYSTEM):
            messages = system_within(messages)
        joins = False  # whether the next turn of the user's belongs to the results before it
        for message in messages:
            turn = in_words(message)
            if turn["role"] == "user" and joins and told[-1]["role"] == "user":
                told[-1]["content"] = joined(told[-1]["content"], turn["content"])
            else:
                told.append(turn)
            joins = message["role"] == "tool"
        if tools:
            signatures = "\n".join(orjson.dumps(tool).decode() for tool in tools)
            _instruct(told, INSTRUCTIONS.format(tools=signatures), template)
        return told, {}


def _instruct(told: list[dict[str, Any]], instructions: str, template: str) -> None:
    """Where the template has a place for it: many take no system message, and some refuse one."""
    role = "system" if has(template, "system", without=(REFUSES_SYSTEM,)) else "user"
    if told and told[0]["role"] == "system":
        told[0] = {**told[0], "content": f"{told[0]['content']}\n\n{instructions}"}
    elif role == "system":
        told.insert(0, {"role": "system", "content": f"You are a helpful assistant.\n\n{instructions}"})
    elif told and told[0]["role"] == "user" and isinstance(told[0]["content"], str):
        told[0] = {**told[0], "content": f"{instructions}\n\n{told[0]['content']}"}
    else:
        told.insert(0, {"role": "user", "content": instructions})


def in_words(message: Message) -> dict[str, Any]:
    """For a template of plain turns."""
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}
    calls = message.get("tool_calls") or ()
    if not calls:
        return dict(message)
    written = [
        "<tool_call>\n"
        + orjson.dumps({"name": call["function"]["name"], "arguments": call["function"]["arguments"]}).decode()
        + "\n</tool_call>"
        for call in calls
    ]
    return {"role": message["role"], "content": "\n".join(filter(None, (message.get("content"), *written)))}


FAMILIES: tuple[Family, ...] = ()
"""None to be told by its template: it is for all others."""
