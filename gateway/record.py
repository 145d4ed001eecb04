"""From an ended request to its row in the audit, and from such a row back to what was decided: facts, never texts."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from backends.types import GENERATES, ModelState, Request, Sampling
from gateway.audit_rows import Decision
from gateway.outcome import Outcome
from gateway.planning import Decided
from policies.base import Health, Learned, Route, Snapshot, Spent

STATE_FACTS = (
    "name",
    "status",
    "context_length",
    "waiting",
    "running",
    "max_sequences",
    "kv_cells",
    "kv_cells_used",
    "kv_cells_kept",
    "prefill_rate",
    "decode_rate",
    "backlog_tokens",
)
"""What policies read of a model's state."""


def decision_of(outcome: Outcome, now: float) -> Decision:
    """The row of a request that has ended. `now` is of the monotonic clock."""
    request, decided, usage, route = outcome.request, outcome.decided, outcome.usage, outcome.route
    assert request is not None
    total_s = now - outcome.started
    return Decision(
        request_id=outcome.id,
        at=time.time() - (time.monotonic() - outcome.started),  # it may have ended before its row is written
        endpoint=outcome.path,
        key=outcome.key,
        model=request.model,
        stream=outcome.stream,
        ending=outcome.ending or "error",
        error=outcome.error,
        status=outcome.status,
        route=route.name if route else "",
        reasons=tuple(outcome.reasons),
        attempts=tuple(outcome.tried),
        drops=tuple((d.route.name, d.policy, d.reason) for d in decided.plan.drops) if decided else (),
        ttft_s=outcome.first_at - outcome.started if outcome.first_at is not None else None,
        total_s=total_s,
        prompt_tokens=usage.prompt_tokens if usage else 0,
        cached_tokens=usage.cached_tokens if usage else 0,
        completion_tokens=usage.completion_tokens if usage else 0,
        cost=outcome.cost_usd,
        model_hash=route.sha256 if route else "",
        policy_hash=outcome.policy,
        data_classes=tuple(sorted(decided.snapshot.data_classes if decided else request.declared)),
        redacted=outcome.redacted,
        continued=outcome.continued,
        facts=facts_of(request, decided) if decided else b"{}",
    )


@dataclass(frozen=True, slots=True)
class Facts:
    """What was decided, and from what.

    Attributes:
        local: the box's own candidates, in the order in which they were put forward.
        planned: names of the routes that were left, the first one first.
    """

    request: Request
    local: tuple[Route, ...]
    snapshot: Snapshot
    planned: tuple[str, ...]


def facts_of(request: Request, decided: Decided) -> bytes:
    """All that the policies saw, as JSON: enough to decide it anew under another configuration."""
    snapshot = decided.snapshot
    facts = {
        "request": {
            "model": request.model,
            "kind": request.kind,
            "needs": request.needs,
            "max_tokens": request.sampling.max_tokens,
            "top_logprobs": request.sampling.top_logprobs,
            "n": request.n,
            "prompts": len(request.prompts),
            "locality": request.locality,
            "deadline_s": request.deadline_s,
            "stream": request.stream,
            "key": request.key,
            "declared": request.declared,
        },
        "routes": [route for route in decided.candidates if route.location == "local"],
        "planned": [route.name for route in decided.plan.routes],
        "states": {
            name: {fact: getattr(state, fact) for fact in STATE_FACTS} for name, state in snapshot.states.items()
        },
        "prompt_tokens": snapshot.prompt_tokens,
        "cached_tokens": snapshot.cached_tokens,
        "estimated_tokens": snapshot.estimated_tokens,
        "learned": snapshot.learned,
        "health": snapshot.health,
        "offline": snapshot.offline,
        "data_classes": snapshot.data_classes,
        "unfound": snapshot.unfound,
        "scan_failed": snapshot.scan_failed,
        "unknown": snapshot.unknown,
        "signals": snapshot.signals,
        "late_signals": snapshot.late_signals,
        "spent": snapshot.spent,
        "sticky": snapshot.sticky,
        "elapsed_s": snapshot.elapsed_s,
        "at": snapshot.at,
    }
    return orjson.dumps(facts, default=sorted)


def read_facts(facts: bytes) -> Facts:
    """What `facts_of` wrote.

    Raises:
        ValueError: no facts, or of another form.
    """
    try:
        said: Mapping[str, Any] = orjson.loads(facts)
        local = tuple(_route(route) for route in said["routes"])
        return Facts(_request(said["request"]), local, _snapshot(said), tuple(said["planned"]))
    except (KeyError, TypeError, AttributeError, orjson.JSONDecodeError) as error:
        raise ValueError(f"no facts to decide by ({type(error).__name__})") from None


def _request(said: Mapping[str, Any]) -> Request:
    return Request(
        id="replay",
        model=said["model"],
        kind=said["kind"],
        prompts=("",) * said["prompts"],
        sampling=Sampling(max_tokens=said["max_tokens"], top_logprobs=said["top_logprobs"]),
        n=said["n"],
        needs=frozenset(said["needs"]),
        locality=said["locality"],
        deadline_s=said["deadline_s"],
        stream=said["stream"],
        key=said["key"],
        declared=frozenset(said["declared"]),
    )


def _route(said: Mapping[str, Any]) -> Route:
    kinds = frozenset(said.get("kinds", GENERATES))  # before there were others, rows did not say
    enforces = frozenset(said.get("enforces", ()))
    capabilities = frozenset(said["capabilities"])
    return Route(**{**said, "capabilities": capabilities, "kinds": kinds, "enforces": enforces, "price": None})


def _snapshot(said: Mapping[str, Any]) -> Snapshot:
    return Snapshot(
        states={name: ModelState(**state) for name, state in said["states"].items()},
        prompt_tokens=said["prompt_tokens"],
        cached_tokens=said["cached_tokens"],
        estimated_tokens=said["estimated_tokens"],
        learned={name: Learned(**learned) for name, learned in said["learned"].items()},
        health={name: Health(**health) for name, health in said["health"].items()},
        offline=said["offline"],
        data_classes=frozenset(said["data_classes"]),
        unfound=frozenset(said["unfound"]),
        scan_failed=said["scan_failed"],
        # Of these, older rows do not say.
        unknown=frozenset(said.get("unknown", ())),
        signals=said.get("signals", {}),
        late_signals=frozenset(said.get("late_signals", ())),
        spent=Spent(**said["spent"]),
        sticky=said["sticky"],
        elapsed_s=said["elapsed_s"],
        at=said["at"],
    )
