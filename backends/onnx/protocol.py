"""What the gateway and the process of the small models say to each other: JSON lines over a Unix socket pair.

Gateway → worker: the options first; then `ask` (with `run`, or only to be counted and kept), `run` (what was kept),
`load`, `unload`, `cancel`.
Worker → gateway: `ready` or `failed`; `prepared`, `refused`, `again` (it is not kept any more), `results` (of one run;
with the prompt tokens of all if nothing is left to come), `end`; `loaded`; `alive` while it loads; `figures` of each
model.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backends.errors import InvalidRequest
from backends.types import Features, Image, Prompt, Request


@dataclass(frozen=True, slots=True)
class Prepared:
    """A tokenised request: tokens of its longest input, and of all."""

    longest: int
    tokens: int


def ask(key: str, folder: str, base: str, request: Request, *, run: bool) -> dict[str, Any]:
    """The `ask` message. Raises `InvalidRequest` for numbers that are none: not every one can be written as JSON."""
    many = len(request.prompts) > 1
    return {
        "op": "ask",
        "id": key,
        "folder": folder,
        "base": base,
        "kind": request.kind,
        "prompts": [_pack(prompt, f"input[{i}]" if many else "input") for i, prompt in enumerate(request.prompts)],
        "options": {name: request.options[name] for name in OPTIONS if name in request.options},
        "run": run,
    }


OPTIONS = ("query", "truncate", "windows", "tokens", "input_type", "dimensions")


MOST_FLOAT32 = (2 - 2**-23) * 2.0**127


def check_features(values: Sequence[float], place: str) -> None:
    """Raises `InvalidRequest`, with `place` as its `param`, for a number that no float32 is."""
    for i, value in enumerate(values):
        if not abs(value) <= MOST_FLOAT32:  # nor is NaN
            raise InvalidRequest(
                f"Feature {i} is not a finite number of 32 bits (at most about 3.4e38).",
                param=place,
                code="invalid_features",
            )


def _pack(prompt: Prompt, place: str) -> Any:
    if isinstance(prompt, Image):
        return {"image": base64.b64encode(prompt.data).decode()}
    if isinstance(prompt, Features):
        check_features(prompt.values, f"{place}.features")
        return {"features": prompt.values}
    return prompt


def weight(request: Request) -> int:
    """Bytes that its prompts take, about."""
    total = 0
    for prompt in request.prompts:
        if isinstance(prompt, str):
            total += len(prompt)
        elif isinstance(prompt, Image):
            total += len(prompt.data)
        else:
            total += 8 * len(prompt.values if isinstance(prompt, Features) else prompt)
    return total


def unpack(raw: Any) -> Prompt:
    """The inverse, in the worker."""
    if isinstance(raw, str):
        return raw
    if isinstance(raw, Mapping):
        if "image" in raw:
            return Image(base64.b64decode(raw["image"]))
        return Features(tuple(raw["features"]))
    return tuple(raw)
