"""`POST /v1/moderations`: a local model's labels as OpenAI's categories, as far as it knows them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import orjson
from starlette.requests import Request as HTTPRequest

from backends.onnx.manifest import Manifest
from backends.types import Request, Usage
from gateway.manifests import ManifestOf
from gateway.outcome import new_id
from gateway.routes.answer import Answer
from gateway.routes.inference import Inference, controls, outcome_of
from gateway.schemas.moderations import CATEGORIES, ModerationRequest
from gateway.schemas.parse import check, parse_json, read_body
from gateway.state import AUTO

THRESHOLD = 0.5
"""From which a label counts as found, if its model does not say."""
NAMES = {"prompt": "input"}


def moderations_endpoint(inference: Inference, manifest_of: ManifestOf) -> Callable[[HTTPRequest], Awaitable[Answer]]:
    """The endpoint's function."""

    async def moderations(http: HTTPRequest) -> Answer:
        raw = parse_json(await read_body(http))
        wire = check(ModerationRequest, raw)
        texts, together = _texts(wire)
        request = Request(
            id=outcome_of(http).id,
            model=wire.model or AUTO,
            kind="moderation",
            prompts=texts,
            raw=raw,
            **controls(wire, http, inference.key_classes),
        )
        return inference.whole(http, request, partial(_body, manifest_of, together), NAMES)

    return moderations


def _texts(wire: ModerationRequest) -> tuple[tuple[str, ...], bool]:
    """The texts, and whether they are parts of one input."""
    if isinstance(wire.input, str):
        return (wire.input,), False
    texts = tuple(one if isinstance(one, str) else one.text for one in wire.input)
    return texts, not isinstance(wire.input[0], str)


def _body(
    manifest_of: ManifestOf, together: bool, model: str, judged: Sequence[Mapping[str, Any]], _usage: Usage
) -> bytes:
    manifest = manifest_of(model)
    found = [result["probabilities"] for result in judged]
    if together:
        # Each part is judged alone: a bad one must not drown in the rest.
        found = [{label: max(one[label] for one in found) for label in found[0]}]
    return orjson.dumps(
        {
            "id": f"modr-{new_id()}",
            "model": model,
            "results": [_result(manifest, probabilities) for probabilities in found],
            "outstation": {
                "unsupported_categories": [name for name in CATEGORIES if name not in manifest.categories],
                "labels": found,
            },
        }
    )


def _result(manifest: Manifest, probabilities: Mapping[str, float]) -> dict[str, Any]:
    """One input by OpenAI's categories; those that the model cannot judge score 0."""
    known = {name: label for name in CATEGORIES if (label := manifest.categories.get(name))}
    categories = {
        name: name in known and probabilities[known[name]] >= manifest.thresholds.get(known[name], THRESHOLD)
        for name in CATEGORIES
    }
    return {
        "flagged": any(categories.values()),
        "categories": categories,
        "category_scores": {name: probabilities[known[name]] if name in known else 0.0 for name in CATEGORIES},
        "category_applied_input_types": {name: ["text"] if name in known else [] for name in CATEGORIES},
    }
