"""Where the client allows its request to be answered: `x-outstation-locality`."""

from __future__ import annotations

from backends.errors import InvalidRequest
from backends.types import Request
from policies.base import Drop, Route, Snapshot, Verdict


def locality(request: Request, routes: tuple[Route, ...], snapshot: Snapshot) -> Verdict:
    """`only_*` drops the other location's routes; `prefer_*` moves them behind; both keep the order otherwise."""
    wish = request.locality
    if wish is None:
        return Verdict(routes)
    wanted = "local" if wish.endswith("_local") else "remote"
    first = tuple(route for route in routes if route.location == wanted)
    others = tuple(route for route in routes if route.location != wanted)
    if wish.startswith("prefer_"):
        kept = first + others
        return Verdict(kept, reason=wish if kept != routes else "")
    error = InvalidRequest(
        f"The request is {wish}, and no {wanted} route serves the model {request.model}.",
        code="no_route",
        param="outstation.locality",
    )
    return Verdict(first, tuple(Drop(route, "locality", wish, error) for route in others))
