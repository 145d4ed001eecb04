"""What the gateway and the process of the small models say to each other: JSON lines over a Unix socket pair.

Gateway → worker: the options first; then `ask` (with `run`, or only to be counted and kept), `run` (what was kept),
`load`, `unload`, `cancel`.
Worker → gateway: `ready` or `failed`; `prepared`, `refused`, `again` (it is not kept any more), `results` (of one run),
`end`; `loaded`; `alive` while it loads; `figures` of each model.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
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
    """The `ask` message. Raises `InvalidRequest` for numbers that are none."""
    return {
        "op": "ask",
        "id": key,
        "folder": folder,
        "base": base,
        "kind": request.kind,
        "prompts": [_pack(prompt) for prompt in request.prompts],
        "options": {name: request.options[name] for name in OPTIONS if name in request.options},
        "run": run,
    }


OPTIONS = ("query", "truncate", "windows", "tokens", "input_type", "dimensions")


def _pack(prompt: Prompt) -> Any:
    if isinstance(prompt, Image):
        return {"image": base64.b64encode(prompt.data).decode()}
    if isinstance(prompt, Features):
        if not all(math.isfinite(value) for value in prompt.values):
            raise InvalidRequest("A feature is not a finite number.", param="input", code="invalid_features")
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
