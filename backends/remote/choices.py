"""The choices of a provider's answer as clients rely on them, whatever it leaves out, repeats or spells otherwise.

Official clients append what comes twice, fail on a missing key and send back what they were given.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

import orjson

from backends.remote.answers import ENVELOPE, ODD, Payload, strange
from backends.types import Chunk, FinishReason, Kind

KNOWN = frozenset({"index", "delta", "message", "text", "finish_reason", "logprobs"})
CALLS = frozenset({"tool_calls", "function_call"})
REASON = re.compile(r"[a-z_]{1,40}", re.ASCII)
MOST_ADDITIONS = 64
LEGACY = -1
"""Where the one `function_call` of old stands among the numbered tool calls."""


class Choices:
    """One answer: a stream, event by event, or a whole body.

    Attributes:
        usage: the last one that it said, unchecked.
        additions: what else it said of the answer as a whole (`system_fingerprint`, `citations`, ...).
    """

    __slots__ = ("_chat", "_ids", "_provider", "_told", "additions", "usage")

    def __init__(self, kind: Kind, provider: str) -> None:
        self.usage: object = None
        self.additions: Payload = {}
        self._chat = kind == "chat"
        self._provider = provider
        self._told: dict[tuple[int, int], set[str]] = {}  # what was said of each call of each choice, once
        self._ids: dict[int, dict[str, int]] = {}  # calls of each choice that have no number, in order

    def deltas(self, payload: Payload) -> Sequence[Chunk]:
        """The chunks of one event. Deltas that say nothing (a role alone) are left out. Raises `EngineFailed`."""
        try:
            if not ENVELOPE.issuperset(payload):
                self._note(payload)
            choices = payload.get("choices")
            if not choices:  # the usage alone
                return ()
            if len(choices) == 1:
                choice = choices[0]
                delta = choice.get("delta")
                if delta is not None and len(delta) == 1 and len(choice) <= 4 and "content" in delta:
                    text = delta["content"]
                    if text and type(text) is str and not choice.get("finish_reason") and not choice.get("logprobs"):
                        index = choice.get("index")
                        if type(index) is int and choice.keys() <= KNOWN:
                            return (Chunk(index, text),)
            read = self._delta if self._chat else self._piece
            return [chunk for choice in choices if (chunk := read(choice)) is not None]
        except ODD:
            raise strange(self._provider, "an event of an unknown shape") from None

    def whole(self, payload: Payload) -> list[Chunk]:
        """The chunks of a whole answer: one for each choice, each finished. Raises `EngineFailed`."""
        try:
            self._note(payload)
            read = self._message if self._chat else self._completion
            return [read(choice, position) for position, choice in enumerate(payload["choices"])]
        except ODD:
            raise strange(self._provider, "a body of an unknown shape") from None

    def _note(self, payload: Payload) -> None:
        for key, value in payload.items():
            if key == "usage":
                self.usage = value or self.usage
            elif key in ENVELOPE or value is None:
                continue
            elif key in self.additions or len(self.additions) < MOST_ADDITIONS:
                self.additions[key] = value

    # Streams

    def _delta(self, choice: Payload) -> Chunk | None:
        index = _index(choice, 0)
        said = self._said(choice.get("delta") or {}, index)
        text, finish = said.get("content") or "", _reason(choice)
        others = _others(choice)
        more = choice.get("logprobs") or any(others.values())
        if not more and not any(value for key, value in said.items() if key != "content"):
            return Chunk(index, text, finish_reason=finish) if text or finish else None
        return Chunk(index, text, finish_reason=finish, wire=_wire(choice, index, {"delta": said}, finish, others))

    def _said(self, delta: Payload, index: int) -> Payload:
        """What a delta says, each thing once. The role is ours to say."""
        said = {key: value for key, value in delta.items() if key != "role" and key not in CALLS}
        if said.get("content") is not None:
            said["content"] = _text(said["content"] or "")
        if calls := delta.get("tool_calls"):
            known = self._ids.setdefault(index, {})
            places = [_place(call, position, len(calls), known) for position, call in enumerate(calls)]
            news = [self._call(call, index, place) for call, place in zip(calls, places, strict=True)]
            if any(len(new) > 1 for new in news):
                said["tool_calls"] = [new for new in news if len(new) > 1]
        if function := delta.get("function_call"):
            said["function_call"] = self._function(function, self._told.setdefault((index, LEGACY), set()))
        return said

    def _call(self, call: Payload, index: int, place: int) -> Payload:
        """A piece of a tool call. Some servers repeat its id and name in each: a client would append them."""
        told = self._told.setdefault((index, place), set())
        new: Payload = {"index": place}
        new |= {key: value for key, value in call.items() if key not in ("index", "id", "type", "function")}
        name, kind = call.get("id"), call.get("type") or "function"
        if name and "id" not in told:
            told.add("id")
            new["id"] = _text(name)
        if (name or call.get("type")) and "type" not in told:
            told.add("type")
            new["type"] = _text(kind)
        if (function := call.get("function")) and (piece := self._function(function, told)):
            new["function"] = piece
        return new

    def _function(self, function: Payload, told: set[str]) -> Payload:
        new = {key: value for key, value in function.items() if key not in ("name", "arguments")}
        if (name := function.get("name")) and "name" not in told:
            told.add("name")
            new["name"] = _text(name)
        if "arguments" in function:
            new["arguments"] = _arguments(function["arguments"])
        return new

    def _piece(self, choice: Payload) -> Chunk | None:
        """A delta of a completion."""
        index, text, finish = _index(choice, 0), _text(choice.get("text") or ""), _reason(choice)
        others = _others(choice)
        if not choice.get("logprobs") and not any(others.values()):
            return Chunk(index, text, finish_reason=finish) if text or finish else None
        return Chunk(index, text, finish_reason=finish, wire=_wire(choice, index, {"text": text}, finish, others))

    # Whole answers

    def _message(self, choice: Payload, position: int) -> Chunk:
        index, finish, message = _index(choice, position), _finished(choice), choice["message"]
        text = message.get("content")
        content = None if text is None else _text(text or "")
        rest = {key: value for key, value in message.items() if key not in CALLS}
        said = {"refusal": None, **rest, "role": "assistant", "content": content}
        if calls := message.get("tool_calls"):
            said["tool_calls"] = [_whole_call(call) for call in calls]
        if function := message.get("function_call"):
            said["function_call"] = {**function, "arguments": _arguments(function.get("arguments"))}
        wire = _wire(choice, index, {"message": said}, finish, _others(choice))
        return Chunk(index, content or "", finish_reason=finish, wire=wire)

    def _completion(self, choice: Payload, position: int) -> Chunk:
        index, finish, text = _index(choice, position), _finished(choice), _text(choice["text"] or "")
        wire = _wire(choice, index, {"text": text}, finish, _others(choice))
        return Chunk(index, text, finish_reason=finish, wire=wire)


def _wire(choice: Payload, index: int, said: Payload, finish: str | None, others: Payload) -> Payload:
    """A choice with every key that clients rely on. Raises `TypeError` for one nested deeper than can be written."""
    wire = {"index": index, **said, "logprobs": choice.get("logprobs") or None, "finish_reason": finish, **others}
    orjson.dumps({"": [[wire]]})
    return wire


def _others(choice: Payload) -> Payload:
    return {key: value for key, value in choice.items() if key not in KNOWN}


def _whole_call(call: Payload) -> Payload:
    new = {"type": "function", **{key: value for key, value in call.items() if value is not None}}
    if function := call.get("function"):
        new["function"] = {**function, "arguments": _arguments(function.get("arguments"))}
    return new


def _place(call: Payload, position: int, together: int, known: dict[str, int]) -> int:
    """The number of a call. A server that gives none tells calls apart by their ids, or by where they stand."""
    place, name, last = call.get("index"), _text(call.get("id") or ""), max(known.values(), default=-1)
    if type(place) is not int or place < 0:
        if not name:
            return last if known and together == 1 else position
        place = last + 1
    elif name in known:
        return place
    return known.setdefault(name, place) if name else place


def _arguments(value: Any) -> str:
    """JSON as a string; some servers send the object itself."""
    if value is None:
        return ""
    return value if type(value) is str else orjson.dumps(value).decode()


def _index(choice: Payload, otherwise: int) -> int:
    value = choice.get("index")
    return otherwise if value is None else int(value)


def _reason(choice: Payload) -> FinishReason | None:
    """One that is new to us passes, if it is a word."""
    value = choice.get("finish_reason") or None
    if value is not None and not REASON.fullmatch(_text(value)):
        raise ValueError("no finish_reason")
    return cast("FinishReason | None", value)


def _finished(choice: Payload) -> FinishReason:
    reason = _reason(choice)
    if reason is None:
        raise ValueError("not finished")
    return reason


def _text(value: object) -> str:
    if type(value) is not str:
        raise TypeError("no text")
    return value
