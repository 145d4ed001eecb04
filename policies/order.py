"""Where a request may be answered and where first: locality, then what the operator values in a provider's model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from backends.errors import InvalidRequest
from backends.types import Locality, Request
from policies.base import Drop, Route, Snapshot, Verdict
from policies.capability import has_room

Objective = Literal["quality", "latency", "cost"]
Key = tuple[float, ...]
"""What routes are sorted by: room, failure, tool call, location; for a remote one, then the objectives."""


@dataclass(frozen=True, slots=True)
class Order:
    """Drops what `only_*` excludes and sorts the rest.

    First come routes that have room for the asked completion, then those that have not failed, then the one that
    asked for tool calls whose results the request brings, then the preferred location. Remote routes are told apart
    by the objectives; local ones, and what the objectives cannot tell apart, stay as given.

    Attributes:
        locality: of requests that name none.
        objectives: the first that tells two remote routes apart decides.
    """

    locality: Locality = "prefer_local"
    objectives: tuple[Objective, ...] = ("quality", "cost", "latency")

    def __call__(self, request: Request, routes: tuple[Route, ...], snapshot: Snapshot) -> Verdict:
        """Drops with `no_route`. The reason names what put the first moved route where it is."""
        wish = request.locality or self.locality
        wanted: Literal["local", "remote"] = "local" if wish.endswith("_local") else "remote"
        kept, drops = _only(request, routes, wanted, wish) if wish.startswith("only_") else (routes, ())
        if len(kept) < 2:
            return Verdict(kept, drops)
        keys = {route.name: self._key(request, route, snapshot, wanted) for route in kept}
        ordered = tuple(sorted(kept, key=lambda route: keys[route.name]))
        for before, after in zip(kept, ordered, strict=True):
            if before is not after:
                return Verdict(ordered, drops, self._reason(before, keys[before.name], keys[after.name], wish))
        return Verdict(kept, drops)

    def _key(self, request: Request, route: Route, snapshot: Snapshot, wanted: str) -> Key:
        """Lower is earlier."""
        state = snapshot.states.get(route.name)
        first = (
            not has_room(request, route, snapshot),
            state is not None and state.status == "failed",
            route.name != snapshot.sticky,
            route.location != wanted,
        )
        if route.location == "local":
            return first
        return first + tuple(_value(objective, request, route, snapshot) for objective in self.objectives)

    def _reason(self, before: Route, lost: Key, won: Key, wish: Locality) -> str:
        cause = next(i for i, (a, b) in enumerate(zip(lost, won, strict=False)) if a != b)
        words = (f"no room in {before.name}", f"{before.name} failed", "tool call", wish, *self.objectives)
        return words[cause]


def _only(
    request: Request, routes: tuple[Route, ...], wanted: str, wish: Locality
) -> tuple[tuple[Route, ...], tuple[Drop, ...]]:
    kept = tuple(route for route in routes if route.location == wanted)
    if len(kept) == len(routes):
        return routes, ()
    asked = request.locality is not None
    error = InvalidRequest(
        f"The {'request' if asked else 'site'} is {wish}, and no {wanted} route serves the model {request.model}.",
        code="no_route",
        param="outstation.locality" if asked else "model",
    )
    return kept, tuple(Drop(route, "order", wish, error) for route in routes if route.location != wanted)


def _value(objective: Objective, request: Request, route: Route, snapshot: Snapshot) -> float:
    """Lower is better. A latency that is not known counts as the longest."""
    if objective == "quality":
        return -route.quality
    if objective == "cost":
        return snapshot.cost(request, route)
    health = snapshot.health.get(route.name)
    return health.ttft_s if health is not None and health.ttft_s > 0 else math.inf
