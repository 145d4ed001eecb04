"""The whole product in one place: decide, attempt, stream."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from backends.errors import (
    BackendError,
    ContextLengthExceeded,
    EngineFailed,
    InvalidRequest,
    Overloaded,
    Unavailable,
)
from backends.types import Event, Request
from gateway.attempt import Attempt, Patience, Repair, Works, continuation
from gateway.egress import NotSendable
from gateway.outcome import Outcome
from gateway.planning import Planner, may_follow
from gateway.schemas.settings import OnInvalid
from gateway.validation.form import held_whole, promised
from gateway.validation.watch import CannotJudge, InvalidAnswer
from policies.base import Estimate, Learned, Plan, Route

ROUNDS = 2  # times that a provider is asked, if the retry budget allows it
BACKOFF_S = 0.25
LONGEST_PAUSE_S = 2.0  # a provider that wants more time than this is not waited for
SHARE_OF_DEADLINE = 0.5
PACE_MARGIN = 1.5  # a provider's pace is a mean


class Dispatcher:
    """Finds the routes for a request, attempts them in order, and yields the first one's answer that begins.

    Args:
        total_timeout_s: bound on a request that names no shorter deadline.
        on_invalid: what follows an answer that has not the form that was asked for.
    """

    def __init__(
        self, planner: Planner, works: Works, total_timeout_s: float, on_invalid: OnInvalid = "repair"
    ) -> None:
        self.planner = planner
        self._works = works
        self._total_timeout_s = total_timeout_s
        self._on_invalid = on_invalid

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
        turns = _Turns(plan.routes)
        while (route := turns.next()) is not None or await self._another_round(request, turns, outcome):
            if route is None or not self._may_try(request, route, outcome):
                continue
            attempt = Attempt(self._works, request, route, plan, outcome, turns.repair_by(route))
            patience = self._patience(request, plan, route, turns.rest, outcome)
            try:
                async with aclosing(attempt.events(patience)) as events:
                    if request.stream:
                        async for event in events:
                            yield event
                    else:
                        # A client that gets one body has seen nothing before its end, so a route that breaks off in
                        # the middle can still be replaced.
                        for event in [event async for event in events]:
                            yield event
                return
            except BackendError as error:
                outcome.failed(error)
                follower = self._continues(request, plan, attempt, outcome) if outcome.committed else None
                if (_final(error) and not attempt.repairs) or (outcome.committed and follower is None):
                    raise
                if isinstance(error, InvalidAnswer):
                    turns.invalid(error, request, route, attempt.repair(error), self._on_invalid)
            if follower is not None:
                async with aclosing(continuation(self._works, request, attempt, follower, outcome)) as events:
                    async for event in events:
                        yield event
                return
        raise turns.spoilt or outcome.last_failure or EngineFailed("No route was attempted.")

    def _may_try(self, request: Request, route: Route, outcome: Outcome) -> bool:
        """The first route, at once; any further one if it makes sense after that failure, and if every policy still
        allows it: the site may have changed since."""
        error, before = outcome.last_failure, outcome.route
        if error is None or before is None:
            return True
        return may_follow(error, before, route) and self._still(request, route, outcome)

    def _still(self, request: Request, route: Route, outcome: Outcome) -> bool:
        now = self.planner.again(request, route, outcome)
        outcome.reasons += [f"not {drop.route.name} ({drop.policy}: {drop.reason})" for drop in now.drops]
        return bool(now.routes)

    async def _another_round(self, request: Request, turns: _Turns, outcome: Outcome) -> bool:
        """Waits before the providers are asked once more, with jitter, as long as the last one asked for. False: it is
        not worth it, or the retry budget is used up."""
        error = outcome.last_failure
        if not isinstance(error, Unavailable | Overloaded) or not turns.providers or turns.rounds >= ROUNDS:
            return False
        pause_s = max(BACKOFF_S * 2 ** (turns.rounds - 1) * random.uniform(0.5, 1.5), error.retry_after or 0.0)
        left_s = outcome.started + self.bound_s(request) - time.monotonic()
        assert outcome.decided is not None
        needed_s = _needed(request, outcome.decided.plan, turns.providers[0], outcome) or 0.0
        if pause_s > min(LONGEST_PAUSE_S, left_s / 2, left_s - needed_s) or not self._works.books.retries.take():
            return False
        outcome.reasons.append(f"again after {pause_s:.2f} s")
        await asyncio.sleep(pause_s)
        turns.begin()
        return True

    def _patience(
        self, request: Request, plan: Plan, route: Route, after: Sequence[Route], outcome: Outcome
    ) -> Patience | None:
        """After which the next route gets its turn, while that one still has the time. None: the route's own bounds are
        enough, since nothing could follow or nobody named a deadline."""
        if not after or request.deadline_s is None:
            return None
        left_s = outcome.started + self.bound_s(request) - time.monotonic()
        needed_s = _needed(request, plan, after[0], outcome)
        streams = request.stream and not held_whole(request, promised(request, route))
        if needed_s is None:
            return Patience(left_s * SHARE_OF_DEADLINE)
        own = plan.estimates.get(route.name, Estimate(0.0, 0.0))
        # Once a stream has begun, nobody can take over: what is left then must do for the rest of it.
        rest_s = min(own.total_s - own.ttft_s, left_s / 2) if streams else 0.0
        # Nobody is interrupted before the time that it was given, and not for one who would be late as well.
        until_s = max(own.ttft_s if streams else own.total_s, left_s - max(PACE_MARGIN * needed_s, rest_s))
        return Patience(until_s, whole=not streams) if left_s - until_s >= needed_s else None

    def _continues(self, request: Request, plan: Plan, attempt: Attempt, outcome: Outcome) -> Route | None:
        """The local route that may go on from the text so far; None: nobody asked for it, or it cannot be."""
        if not request.continue_on_break or attempt.route.location == "local" or not attempt.can_continue:
            return None
        local = [route for route in plan.routes if route.location == "local"]
        return next((route for route in local if self._still(request, route, outcome)), None)


def _final(error: BackendError) -> bool:
    """Whether no other route could do better: the request itself is wrong. Too long for one model, or not for one
    provider's eyes, or of a form that one only promises, says nothing of the next route."""
    return (
        isinstance(error, InvalidRequest)
        and not isinstance(error, NotSendable | CannotJudge)
        and error.code != ContextLengthExceeded.code
    )


def _needed(request: Request, plan: Plan, route: Route, outcome: Outcome) -> float | None:
    """Seconds that the route would take to the end of its answer; None: not known."""
    if estimate := plan.estimates.get(route.name):
        return estimate.total_s
    assert outcome.decided is not None
    snapshot = outcome.decided.snapshot
    health = snapshot.health.get(route.name)
    if health is None or not health.tokens_per_s:
        return None
    usual = snapshot.learned.get(route.name, Learned()).completion_tokens
    tokens = min(request.sampling.max_tokens or usual, usual)
    return health.ttft_s + tokens / health.tokens_per_s


class _Turns:
    """Whose turn it is: the plan's routes in order, then, in a further round, the providers' alone."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.rounds = 1
        self.providers = [route for route in routes if route.location == "remote"]
        self.rest = list(routes)
        self.spoilt: InvalidAnswer | None = None
        self._repair: tuple[Route, Repair | None] | None = None

    def next(self) -> Route | None:
        """Takes the first of the rest."""
        return self.rest.pop(0) if self.rest else None

    def invalid(
        self, error: InvalidAnswer, request: Request, route: Route, repair: Repair | None, first: OnInvalid
    ) -> None:
        """Whose turn it is after such an answer: the same route's, told what was wrong, if it can be repaired; and of
        the others only those that enforce what this one just promised. No further round is worth it."""
        self.spoilt, self._repair, self.providers = error, (route, repair), []
        repairs = [route] if repair else []
        able = [other for other in self.rest if other is not route and not promised(request, other)]
        self.rest = {"repair": [*repairs, *able], "escalate": [*able, *repairs], "fail": []}[first]

    def repair_by(self, route: Route) -> Repair | None:
        """What the route is asked in place of the request itself; None: that."""
        return self._repair[1] if self._repair and self._repair[0] is route else None

    def begin(self) -> None:
        """Another round."""
        self.rounds += 1
        self.rest = list(self.providers)
