"""`POST /v1/embeddings`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import orjson
from starlette.requests import Request as HTTPRequest

from backends.types import Request, Usage
from gateway.bodies import Encoding, encoded, prompt_usage
from gateway.routes.answer import Answer
from gateway.routes.completions import prompts_of
from gateway.routes.inference import Inference, controls, outcome_of
from gateway.schemas.embeddings import EmbeddingsRequest
from gateway.schemas.parse import check, parse_json, read_body
from policies.detect_body import MEDIA

UNSEARCHED = frozenset({MEDIA})
"""What token ids say cannot be searched, no more than a picture: a provider gets them only where that is allowed."""
QUERIES = frozenset({"query", "search_query"})
NAMES = {"prompt": "input"}


def embeddings_endpoint(inference: Inference) -> Callable[[HTTPRequest], Awaitable[Answer]]:
    """The endpoint's function."""

    async def embeddings(http: HTTPRequest) -> Answer:
        raw = parse_json(await read_body(http))
        wire = check(EmbeddingsRequest, raw)
        request = embeddings_request(wire, raw, http, inference.key_classes)
        return inference.whole(http, request, partial(_body, wire.encoding_format or "float"), NAMES)

    return embeddings


def embeddings_request(
    wire: EmbeddingsRequest, raw: Mapping[str, Any], http: HTTPRequest, key_classes: Mapping[str, frozenset[str]]
) -> Request:
    """The domain request."""
    prompts = prompts_of(wire.input)
    options: dict[str, Any] = {"truncate": bool(wire.truncate)}
    if wire.dimensions is not None:
        options["dimensions"] = wire.dimensions
    if wire.input_type is not None:
        options["input_type"] = "query" if wire.input_type in QUERIES else "document"
    said = controls(wire, http, key_classes)
    if not all(isinstance(prompt, str) for prompt in prompts):
        said["declared"] |= UNSEARCHED
    return Request(
        id=outcome_of(http).id,
        model=wire.model,
        kind="embedding",
        prompts=prompts,
        options=options,
        raw=raw,
        **said,
    )


def _body(encoding: Encoding, model: str, results: Sequence[Mapping[str, Any]], usage: Usage) -> bytes:
    data = [
        {**result, "object": "embedding", "index": index, "embedding": encoded(result["embedding"], encoding)}
        for index, result in enumerate(results)
    ]
    return orjson.dumps(
        {"object": "list", "data": data, "model": model, **(usage.wire or {}), "usage": prompt_usage(usage)}
    )
