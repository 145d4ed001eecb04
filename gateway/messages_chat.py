"""A conversation in Anthropic's blocks, as the messages of OpenAI's chat. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any, NamedTuple

import orjson


class Conversation(NamedTuple):
    """The same one twice.

    Attributes:
        sent: for a provider.
        local: for a chat template, which has a place for thoughts; a provider may refuse them.
        beginning: of the answer, where the last turn is the assistant's; `local` is without it.
    """

    sent: list[dict[str, Any]]
    local: list[dict[str, Any]]
    beginning: str


def conversation_of(raw: Mapping[str, Any]) -> Conversation:
    """Of a body that was checked."""
    sent: list[dict[str, Any]] = []
    if raw.get("system"):
        sent.append({"role": "system", "content": joined(blocks_of(raw["system"]))})
    for role, turns in groupby(raw["messages"], lambda turn: str(turn["role"])):
        blocks = [block for turn in turns for block in blocks_of(turn["content"])]
        if role == "assistant":
            sent.append(_assistant(blocks))
        elif role == "user":
            sent += _user(blocks)
        else:
            sent.append({"role": role, "content": joined(blocks)})
    local = [{**message, "content": message["content"] or ""} for message in sent]
    for message in sent:
        message.pop("reasoning_content", None)
    if sent[-1]["role"] != "assistant":
        return Conversation(sent, local, "")
    # A last turn of the assistant's is where its answer begins; an empty one is none.
    beginning = local.pop()["content"]
    return Conversation(sent if beginning else sent[:-1], local, beginning)


def blocks_of(content: Any) -> list[Mapping[str, Any]]:
    """A text is one block."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def joined(blocks: list[Mapping[str, Any]]) -> str:
    """Their text alone."""
    return "\n".join(block["text"] for block in blocks if block["type"] == "text" and block["text"])


def _assistant(blocks: list[Mapping[str, Any]]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": joined(blocks)}
    if thoughts := "\n".join(block["thinking"] for block in blocks if block["type"] == "thinking"):
        message["reasoning_content"] = thoughts
    if calls := [_call(block) for block in blocks if block["type"] == "tool_use"]:
        message["tool_calls"] = calls
        message["content"] = message["content"] or None
    return message


def _call(block: Mapping[str, Any]) -> dict[str, Any]:
    function = {"name": block["name"], "arguments": orjson.dumps(block["input"]).decode()}
    return {"id": block["id"], "type": "function", "function": function}


def _user(blocks: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The results first, each a message of its own; their pictures, which such a message cannot hold, come with the
    rest of the turn."""
    results = [block for block in blocks if block["type"] == "tool_result"]
    messages = [
        {"role": "tool", "tool_call_id": result["tool_use_id"], "content": _result(result)} for result in results
    ]
    rest = [block for result in results for block in blocks_of(result.get("content") or "") if block["type"] == "image"]
    rest += [block for block in blocks if block["type"] != "tool_result"]
    if any(block["type"] == "image" for block in rest):
        messages.append({"role": "user", "content": [_part(block) for block in rest]})
    elif rest or not results:
        messages.append({"role": "user", "content": joined(rest)})
    return messages


def _result(result: Mapping[str, Any]) -> str:
    """OpenAI's chat has no sign for a failure: it is said in words."""
    text = joined(blocks_of(result.get("content") or ""))
    return f"Error: {text}" if result.get("is_error") else text


def _part(block: Mapping[str, Any]) -> dict[str, Any]:
    if block["type"] == "text":
        return {"type": "text", "text": block["text"]}
    source = block["source"]
    url = source["url"] if source["type"] == "url" else f"data:{source['media_type']};base64,{source['data']}"
    return {"type": "image_url", "image_url": {"url": url}}
