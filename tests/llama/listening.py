"""What a `Parser` makes of a text that comes in pieces."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from backends.llama.talk import Parser


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
