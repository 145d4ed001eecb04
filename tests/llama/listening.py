"""What models of each family write, and what a `Parser` makes of it when it comes in pieces."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from backends.llama.families import FAMILIES
from backends.llama.families.generic import Generic
from backends.llama.family import Family
from backends.llama.talk import THOUGHTS, Parser, Talk

RECORDED = Path(__file__).parent / "recorded"
BY_NAME: dict[str, Family] = {family.name: family for family in (*FAMILIES, Generic())}
each = pytest.mark.parametrize("family", BY_NAME.values(), ids=BY_NAME)


@dataclass
class Heard:
    """Text, thought, and the calls with their arguments put together; `unfinished` ones are cut."""

    said: str = ""
    thought: str = ""
    calls: list[tuple[str, Any]] = field(default_factory=list)
    unfinished: list[tuple[str, str]] = field(default_factory=list)


def heard(parser: Parser, text: str, cuts: Sequence[int] = ()) -> Heard:
    """All of it, fed in pieces; the rules of deltas are checked on the way."""
    edges = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    parsed = [parser.feed(text[a:b]) for a, b in pairwise(edges)] + [parser.close()]
    got, calls, ids = Heard(), [], set()
    for part in parsed:
        got.said, got.thought = got.said + part.text, got.thought + part.reasoning
        for piece in part.tools:
            if piece.id:
                assert piece.index == len(calls), "calls are numbered from 0"
                assert piece.id not in ids, "each has an id of its own"
                ids.add(piece.id)
                calls.append([piece.name, ""])
            assert bool(piece.id) == bool(piece.name), "an id and a name once each"
            calls[piece.index][1] += piece.arguments
    got.calls = [(name, json.loads(arguments)) for name, arguments in calls[: parser.calls]]
    got.unfinished = [(name, arguments) for name, arguments in calls[parser.calls :]]
    return got


def recordings() -> list[Any]:
    """Each output with its family, and with all that it says."""
    found = []
    for name, family in BY_NAME.items():
        outputs = json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))
        found += [pytest.param(family, one, id=f"{name}-{at}") for at, one in enumerate(outputs)]
    return found


def talk(family: Family) -> Talk:
    """A model of the family that may think aloud, if not in a way of its own."""
    return Talk(family, None if family.always else THOUGHTS[0])


def as_object(key: str = "arguments") -> Any:
    return lambda call, indent: json.dumps({"name": call[0], key: call[1]}, indent=indent)


def one_each(open_: str, close: str, between: str, write: Any) -> Any:
    return lambda calls, indent: between.join(open_ + write(call, indent) + close for call in calls)


def listed(open_: str) -> Any:
    return lambda calls, indent: open_ + "[" + ", ".join(as_object()(call, indent) for call in calls) + "]"


def harmony(call: Any, indent: int | None) -> str:
    return (
        f"<|channel|>commentary to=functions.{call[0]} <|constrain|>json<|message|>{json.dumps(call[1], indent=indent)}"
    )


def xml(call: Any, indent: int | None) -> str:
    values = "".join(
        f"<parameter={key}>\n{value if key in ('note', 'id') else json.dumps(value)}\n</parameter>\n"
        for key, value in call[1].items()
    )
    return f"<tool_call>\n<function={call[0]}>\n{values}</function>\n</tool_call>"


WRITE: dict[str, Any] = {
    "hermes": one_each("<tool_call>\n", "\n</tool_call>", "\n", as_object()),
    "generic": one_each("<tool_call>\n", "\n</tool_call>", "\n", as_object()),
    "llama3": one_each("", "", "; ", as_object("parameters")),
    "mistral": listed("[TOOL_CALLS]"),
    "mistral-names": lambda calls, indent: "".join(
        f"[TOOL_CALLS]{name}[ARGS]{json.dumps(arguments, indent=indent)}" for name, arguments in calls
    ),
    "granite": listed("<|tool_call|>"),
    "gpt-oss": one_each("", "<|call|>", "<|start|>assistant", harmony),
    "qwen-xml": one_each("", "", "\n", xml),
}
"""As models of a family write calls."""
