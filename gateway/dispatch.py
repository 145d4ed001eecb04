"""The whole product in one place: decide, attempt, stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from backends.errors import BackendError, DeadlineExceeded, EngineFailed, InvalidRequest, Overloaded
from backends.types import Event, Request, Usage
from gateway.metrics import Metrics
from gateway.outcome import Outcome
from gateway.state import Site
from policies.base import Drop, Plan, Policy, Route, decide


class Dispatcher:
    """Finds the routes for a request, attempts them in order, and yields the first one's answer that begins.

    Args:
        policies: in the order in which they decide.
        total_timeout_s: bound on a request that names no shorter deadline.
    """

    def __init__(self, site: Site, policies: Sequence[Policy], metrics: Metrics, total_timeout_s: float) -> None:
        self._site = site
        self._policies = policies
        self._metrics = metrics
        self._total_timeout_s = total_timeout_s

    def bound_s(self, request: Request) -> float:
        """Seconds from its arrival within which the request must have ended."""
        return min(self._total_timeout_s, request.deadline_s or self._total_timeout_s)

    async def answer(self, request: Request, outcome: Outcome) -> AsyncGenerator[Event, None]:
        """The answer's events. The first one is the commit point: after it, no other route takes over.

        Raises:
            BackendError: no route is left, or the one that answers broke off.
        """
        plan = await self._plan(request, outcome)
        failure: BackendError | None = None
        for route in plan.routes:
            if failure and outcome.route and not _may_follow(failure, outcome.route, route):
                continue
            outcome.route, outcome.attempts = route, outcome.attempts + 1
            observe_gap = self._metrics.gap_observer(route.model)
            try:
                async with aclosing(self._site.backends[route.model].generate(request)) as events:
                    async for event in events:
                        outcome.saw(event, observe_gap)
                        if isinstance(event, Usage):
                            break
                        yield event
                yield _whole(outcome, request, route)
                return
            except BackendError as error:
                if outcome.committed or isinstance(error, InvalidRequest):
                    raise
                failure = error
                outcome.reasons.append(f"{route.name} failed: {error.code}")
        raise failure or EngineFailed("No route was attempted.")

    async def _plan(self, request: Request, outcome: Outcome) -> Plan:
        """Decides; and while there is a choice, counts the prompt for the route in front and decides again.

        A route without an alternative is not counted here: its backend refuses a longer prompt in the same words.
        """
        candidates, reason = self._site.resolve(request.model)
        outcome.reasons.append(reason)
        counts: dict[str, int] = {}
        failed: list[BackendError] = []
        while True:
            plan = decide(self._policies, request, candidates, self._site.snapshot(counts))
            if not plan.routes:
                raise _hardest(plan.drops, failed)
            front = plan.routes[0]
            if len(candidates) == 1 or front.name in counts:
                break
            try:
                counts[front.name] = (await self._site.backends[front.model].count(request)).tokens
            except BackendError as error:
                failed.append(error)
                outcome.reasons.append(f"{front.name} failed: {error.code}")
                candidates = tuple(
                    route for route in candidates if route is not front and _may_follow(error, front, route)
                )
                if not candidates:
                    raise
        outcome.reasons += plan.reasons
        outcome.reasons += [f"not {drop.route.name} ({drop.policy}: {drop.reason})" for drop in plan.drops]
        return plan


def _whole(outcome: Outcome, request: Request, route: Route) -> Usage:
    """The usage of an answer that is complete: a cut one must never look so."""
    if outcome.usage is None or outcome.finished != request.choices:
        raise EngineFailed(f"The model {route.model} broke off without finishing its answer. Try again.", retry_after=1)
    return outcome.usage


def _may_follow(failure: BackendError, failed: Route, route: Route) -> bool:
    """Whether another route is worth trying. A busy or slow box gets no faster by loading another model onto it."""
    return not isinstance(failure, Overloaded | DeadlineExceeded) or route.location != failed.location


def _hardest(drops: Sequence[Drop], failed: Sequence[BackendError]) -> BackendError:
    """What to tell the client when nothing is left: the failure that may pass, else the drop of the most able route."""
    if failed:
        return failed[0]
    return max(drops, key=lambda drop: drop.route.context_length).error
