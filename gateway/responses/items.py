"""Items to a chat's messages: calls and what they gave side by side, as chats have them. Pure but for new ids."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from backends.errors import InvalidRequest

Item = dict[str, Any]
PREFIXES = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "reasoning": "rs",
    "file_search_call": "fs",
}
ID_BYTES = 24
THOUGHTS = "reasoning_content"
"""What chat templates call them."""


def new_id(prefix: str) -> str:
    """One that nobody guesses: texts are found by it."""
    return f"{prefix}_{secrets.token_hex(ID_BYTES)}"


@dataclass(frozen=True, slots=True)
class Placed:
    """An item, and the field of the request that brought it."""

    item: Item
    place: str


def items_of(given: str | Sequence[Mapping[str, Any]] | None) -> list[Item]:
    """`input` as received, in full: each item with its type, its status and an id of its own."""
    if given is None:
        return []
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    used: set[str] = set()
    return [_whole(item, used) for item in given]


def _whole(given: Mapping[str, Any], used: set[str]) -> Item:
    kind = given.get("type") or ("message" if "role" in given else "item_reference")
    item = {"type": kind, **{key: value for key, value in given.items() if key != "type"}}
    if kind == "item_reference":
        return item
    known = item.get("id")
    if not isinstance(known, str) or not known or known in used or len(known) > 200:
        item["id"] = new_id(PREFIXES[kind])
    used.add(item["id"])
    if kind == "message":
        item["content"] = _parts(item["content"], "output_text" if item["role"] == "assistant" else "input_text")
    if kind != "reasoning":
        item["status"] = item.get("status") or "completed"
    return item


def _parts(content: Any, kind: str) -> Any:
    if not isinstance(content, str):
        return content
    more: dict[str, Any] = {"annotations": [], "logprobs": []} if kind == "output_text" else {}
    return [{"type": kind, "text": content, **more}]


@dataclass(frozen=True, slots=True)
class Chat:
    """A chat's messages.

    Attributes:
        places: of each, the field of the request that brought it.
        thoughts: what the model thought before it said one of them, by its index; no provider is sent any.
        tools: of each of the chat's functions, its place among the request's tools.
    """

    messages: list[dict[str, Any]] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    thoughts: dict[int, str] = field(default_factory=dict)
    tools: list[int] = field(default_factory=list)

    def add(self, message: dict[str, Any], place: str) -> None:
        self.messages.append(message)
        self.places.append(place)

    def think(self, thoughts: list[str]) -> None:
        """These came before what the assistant said last."""
        if not thoughts:
            return
        for at in reversed(range(len(self.messages))):
            if self.messages[at]["role"] == "assistant":
                self.thoughts[at] = "\n".join(filter(None, [self.thoughts.get(at), *thoughts]))
                break
        thoughts.clear()


def with_thoughts(messages: Sequence[Mapping[str, Any]], thoughts: Mapping[int, str]) -> tuple[Mapping[str, Any], ...]:
    """The same messages, for a template that has a place for them."""
    return tuple(
        {**message, THOUGHTS: thoughts[at]} if at in thoughts else message for at, message in enumerate(messages)
    )


def chat_of(instructions: str | None, items: Sequence[Placed]) -> Chat:
    """The messages that say the same.

    Raises:
        InvalidRequest: something that a call gave without the call, or the reverse; `param` has its place.
    """
    chat, outputs = Chat(), _outputs(items)
    if instructions is not None:
        chat.add({"role": "system", "content": instructions}, "instructions")
    calls: list[Placed] = []
    thoughts: list[str] = []
    for placed in items:
        item, kind = placed.item, placed.item["type"]
        if kind == "function_call":
            calls.append(placed)
            continue
        if kind != "reasoning":
            _add_calls(chat, calls, outputs, thoughts)
            calls = []
        if kind == "message":
            chat.add({"role": item["role"], "content": _content(item["content"], item["role"])}, placed.place)
            if item["role"] != "assistant":
                thoughts.clear()
            chat.think(thoughts)
        elif kind == "reasoning":
            thoughts += [part["text"] for part in item.get("content") or () if part.get("text")]
    _add_calls(chat, calls, outputs, thoughts)
    return chat


def _outputs(items: Sequence[Placed]) -> dict[str, Placed]:
    """What each call gave, by the call's id; each after its call, and once."""
    calls: set[str] = set()
    outputs: dict[str, Placed] = {}
    for placed in items:
        id_, kind = placed.item.get("call_id", ""), placed.item["type"]
        where = f"{placed.place}.call_id"
        if kind == "function_call":
            if id_ in calls:
                raise InvalidRequest(f"`{where}`: another call has this id{_named(placed)}.", param=where)
            calls.add(id_)
        elif kind == "function_call_output":
            if id_ not in calls:
                raise InvalidRequest(f"`{where}`: no function call before it has the id {id_[:80]!r}.", param=where)
            if id_ in outputs:
                message = f"`{where}`: the call {id_[:80]!r} has an output already{_named(placed)}."
                raise InvalidRequest(message, param=where)
            outputs[id_] = placed
    return outputs


def _named(placed: Placed) -> str:
    """What is kept is named, so that a client can remove it: two responses at once may have told the same twice."""
    return "" if "[" in placed.place else f" (the item {placed.item['id']} is the second)"


def _add_calls(chat: Chat, calls: Sequence[Placed], outputs: Mapping[str, Placed], thoughts: list[str]) -> None:
    """Calls that stand together are one turn of the assistant, with what it said just before."""
    if not calls:
        return
    for call in calls:
        if call.item["call_id"] not in outputs:
            message = f"The function call {call.item['call_id'][:80]!r} has no output among the items after it."
            raise InvalidRequest(message, param=call.place)
    made = [
        {
            "id": call.item["call_id"],
            "type": "function",
            "function": {"name": call.item["name"], "arguments": call.item["arguments"]},
        }
        for call in calls
    ]
    if chat.messages and chat.messages[-1]["role"] == "assistant" and "tool_calls" not in chat.messages[-1]:
        chat.messages[-1]["tool_calls"] = made
    else:
        chat.add({"role": "assistant", "content": None, "tool_calls": made}, calls[0].place)
    chat.think(thoughts)
    for call in calls:
        output = outputs[call.item["call_id"]]
        content = _content(output.item["output"], "tool")
        chat.add({"role": "tool", "tool_call_id": call.item["call_id"], "content": content}, output.place)


def _content(content: Any, role: str) -> Any:
    """One text where there is nothing but text: some templates and providers take no parts."""
    if isinstance(content, str):
        return content
    parts = [_part(part) for part in content]
    if all(part["type"] == "text" for part in parts) and (role in ("assistant", "tool") or len(parts) <= 1):
        return "\n".join(part["text"] for part in parts)
    return parts


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    kind = part["type"]
    if kind == "refusal":
        return {"type": "text", "text": part["refusal"]}
    if kind == "input_image":
        image = {"url": part["image_url"]}
        return {"type": "image_url", "image_url": image | ({"detail": part["detail"]} if part.get("detail") else {})}
    if kind == "input_audio":
        return {"type": "input_audio", "input_audio": part["input_audio"]}
    if kind == "input_file":
        file = {"file_data": part["file_data"]}
        return {"type": "file", "file": file | ({"filename": part["filename"]} if part.get("filename") else {})}
    return {"type": "text", "text": part["text"]}


def kept_of(response: Mapping[str, Any]) -> Iterable[Item]:
    """What a later response goes on from. A call that was cut off is none that could be made."""
    for item in response["output"]:
        if item["type"] != "function_call" or item.get("status") == "completed":
            yield item
