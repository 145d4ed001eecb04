"""Drops remote routes that are known not to answer now, so that no request pays for finding out."""

from __future__ import annotations

from backends.errors import Unavailable
from backends.types import Request
from policies.base import Drop, Health, Route, Snapshot, Verdict


def availability(request: Request, routes: tuple[Route, ...], snapshot: Snapshot) -> Verdict:
    """Drops every remote route while the site is offline, and those of a provider that fails; both may pass (503).

    A local model that failed stays: its supervisor starts it again. `Order` moves it behind.
    """
    drops = tuple(drop for route in routes if route.location == "remote" and (drop := _drop(route, snapshot)))
    if not drops:
        return Verdict(routes)
    dropped = {drop.route.name for drop in drops}
    return Verdict(tuple(route for route in routes if route.name not in dropped), drops)


def _drop(route: Route, snapshot: Snapshot) -> Drop | None:
    health = snapshot.health.get(route.name)
    if snapshot.offline:
        error = Unavailable(
            f"The model {route.name} is remote, and nothing can leave the site now: {snapshot.offline}. "
            "Ask for a local model, or again once the site is online.",
            code="offline",
            retry_after=health.retry_after if health else None,
        )
        return Drop(route, "availability", "offline", error)
    return _down(route, health) if health is not None and health.reason else None


def _down(route: Route, health: Health) -> Drop:
    when = "later" if health.retry_after is None else f"in {max(1.0, health.retry_after):.0f} s"
    error = Unavailable(
        f"The provider {route.provider} cannot answer for {route.name} now: {health.reason}. "
        f"Ask again {when}, or ask another model.",
        code="provider_down",
        retry_after=health.retry_after,
    )
    return Drop(route, "availability", health.reason, error)
