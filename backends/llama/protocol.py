"""What the gateway and a worker say to each other: JSON lines over a Unix socket pair. Shared by both ends.

Gateway → worker: `load`, `prepare` (render and tokenise), `submit`, `cancel`.
Worker → gateway: `ready` or `failed`, `prepared`, `refused`, and one `step` message for all outputs of a step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from backends.types import Chunk, Event, Request, Sampling, TokenLogprob, Usage


@dataclass(frozen=True, slots=True)
class Began:
    """The request left the queue: its prefill starts."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A tokenised request: prompt tokens of its longest prompt, and of all its prompts those that need no computing
    now and those that do. `thinking`: it ends in the midst of a thought."""

    n: int
    cached: int
    uncached: int
    thinking: bool = False


@dataclass(frozen=True, slots=True)
class Failed:
    """The engine cannot go on with this request. `code`: it never could, and this is the API's word for why."""

    message: str
    code: str = ""


Output = tuple[str, Event | Began | Failed]
"""(request id, what happened to it)."""


def pack_outputs(outputs: list[Output]) -> list[list[Any]]:
    """Outputs as plain lists, the compact form of a `step` message."""
    return [[key, *_pack(event)] for key, event in outputs]


def _pack(event: Event | Began | Failed) -> list[Any]:
    if isinstance(event, Chunk):
        logprobs = [asdict(lp) for lp in event.logprobs]
        row = ["c", event.index, event.text, event.tokens, logprobs, event.finish_reason]
        return [*row, event.stopped_by] if event.stopped_by else row
    if isinstance(event, Usage):
        return ["u", event.prompt_tokens, event.completion_tokens, event.cached_tokens]
    return ["b"] if isinstance(event, Began) else ["f", event.message, event.code]


def unpack_output(row: list[Any]) -> Output:
    """The inverse of `pack_outputs` for one row."""
    key, kind, *rest = row
    if kind == "c":
        index, text, tokens, logprobs, reason, *stop = rest
        said = tuple(_logprob(lp) for lp in logprobs)
        return key, Chunk(index, text, tuple(tokens), said, reason, stopped_by=stop[0] if stop else "")
    if kind == "u":
        return key, Usage(*rest)
    return key, Began() if kind == "b" else Failed(*rest)


def _logprob(raw: Mapping[str, Any]) -> TokenLogprob:
    return TokenLogprob(raw["token"], raw["logprob"], tuple(raw["bytes"]), tuple(_logprob(t) for t in raw["top"]))


def prepare(request: Request) -> dict[str, Any]:
    """The `prepare` message: all of a request that takes part in its prompt."""
    return {
        "op": "prepare",
        "id": request.id,
        "kind": request.kind,
        "messages": [dict(m) for m in request.messages],
        "prompts": list(request.prompts),
        "template_kwargs": dict(request.template_kwargs),
        "continuation": request.continuation,
        "grammar": asdict(request.grammar) if request.grammar else None,
    }


def submit(request: Request, sampling: Sampling) -> dict[str, Any]:
    """The `submit` message: start what was prepared under the same id."""
    return {"op": "submit", "id": request.id, "n": request.n, "sampling": asdict(sampling)}


def sampling(raw: Mapping[str, Any]) -> Sampling:
    """`Sampling` from the wire."""
    values = dict(raw)
    values["logit_bias"] = tuple((int(t), float(b)) for t, b in values["logit_bias"])
    values["stop"] = tuple(values["stop"])
    return Sampling(**values)
