"""The Messages dialect's frames: content blocks, one after the other, and what ended them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from pydantic_core import from_json

from backends.errors import EngineFailed
from backends.types import Chunk, PromptCount, ToolDelta, Usage
from gateway.outcome import new_id
from gateway.said import said_by, said_of
from gateway.sse import Folded
from gateway.voices import named_event

DELTAS = {"text": ("text_delta", "text"), "thinking": ("thinking_delta", "thinking")}
STARTS: Mapping[str, Mapping[str, Any]] = {
    "text": {"type": "text", "text": ""},
    "thinking": {"type": "thinking", "thinking": "", "signature": ""},
}
STOP_REASONS = {"length": "max_tokens", "tool_calls": "tool_use", "function_call": "tool_use"}


@dataclass(frozen=True, slots=True)
class MessageHead:
    """What is known before the answer begins.

    Attributes:
        stops: the client's stop sequences.
        prompt: its tokens, if they were counted.
    """

    model: str
    stops: tuple[str, ...] = ()
    prompt: PromptCount | None = None


@dataclass(slots=True)
class _Call:
    """A call under way; `at`: its block, None until its name is known and it can begin."""

    id: str = ""
    name: str = ""
    held: str = ""
    at: int | None = None


class MessageFrames:
    """`message`, and the events of a stream of it."""

    def __init__(self, head: MessageHead) -> None:
        self._head = head
        self._id = f"msg_{new_id()}"
        self._at = -1
        self._open = ""
        self._calls: dict[int, _Call] = {}
        self._end: dict[str, str | None] = {}

    def opening(self) -> bytes:
        """The message, empty as yet. Its tokens are those that were counted beforehand, or 0: the end has them all."""
        counted = self._head.prompt or PromptCount(0)
        message = self._message([], _UNFINISHED, Usage(counted.tokens, 0, counted.cached))
        return _event("message_start", {"message": message})

    def chunk(self, chunk: Chunk) -> bytes:
        said = said_of(chunk)
        frames = b": " + chunk.comment.encode("ascii", "replace") + b"\n\n" if chunk.comment else b""
        if said.reasoning:
            frames += self._delta("thinking", said.reasoning)
        if said.text or said.refusal:
            frames += self._delta("text", said.text + said.refusal)
        for piece in said.tools:
            frames += self._piece(piece)
        if said.finish_reason:
            self._end = self._ended(said.finish_reason, chunk.stopped_by, chunk.wire, called=bool(self._calls))
        return frames

    def closing(self, usage: Usage) -> bytes:
        delta = {"delta": self._end, "usage": usage_object(usage)}
        return self._close() + _event("message_delta", delta) + _event("message_stop", {})

    def body(self, folded: Sequence[Folded], usage: Usage) -> bytes:
        """Raises `EngineFailed` for a call whose arguments are no object: its input would be an invention."""
        choice = folded[0]
        said = said_by(choice)
        content: list[dict[str, Any]] = []
        if said.reasoning:
            content.append({**STARTS["thinking"], "thinking": said.reasoning})
        if said.text or said.refusal:
            content.append({**STARTS["text"], "text": said.text + said.refusal})
        cut = said.finish_reason == "length"
        content += [
            {"type": "tool_use", "id": _id(call.id), "name": call.name, "input": _input(call.arguments, cut=cut)}
            for call in said.tools
        ]
        end = self._ended(said.finish_reason, choice.stopped_by, choice.wire, called=bool(said.tools))
        return orjson.dumps(self._message(content, end, usage))

    def _message(self, content: list[dict[str, Any]], end: Mapping[str, str | None], usage: Usage) -> dict[str, Any]:
        head = {"id": self._id, "type": "message", "role": "assistant", "model": self._head.model}
        return {**head, "content": content, **end, "usage": usage_object(usage)}

    def _delta(self, kind: Literal["text", "thinking"], text: str) -> bytes:
        begin = b"" if self._open == kind else self._begin(kind, STARTS[kind])
        type_, field = DELTAS[kind]
        return begin + _event("content_block_delta", {"index": self._at, "delta": {"type": type_, field: text}})

    def _piece(self, piece: ToolDelta) -> bytes:
        """A call begins once its name is known. A late piece of an earlier call still says which one it belongs to."""
        call = self._calls.setdefault(piece.index, _Call())
        call.id, call.name = call.id or piece.id, call.name or piece.name
        arguments, begin = piece.arguments, b""
        if call.at is None:
            call.held += arguments
            if not call.name:
                return b""
            arguments, call.held = call.held, ""
            start = {"type": "tool_use", "id": _id(call.id), "name": call.name, "input": {}}
            begin = self._begin("tool_use", start)
            call.at = self._at
        if not arguments:
            return begin
        delta = {"type": "input_json_delta", "partial_json": arguments}
        return begin + _event("content_block_delta", {"index": call.at, "delta": delta})

    def _begin(self, kind: str, block: Mapping[str, Any]) -> bytes:
        """Another block, after the end of the one before."""
        closed = self._close()
        self._at, self._open = self._at + 1, kind
        return closed + _event("content_block_start", {"index": self._at, "content_block": block})

    def _close(self) -> bytes:
        was, self._open = self._open, ""
        return _event("content_block_stop", {"index": self._at}) if was else b""

    def _ended(
        self, finish_reason: str | None, stopped_by: str, wire: Mapping[str, Any] | None, *, called: bool
    ) -> dict[str, str | None]:
        """Why it ended. Most providers do not tell which stop sequence it was: then it is a turn's end like any."""
        if finish_reason == "content_filter":
            return {"stop_reason": "refusal", "stop_sequence": None}
        if finish_reason == "stop" and called:
            finish_reason = "tool_calls"  # some providers say so
        if finish_reason != "stop":
            return {"stop_reason": STOP_REASONS.get(finish_reason or "", "end_turn"), "stop_sequence": None}
        told = stopped_by or (wire or {}).get("stop_reason")  # vLLM's name for it
        stop = told if isinstance(told, str) and told in self._head.stops else None
        return {"stop_reason": "stop_sequence" if stop else "end_turn", "stop_sequence": stop}


_UNFINISHED: Mapping[str, str | None] = {"stop_reason": None, "stop_sequence": None}


def usage_object(usage: Usage) -> dict[str, int]:
    """Anthropic counts what came from the cache apart."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }


def _event(name: str, fields: Mapping[str, Any]) -> bytes:
    return named_event(name.encode(), orjson.dumps({"type": name, **fields}))


def _id(given: str) -> str:
    """A provider's own, if it gave one."""
    return given or f"toolu_{new_id()}"


def _input(arguments: str, *, cut: bool) -> dict[str, Any]:
    """The object that the arguments write. Of those that were cut, as much as is there; `stop_reason` tells."""
    try:
        value = from_json(arguments or "{}", allow_partial="trailing-strings" if cut else False)
    except ValueError:
        value = None
    if isinstance(value, dict):
        return value
    if cut:
        return {}
    raise EngineFailed("The model called a tool with arguments that are no JSON object. Try again.", retry_after=1)
