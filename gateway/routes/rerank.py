"""`POST /v1/rerank`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import orjson
from starlette.requests import Request as HTTPRequest

from backends.types import Request, Usage
from gateway.bodies import prompt_usage
from gateway.outcome import new_id
from gateway.routes.answer import Answer
from gateway.routes.inference import Inference, controls, outcome_of
from gateway.schemas.parse import check, check_depth, parse_json, read_body
from gateway.schemas.rerank import RerankRequest

NAMES = {"prompt": "documents", "input": "documents"}


def rerank_endpoint(inference: Inference) -> Callable[[HTTPRequest], Awaitable[Answer]]:
    """The endpoint's function."""

    async def rerank(http: HTTPRequest) -> Answer:
        raw = parse_json(await read_body(http))
        wire = check(RerankRequest, raw)
        request = rerank_request(wire, raw, http, inference.key_classes)
        documents = raw["documents"] if wire.return_documents else ()
        check_depth({"": [documents]})  # as deep as they will stand in the answer
        return inference.whole(http, request, partial(_body, wire.top_n, documents), NAMES)

    return rerank


def rerank_request(
    wire: RerankRequest, raw: Mapping[str, Any], http: HTTPRequest, key_classes: Mapping[str, frozenset[str]]
) -> Request:
    """The domain request: one prompt a document."""
    return Request(
        id=outcome_of(http).id,
        model=wire.model,
        kind="rerank",
        prompts=tuple(one if isinstance(one, str) else one.text for one in wire.documents),
        options={"query": wire.query, "truncate": bool(wire.truncate)},
        raw=raw,
        **controls(wire, http, key_classes),
    )


def _body(
    top_n: int | None, documents: Sequence[Any], model: str, scored: Sequence[Mapping[str, Any]], usage: Usage
) -> bytes:
    """Best first; equally good ones in the order in which they came."""
    results: list[dict[str, Any]] = [
        {"index": index, "relevance_score": result["score"]} for index, result in enumerate(scored)
    ]
    results.sort(key=lambda result: -result["relevance_score"])
    for result in results if documents else ():
        document = documents[result["index"]]
        result["document"] = {"text": document} if isinstance(document, str) else document
    return orjson.dumps(
        {
            "id": f"rerank-{new_id()}",
            "object": "list",
            "model": model,
            "results": results[:top_n],
            "usage": prompt_usage(usage),
            "meta": {"tokens": {"input_tokens": usage.prompt_tokens}},
        }
    )
