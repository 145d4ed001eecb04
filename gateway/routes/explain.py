"""`POST /v1/outstation/explain`: the whole plan for a request, which is not run and leaves no trace.

What has to be redacted is, to tell whether it can be: how many values of which class are replaced, never the values.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from backends.errors import BackendError
from backends.types import Request
from gateway.documents.asked import search_of
from gateway.errors import kind_of
from gateway.outcome import Outcome
from gateway.rehearsal import Rehearsed, rehearse
from gateway.routes.chat import chat_request
from gateway.routes.completions import completion_request
from gateway.routes.grounding import grounded
from gateway.routes.inference import Inference, outcome_of
from gateway.routes.site import json_response
from gateway.schemas.chat import ChatRequest
from gateway.schemas.completions import CompletionRequest
from gateway.schemas.generation import Generation
from gateway.schemas.parse import check, parse_json, read_body
from policies.base import Route


def explain_endpoint(inference: Inference) -> Callable[[HTTPRequest], Awaitable[Response]]:
    """The endpoint's function. Takes the body of a chat or of a completion."""

    async def explain(http: HTTPRequest) -> Response:
        raw = parse_json(await read_body(http))
        wire: Generation
        if "prompt" in raw:
            wire = prompted = check(CompletionRequest, raw)
            request = completion_request(prompted, raw, http, inference)
        else:
            wire = chat = check(ChatRequest, raw)
            request, _ = chat_request(outcome_of(http).id, chat, raw, http, inference.key_classes)
        inference.check(wire, request)
        # An outcome of its own: what is only explained is not in the audit.
        outcome = Outcome(request.id, received=outcome_of(http).received)
        if isinstance(wire, ChatRequest) and wire.outstation and wire.outstation.vector_store_ids:
            search = search_of(raw["outstation"], "outstation")
            request, _ = await grounded(inference, request, search, "outstation.vector_store_ids")
            outcome.reasons.append("documents: their data classes count; nothing is searched here")
        planner = inference.dispatcher.planner
        try:
            decided = await planner.decide(request, outcome)
            tried = await rehearse(planner.egress, request, decided.plan, outcome.received, decided.names)
            refusal: BackendError | None = tried.refusal
        except BackendError as error:
            if outcome.decided is None:
                raise
            tried, refusal = Rehearsed(outcome.decided.plan), error
        return json_response(plan_object(request, outcome, tried, refusal))

    return explain


def plan_object(request: Request, outcome: Outcome, tried: Rehearsed, refusal: BackendError | None) -> dict[str, Any]:
    """The plan as JSON: routes in the order in which they would be attempted, and what was dropped by whom and why."""
    decided = outcome.decided
    assert decided is not None
    plan, snapshot = tried.plan, decided.snapshot
    unsendable = plan.drops[len(decided.plan.drops) :]

    def row(route: Route) -> dict[str, Any]:
        estimate, exact = plan.estimates.get(route.name), route.name in snapshot.prompt_tokens
        if not exact and route.name in snapshot.cached_tokens:
            estimate = None  # made as if all of the prompt were cached: it would be counted before it is relied on
        return {
            "route": route.name,
            "prompt_tokens": snapshot.tokens(route),
            "prompt_tokens_exact": exact,
            "cost_usd": snapshot.cost(request, route),
            "ttft_s": estimate.ttft_s if estimate else None,
            "total_s": estimate.total_s if estimate else None,
            "redact": sorted(plan.redact.get(route.name, ())),
            "placeholders": dict(tried.placeholders.get(route.name, {})),
        }

    return {
        "object": "outstation.plan",
        "model": request.model,
        "routes": [] if refusal else [row(route) for route in plan.routes],
        "dropped": [
            {"route": drop.route.name, "policy": drop.policy, "reason": drop.reason, "code": drop.error.code}
            for drop in plan.drops
        ],
        "reasons": [*outcome.reasons, *(f"not {d.route.name} ({d.policy}: {d.reason})" for d in unsendable)],
        "data_classes": sorted(snapshot.data_classes),
        "signals": dict(snapshot.signals),
        "late_signals": sorted(snapshot.late_signals),
        "refused": {"status": kind_of(refusal).status, "code": refusal.code, "message": refusal.message}
        if refusal
        else None,
    }
