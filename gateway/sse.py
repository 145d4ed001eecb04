"""Chunks to bytes: framed one by one as server-sent events, or folded into one body.

A frame is built once for each choice, so a delta costs little more than the JSON escape of its text: the hottest path.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import orjson

from backends.types import Chunk, FinishReason, TokenLogprob, ToolDelta, Usage

DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"


def error_frame(body: bytes) -> bytes:
    """An error after the commit point. Nothing follows it, `[DONE]` least of all."""
    return b"data: " + body + b"\n\n"


@dataclass(frozen=True, slots=True)
class Head:
    """What every frame and body of one answer repeats. `created` is Unix time in seconds."""

    id: str
    created: int
    model: str
    choices: int
    include_usage: bool = False


class Frames(Protocol):
    """One dialect's shapes."""

    def opening(self) -> bytes:
        """What precedes the first delta."""
        ...

    def chunk(self, chunk: Chunk) -> bytes:
        """The frames of one chunk; empty when there is nothing to tell yet."""
        ...

    def closing(self, usage: Usage) -> bytes:
        """What follows the last delta, `[DONE]` included."""
        ...

    def body(self, folded: Sequence[Folded], usage: Usage) -> bytes:
        """The whole answer at once."""
        ...


@dataclass(slots=True)
class Folded:
    """One choice, put together from its chunks. `wire`: a provider's own, whole, which says all that the rest says."""

    texts: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    wire: Mapping[str, Any] | None = None
    reasoning: list[str] = field(default_factory=list)
    calls: list[ToolDelta] = field(default_factory=list)
    stopped_by: str = ""

    @property
    def text(self) -> str:
        return "".join(self.texts)


def fold(folded: Sequence[Folded], chunk: Chunk) -> None:
    """Adds a chunk to its choice."""
    choice = folded[chunk.index]
    if chunk.text:
        choice.texts.append(chunk.text)
    if chunk.reasoning:
        choice.reasoning.append(chunk.reasoning)
    for piece in chunk.tools:
        if piece.id:
            choice.calls.append(piece)
        else:
            call = choice.calls[piece.index]
            choice.calls[piece.index] = replace(call, arguments=call.arguments + piece.arguments)
    choice.logprobs.extend(chunk.logprobs)
    choice.wire = chunk.wire or choice.wire
    choice.finish_reason = chunk.finish_reason or choice.finish_reason
    choice.stopped_by = chunk.stopped_by or choice.stopped_by


def usage_object(usage: Usage) -> dict[str, Any]:
    """OpenAI's `usage`; a provider's own, if it said one."""
    said = usage.wire.get("usage") if usage.wire else None
    if isinstance(said, dict):
        return said
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens, "audio_tokens": 0},
    }


def _envelope(head: Head, kind: str) -> bytes:
    """`data: {…,"choices":[` of each frame."""
    fields = orjson.dumps({"id": head.id, "object": kind, "created": head.created, "model": head.model})
    return b"data: " + fields[:-1] + b',"choices":['


class ChatFrames:
    """`chat.completion.chunk` and `chat.completion`."""

    def __init__(self, head: Head) -> None:
        self._head = head
        self._open = _envelope(head, "chat.completion.chunk")
        self._end = b'],"usage":null}\n\n' if head.include_usage else b"]}\n\n"
        self._deltas = [self._open + b'{"index":%d,"delta":' % index for index in range(head.choices)]
        self._plain_end = b'},"logprobs":null,"finish_reason":null}' + self._end

    def opening(self) -> bytes:
        """The role, once for each choice, lowest index first: clients open their choices in this order."""
        role = b'{"role":"assistant","content":"","refusal":null' + self._plain_end
        return b"".join(delta + role for delta in self._deltas)

    def chunk(self, chunk: Chunk) -> bytes:
        delta = self._deltas[chunk.index]
        frames = b""
        if chunk.comment:
            frames = b": " + chunk.comment.encode("ascii", "replace") + b"\n\n"
        if chunk.wire is not None:
            return frames + self._open + orjson.dumps(chunk.wire) + self._end
        if chunk.reasoning:
            frames += delta + b'{"reasoning_content":' + orjson.dumps(chunk.reasoning) + self._plain_end
        if chunk.logprobs:
            logprobs = orjson.dumps({"content": [_chat_logprob(p) for p in chunk.logprobs], "refusal": None})
            text = orjson.dumps(chunk.text)
            frames += (
                delta + b'{"content":' + text + b'},"logprobs":' + logprobs + b',"finish_reason":null}' + self._end
            )
        elif chunk.text:
            frames += delta + b'{"content":' + orjson.dumps(chunk.text) + self._plain_end
        for piece in chunk.tools:
            frames += delta + b'{"tool_calls":[' + orjson.dumps(_tool_delta(piece)) + b"]" + self._plain_end
        if chunk.finish_reason:
            frames += delta + b'{},"logprobs":null,"finish_reason":%b}' % orjson.dumps(chunk.finish_reason) + self._end
        return frames

    def closing(self, usage: Usage) -> bytes:
        if not self._head.include_usage:
            return DONE
        return self._open + b"]," + _last(usage) + b"\n\n" + DONE

    def body(self, folded: Sequence[Folded], usage: Usage) -> bytes:
        choices = [
            choice.wire
            or {
                "index": index,
                "message": _message(choice),
                "logprobs": {"content": [_chat_logprob(p) for p in choice.logprobs], "refusal": None}
                if choice.logprobs
                else None,
                "finish_reason": choice.finish_reason,
            }
            for index, choice in enumerate(folded)
        ]
        return _body(self._head, "chat.completion", choices, usage)


class CompletionFrames:
    """`text_completion`, the same object streamed and whole.

    Args:
        logprobs: whether they were asked for (0 alternatives still names the chosen tokens).
    """

    def __init__(self, head: Head, logprobs: bool = False) -> None:
        self._head = head
        self._open = _envelope(head, "text_completion")
        self._end = b'],"usage":null}\n\n' if head.include_usage else b"]}\n\n"
        self._choices = [self._open + b'{"index":%d,"text":' % index for index in range(head.choices)]
        self._offsets = [0] * head.choices
        self._logprobs = logprobs

    def opening(self) -> bytes:
        """Nothing: this dialect has no roles."""
        return b""

    def chunk(self, chunk: Chunk) -> bytes:
        if chunk.wire is not None:
            return self._open + orjson.dumps(chunk.wire) + self._end
        if not chunk.text and not chunk.logprobs and not chunk.finish_reason:
            return b""
        logprobs = b"null"
        if self._logprobs and chunk.logprobs:
            logprobs = orjson.dumps(_legacy_logprobs(chunk.logprobs, self._offsets[chunk.index]))
            self._offsets[chunk.index] += sum(len(p.token) for p in chunk.logprobs)
        reason = orjson.dumps(chunk.finish_reason) if chunk.finish_reason else b"null"
        start = self._choices[chunk.index] + orjson.dumps(chunk.text)
        return start + b',"logprobs":' + logprobs + b',"finish_reason":' + reason + b"}" + self._end

    def closing(self, usage: Usage) -> bytes:
        if not self._head.include_usage:
            return DONE
        return self._open + b"]," + _last(usage) + b"\n\n" + DONE

    def body(self, folded: Sequence[Folded], usage: Usage) -> bytes:
        choices = [
            choice.wire
            or {
                "index": index,
                "text": choice.text,
                "logprobs": _legacy_logprobs(choice.logprobs, 0) if self._logprobs else None,
                "finish_reason": choice.finish_reason,
            }
            for index, choice in enumerate(folded)
        ]
        return _body(self._head, "text_completion", choices, usage)


def _body(head: Head, kind: str, choices: Sequence[Mapping[str, Any]], usage: Usage) -> bytes:
    return orjson.dumps(
        {
            "id": head.id,
            "object": kind,
            "created": head.created,
            "model": head.model,
            "choices": choices,
            # A provider's `system_fingerprint`, `service_tier`, …
            **(usage.wire or {}),
            "usage": usage_object(usage),
        }
    )


def _last(usage: Usage) -> bytes:
    """The end of the usage frame, after `choices`; with what a provider said besides in any of its events."""
    return orjson.dumps({**(usage.wire or {}), "usage": usage_object(usage)})[1:]


def _tool_delta(piece: ToolDelta) -> dict[str, Any]:
    """`id`, `type` and `name` once; clients add the arguments up."""
    if not piece.id:
        return {"index": piece.index, "function": {"arguments": piece.arguments}}
    function = {"name": piece.name, "arguments": piece.arguments}
    return {"index": piece.index, "id": piece.id, "type": "function", "function": function}


def _message(choice: Folded) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None}
    if choice.reasoning:
        message["reasoning_content"] = "".join(choice.reasoning)
    if choice.calls:
        message["content"] = choice.text or None
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in choice.calls
        ]
    return message


def _chat_logprob(entry: TokenLogprob) -> dict[str, Any]:
    return {**_token(entry), "top_logprobs": [_token(top) for top in entry.top]}


def _token(entry: TokenLogprob) -> dict[str, Any]:
    return {"token": entry.token, "logprob": entry.logprob, "bytes": entry.bytes}


def _legacy_logprobs(entries: Iterable[TokenLogprob], offset: int) -> dict[str, Any]:
    """Parallel lists. `text_offset` counts characters from the start of the completion, each token as it is shown."""
    shape: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for entry in entries:
        shape["tokens"].append(entry.token)
        shape["token_logprobs"].append(entry.logprob)
        shape["top_logprobs"].append({top.token: top.logprob for top in (*entry.top, entry)})
        shape["text_offset"].append(offset)
        offset += len(entry.token)
    return shape
