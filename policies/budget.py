"""Drops routes that would cost more than may still be spent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from backends.errors import Overloaded
from backends.types import Request
from policies.base import Drop, Route, Snapshot, Verdict

Limits = tuple[float | None, float | None]
"""US dollars in a day and in a month; None: no limit of its own."""

NO_LIMITS: Limits = (None, None)


@dataclass(frozen=True, slots=True)
class Budget:
    """Keeps the routes whose cost still fits what the site and the request's key may spend. Free ones always pass.

    Days and months are UTC's: `Snapshot.spent` begins them. Requests without a key share one nameless key.

    Attributes:
        site_day, site_month: US dollars for all requests; None: no limit.
        key_day, key_month: for each key that has no limit of its own.
        keys: by key name, its own limits.
    """

    site_day: float | None = None
    site_month: float | None = None
    key_day: float | None = None
    key_month: float | None = None
    keys: Mapping[str, Limits] = field(default_factory=dict)

    def __call__(self, request: Request, routes: tuple[Route, ...], snapshot: Snapshot) -> Verdict:
        """Drops with `budget_exhausted`."""
        left, setting = self._left(request.key, snapshot)
        if left is None:
            return Verdict(routes)
        drops = tuple(_drop(route, setting) for route in routes if 0 < snapshot.cost(request, route) > left)
        if not drops:
            return Verdict(routes)
        dropped = {drop.route.name for drop in drops}
        return Verdict(tuple(route for route in routes if route.name not in dropped), drops)

    def _left(self, key: str, snapshot: Snapshot) -> tuple[float | None, str]:
        """US dollars that may still be spent, by the tightest limit, and its name; None: any."""
        own_day, own_month = self.keys.get(key, NO_LIMITS)
        spent = snapshot.spent
        limits = (
            ("site_day", self.site_day, spent.site_day),
            ("site_month", self.site_month, spent.site_month),
            ("key_day", self.key_day if own_day is None else own_day, spent.key_day),
            ("key_month", self.key_month if own_month is None else own_month, spent.key_month),
        )
        left = [(limit - used, name) for name, limit, used in limits if limit is not None]
        return min(left) if left else (None, "")


def _drop(route: Route, setting: str) -> Drop:
    """429, as SDKs expect of a quota; without `retry_after`, so that they are told not to try again at once."""
    whose, _, span = setting.partition("_")
    owner = "site's" if whose == "site" else "API key's"
    error = Overloaded(
        f"The {owner} budget for the {span} does not allow this request to go to {route.name}. "
        f"Ask for less (`max_tokens`) or for a local model; the budget begins anew with the next {span} (UTC).",
        code="budget_exhausted",
    )
    return Drop(route, "budget", f"over {setting}", error)
