"""What would be sent, tried out: a plan's redactions are made on the request itself, and nothing of them is kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from backends.types import Request
from gateway.egress import Egress, NotSendable
from policies.base import Drop, Plan


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """A plan whose routes would all be sent to.

    Attributes:
        plan: those routes whose redaction fails are among its drops.
        placeholders: by route name, how many values of each data class would be replaced; the same value counts once.
        refusal: what the client would be told, if no route is left.
    """

    plan: Plan
    placeholders: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    refusal: NotSendable | None = None


async def rehearse(egress: Egress, request: Request, plan: Plan, size: int, names: tuple[str, ...] = ()) -> Rehearsed:
    """Makes each redaction that the plan lays down. `size`: bytes of the request's body; `names`: found in it."""
    made: dict[frozenset[str], Mapping[str, int]] = {}  # for many routes the same is replaced
    drops: list[Drop] = []
    refusal: NotSendable | None = None
    duties = [(route, plan.redact[route.name]) for route in plan.routes if plan.redact.get(route.name)]
    for route, duty in duties:
        if duty in made:
            continue
        try:
            clearance = await egress.clear(request, route, duty, duty, 0.0, size, names)
        except NotSendable as error:
            refusal = error
            drops.append(Drop(route, "privacy", f"{', '.join(sorted(duty))} cannot be replaced", error))
        else:
            made[duty] = new_placeholders(request.raw, clearance.request.raw)
    dropped = {drop.route.name for drop in drops}
    kept = tuple(route for route in plan.routes if route.name not in dropped)
    placeholders = {route.name: made[duty] for route, duty in duties if duty in made}
    return Rehearsed(replace(plan, routes=kept, drops=(*plan.drops, *drops)), placeholders, None if kept else refusal)


def new_placeholders(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, int]:
    """How many different placeholders of each data class a redacted body has and its original has not."""
    from policies.redact import PLACEHOLDER

    old, new = (set(PLACEHOLDER.findall(orjson.dumps(body).decode())) for body in (before, after))
    return dict(sorted(Counter(name[1:-1].rpartition("_")[0].lower() for name in new - old).items()))
