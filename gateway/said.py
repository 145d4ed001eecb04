"""What a piece of an answer says, whoever said it: a local model in our own terms, a provider in its `wire`. Pure.

For dialects whose shapes are not OpenAI's chat; that one passes a provider's own objects on as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backends.types import Chunk, FinishReason, ToolDelta
from gateway.sse import Folded

REASONING = ("reasoning_content", "reasoning")
"""What providers call a model's thoughts; where one sends both, they are the same."""


@dataclass(frozen=True, slots=True)
class Said:
    """A piece of a choice, or all of it.

    Attributes:
        tools: pieces of calls, or whole calls. A provider may give the id and the name of a call in different pieces,
            or no id at all: only `index` tells calls apart for certain.
        refusal: text in which the model declines to answer, where it is told apart from `text`.
    """

    text: str = ""
    reasoning: str = ""
    tools: tuple[ToolDelta, ...] = ()
    finish_reason: FinishReason | None = None
    refusal: str = ""


def said_of(chunk: Chunk) -> Said:
    """Of one chunk, streamed or whole."""
    if chunk.wire is None:
        return Said(chunk.text, chunk.reasoning, chunk.tools, chunk.finish_reason)
    # `text` is the wire's content already, with the originals of what was redacted.
    return _read(chunk.wire, chunk.text, chunk.finish_reason)


def said_by(choice: Folded) -> Said:
    """Of one choice of a whole answer: each call once, with all of its arguments."""
    if choice.wire is None:
        return Said(choice.text, "".join(choice.reasoning), tuple(choice.calls), choice.finish_reason)
    return _read(choice.wire, choice.text, choice.finish_reason)


def _read(wire: Mapping[str, Any], text: str, finish_reason: FinishReason | None) -> Said:
    said = wire.get("delta") or wire.get("message") or {}
    return Said(
        text,
        next(filter(None, (_text(said.get(name)) for name in REASONING)), ""),
        (*_calls(said.get("tool_calls") or ()), *_old_call(said.get("function_call"))),
        finish_reason,
        _text(said.get("refusal")),
    )


def _calls(calls: Sequence[Mapping[str, Any]]) -> tuple[ToolDelta, ...]:
    """Of a message, calls have no number: they are told apart by where they stand."""
    return tuple(_call(call, call.get("index"), position) for position, call in enumerate(calls))


def _old_call(function: Mapping[str, Any] | None) -> tuple[ToolDelta, ...]:
    """The one call of a provider that still has none but `function_call`."""
    return (_call({"function": function}, 0, 0),) if function else ()


def _call(call: Mapping[str, Any], index: object, position: int) -> ToolDelta:
    function = call.get("function") or {}
    place = index if isinstance(index, int) else position
    return ToolDelta(place, _text(call.get("id")), _text(function.get("name")), _text(function.get("arguments")))


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
