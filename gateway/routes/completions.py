"""`POST /v1/completions`, the legacy dialect: raw prompts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from starlette.requests import Request as HTTPRequest

from backends.errors import InvalidRequest
from backends.types import Prompt, Request
from gateway.routes.answer import Answer
from gateway.routes.inference import Inference, controls, outcome_of
from gateway.schemas.completions import CompletionRequest
from gateway.schemas.parse import check, parse_json, read_body
from gateway.sse import CompletionFrames

DEFAULT_MAX_TOKENS = 16
"""As OpenAI documents for this endpoint."""


def completions_endpoint(inference: Inference) -> Callable[[HTTPRequest], Awaitable[Answer]]:
    """The endpoint's function."""

    async def completions(http: HTTPRequest) -> Answer:
        raw = parse_json(await read_body(http))
        wire = check(CompletionRequest, raw)
        request = completion_request(wire, raw, http, inference)
        frames = partial(CompletionFrames, logprobs=wire.logprobs is not None)
        return inference.answer(http, wire, request, "cmpl", frames)

    return completions


def completion_request(
    wire: CompletionRequest, raw: Mapping[str, Any], http: HTTPRequest, inference: Inference
) -> Request:
    """The domain request."""
    prompts = prompts_of(wire.prompt)
    if len(prompts) > inference.limits.max_prompts:
        most = inference.limits.max_prompts
        raise InvalidRequest(f"`prompt`: at most {most} prompts here, got {len(prompts)}.", param="prompt")
    grammar, needs = wire.form(raw)
    return Request(
        id=outcome_of(http).id,
        model=wire.model,
        kind="completion",
        prompts=prompts,
        sampling=wire.sampling(wire.max_tokens or DEFAULT_MAX_TOKENS, wire.logprobs),
        n=wire.n or 1,
        needs=frozenset(needs),
        grammar=grammar,
        raw=raw,
        **controls(wire, http, inference.key_classes),
    )


def prompts_of(given: str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]]) -> tuple[Prompt, ...]:
    """The four shapes as one."""
    if isinstance(given, str):
        return (given,)
    prompts: list[Prompt] = []
    tokens: list[int] = []
    for one in given:
        if isinstance(one, int):
            tokens.append(one)
        else:
            prompts.append(one if isinstance(one, str) else tuple(one))
    return (tuple(tokens),) if tokens else tuple(prompts)
