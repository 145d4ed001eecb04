"""A conversation as chat templates want it, whatever family they are of. Pure.

OpenAI's messages are not quite theirs: arguments are JSON in a string, fields that say nothing are null, a tool's
result does not say whose it is, and a description may be missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from backends.errors import InvalidRequest

Message = Mapping[str, Any]


def cleaned(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages without fields that say nothing, their calls' arguments objects, their results with the tool's name.

    Raises:
        InvalidRequest: arguments are no JSON object; `param` has the place.
    """
    told = [_cleaned(message, f"messages[{at}]") for at, message in enumerate(messages)]
    names: dict[Any, str] = {}  # of the turn: clients count their calls anew in each
    for message in told:
        if message["role"] != "tool":
            names = {call.get("id"): call["function"]["name"] for call in message.get("tool_calls") or ()}
        elif name := names.get(message.get("tool_call_id")):
            message.setdefault("name", name)
    return told


def _cleaned(message: Message, place: str) -> dict[str, Any]:
    nothing = {key for key, value in message.items() if value is None or (key == "tool_calls" and not value)}
    said = {"content": ""} | {key: value for key, value in message.items() if key not in nothing}
    if calls := said.get("tool_calls"):
        said["tool_calls"] = [_with_object(call, f"{place}.tool_calls[{at}]") for at, call in enumerate(calls)]
    return said


def _with_object(call: Message, place: str) -> dict[str, Any]:
    text = call["function"]["arguments"]
    wrong = ""
    try:
        arguments = orjson.loads(text) if text.strip() else {}
        if not isinstance(arguments, dict):
            wrong = "are no JSON object"
        orjson.dumps(arguments)  # as the engine will be told of them
    except orjson.JSONDecodeError:
        wrong = "are no JSON object"
    except orjson.JSONEncodeError:
        wrong = "are nested too deeply"
    if wrong:
        raise InvalidRequest(f"The arguments of an earlier call {wrong}.", param=f"{place}.function.arguments")
    return {**call, "function": {**call["function"], "arguments": arguments}}


def described(tool: Message) -> dict[str, Any]:
    """A tool with all that a template may want to show of it."""
    said = {key: value for key, value in tool["function"].items() if value is not None}
    parameters = {"type": "object", "properties": {}}
    function = {"name": said["name"], "description": "", "parameters": parameters} | said
    return {**tool, "function": function}


def one_by_one(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Each call in a message of its own, with its result right behind it: for templates that know only that."""
    told: list[dict[str, Any]] = []
    for at, message in enumerate(messages):
        if message["role"] == "tool":
            continue
        calls = message.get("tool_calls") or ()
        results = _results(messages, at + 1)
        if not calls:
            told.append(dict(message))
        for nth, call in enumerate(calls):
            rest = {"role": message["role"], "content": ""} if nth else message
            told.append({**rest, "tool_calls": [call]})
            if result := results.get(call.get("id")):
                told.append(dict(result))
    return told


def _results(messages: Sequence[Message], start: int) -> dict[Any, Message]:
    """By call, those that stand right there: a later turn may count its calls as this one does."""
    found: dict[Any, Message] = {}
    for at in range(start, len(messages)):
        if messages[at]["role"] != "tool":
            break
        found[messages[at].get("tool_call_id")] = messages[at]
    return found


def texts_apart(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """What was said beside calls in a turn of its own before them: for templates that show only one of the two."""
    told: list[dict[str, Any]] = []
    for message in messages:
        if message.get("tool_calls") and message["content"]:
            told.append({"role": message["role"], "content": message["content"]})
            told.append({**message, "content": ""})
        else:
            told.append(dict(message))
    return told


def texts_later(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The same for templates that moreover want the user's and the assistant's words in turns: what was said beside
    calls comes with the answer after them, if there is one already."""
    told: list[dict[str, Any]] = []
    waiting: list[str] = []
    for message in messages:
        said = dict(message)
        if said["role"] == "user":
            waiting = []
        elif said["role"] == "assistant" and said.get("tool_calls"):
            waiting += [said["content"]] if said["content"] else []
            said["content"] = ""
        elif said["role"] == "assistant":
            said["content"] = "\n\n".join(filter(None, (*waiting, said["content"])))
            waiting = []
        told.append(said)
    return told


def system_within(messages: Sequence[Message], *, last: bool = False) -> list[dict[str, Any]]:
    """The system's words at the head of the user's first message, or the `last`: for templates that have no place for
    them."""
    system = [message["content"] for message in messages if message["role"] == "system"]
    told = [dict(message) for message in messages if message["role"] != "system"]
    turns = [turn for turn in told if turn["role"] == "user"]
    if not system:
        return told
    if not turns:
        return [{"role": "user", "content": "\n\n".join(system)}, *told]
    turn = turns[-1 if last else 0]
    turn["content"] = joined("\n\n".join(system), turn["content"])
    return told


def joined(first: Any, second: Any) -> Any:
    """Two contents, texts or lists of parts, as one."""
    if isinstance(first, str) and isinstance(second, str):
        return "\n\n".join(filter(None, (first, second)))
    return [*_parts(first), *_parts(second)]


def _parts(content: Any) -> list[Any]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
