"""The whole product in one place: decide, attempt, stream."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from backends.errors import (
    BackendError,
    ContextLengthExceeded,
    DeadlineExceeded,
    EngineFailed,
    InvalidRequest,
    Overloaded,
    Unavailable,
)
from backends.types import Event, Request
from gateway.attempt import Attempt, Works, continuation
from gateway.egress import NotSendable
from gateway.outcome import Outcome
from gateway.planning import Planner, may_follow
from policies.base import Plan, Route

ROUNDS = 2  # times that a provider is asked, if the retry budget allows it
BACKOFF_S = 0.25
LONGEST_PAUSE_S = 2.0  # a provider that wants more time than this is not waited for
SHARE_OF_DEADLINE = 0.5


class Dispatcher:
    """Finds the routes for a request, attempts them in order, and yields the first one's answer that begins.

    Args:
        total_timeout_s: bound on a request that names no shorter deadline.
    """

    def __init__(self, planner: Planner, works: Works, total_timeout_s: float) -> None:
        self.planner = planner
        self._works = works
        self._total_timeout_s = total_timeout_s

    def bound_s(self, request: Request) -> float:
        """Seconds from its arrival within which the request must have ended."""
        return min(self._total_timeout_s, request.deadline_s or self._total_timeout_s)

    async def answer(self, request: Request, outcome: Outcome) -> AsyncGenerator[Event, None]:
        """The answer's events. What has been yielded is committed: after it, no other route takes over unseen.

        Raises:
            BackendError: no route is left, or the one that answers broke off.
        """
        self._works.books.retries.earn()
        plan = (await self.planner.decide(request, outcome)).plan
        failure: BackendError | None = None
        async for route in self._routes(request, plan, outcome):
            attempt = Attempt(self._works, request, route, plan, outcome)
            patience = self._patience(request, plan, route, outcome)
            try:
                async with aclosing(_from_first(attempt.events(), patience, whole=not request.stream)) as events:
                    async for event in events:
                        yield event
                return
            except BackendError as error:
                outcome.failed(error)
                follower = self._continues(request, plan, attempt, outcome) if outcome.committed else None
                if _final(error) or (outcome.committed and follower is None):
                    raise
                failure = error
            if follower is not None:
                async with aclosing(continuation(self._works, request, attempt, follower, outcome)) as events:
                    async for event in events:
                        yield event
                return
        raise failure or EngineFailed("No route was attempted.")

    async def _routes(self, request: Request, plan: Plan, outcome: Outcome) -> AsyncIterator[Route]:
        """The plan's routes in order; then, if the retry budget allows, the providers once more after a pause. Each but
        the first is checked again by every policy: the site may have changed since."""
        for round_ in range(ROUNDS):
            for route in plan.routes:
                if round_ and route.location == "local":
                    continue
                before, error = outcome.route, outcome.last_failure
                if error is None or before is None:
                    yield route
                elif may_follow(error, before, route) and self._still(request, route, outcome):
                    yield route
            if round_ + 1 < ROUNDS and not await self._pause(request, plan, outcome, round_):
                return

    def _still(self, request: Request, route: Route, outcome: Outcome) -> bool:
        now = self.planner.again(request, route, outcome)
        outcome.reasons += [f"not {drop.route.name} ({drop.policy}: {drop.reason})" for drop in now.drops]
        return bool(now.routes)

    async def _pause(self, request: Request, plan: Plan, outcome: Outcome, round_: int) -> bool:
        """Waits before another round, with jitter, as long as the provider asked for. False: it is not worth it."""
        error = outcome.last_failure
        if not isinstance(error, Unavailable | Overloaded) or all(r.location == "local" for r in plan.routes):
            return False
        pause_s = max(BACKOFF_S * 2**round_ * random.uniform(0.5, 1.5), error.retry_after or 0.0)
        left_s = outcome.started + self.bound_s(request) - time.monotonic()
        if pause_s > min(LONGEST_PAUSE_S, left_s / 2) or not self._works.books.retries.take():
            return False
        outcome.reasons.append(f"again after {pause_s:.2f} s")
        await asyncio.sleep(pause_s)
        return True

    def _patience(self, request: Request, plan: Plan, route: Route, outcome: Outcome) -> float | None:
        """Seconds until its first token after which the next route gets its turn, while it still has the time; None: the
        route's own bounds are enough, since nothing follows or nobody named a deadline."""
        after = plan.routes[plan.routes.index(route) + 1 :]
        if not after or request.deadline_s is None:
            return None
        left_s = outcome.started + self.bound_s(request) - time.monotonic()
        needed = plan.estimates.get(after[0].name)
        return max(left_s - needed.total_s if needed else 0.0, left_s * SHARE_OF_DEADLINE)

    def _continues(self, request: Request, plan: Plan, attempt: Attempt, outcome: Outcome) -> Route | None:
        """The local route that may go on from the text so far; None: the client did not ask for that, or cannot have it."""
        if not request.continue_on_break or attempt.route.location == "local" or not attempt.can_continue:
            return None
        local = [route for route in plan.routes if route.location == "local"]
        return next((route for route in local if self._still(request, route, outcome)), None)


def _final(error: BackendError) -> bool:
    """Whether no other route could do better: the request itself is wrong. Too long for one model, or not to be shown to
    one provider, says nothing of the next route."""
    return (
        isinstance(error, InvalidRequest)
        and not isinstance(error, NotSendable)
        and error.code != ContextLengthExceeded.code
    )


async def _from_first(
    events: AsyncGenerator[Event, None], patience_s: float | None, *, whole: bool
) -> AsyncGenerator[Event, None]:
    """The events, the first within `patience_s`. With `whole`, none before the last is there: a client that gets one
    body has seen nothing yet, so a route that breaks off can still be replaced."""
    async with aclosing(events):
        try:
            async with asyncio.timeout(patience_s):
                first = await anext(events)
        except TimeoutError:
            message = f"No first token within {patience_s:.3g} s, and another route had to get its turn."
            raise DeadlineExceeded(message, code="first_token_timeout", retry_after=5) from None
        if whole:
            kept = [first]
            async for event in events:
                kept.append(event)
            for event in kept:
                yield event
            return
        yield first
        async for event in events:
            yield event
