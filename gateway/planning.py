"""From a request to a plan: the candidates, what is known of the site now, and what the policies make of both."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from backends.errors import BackendError, DeadlineExceeded, Overloaded, Unavailable
from backends.types import Features, Image, Prompt, PromptCount, Request
from gateway.books import Books
from gateway.egress import SEARCHED_AT_ONCE, Egress, Seen
from gateway.outcome import Outcome
from gateway.signals import Signals, Told
from gateway.state import Site
from policies.base import Drop, Plan, Policy, Route, Snapshot, decide

LETTERS_A_TOKEN = 4
BYTES_A_TOKEN = 3
BESIDE_MESSAGES = ("tools", "functions", "response_format")
MEDIA_TOKENS = 1000  # an image or a recording, whatever its size: nobody can count it here
MESSAGE_TOKENS = 4


@dataclass(slots=True)
class Decided:
    """A plan, and all that it was made from: enough to explain it, and to decide it anew.

    Attributes:
        names: of persons, found in the request: what is redacted, and never recorded.
    """

    plan: Plan
    candidates: tuple[Route, ...]
    snapshot: Snapshot
    counts: dict[str, PromptCount] = field(default_factory=dict)
    names: tuple[str, ...] = field(default=(), repr=False)


class Planner:
    """Decides for one generation of the configuration.

    Args:
        policies: in the order in which they decide.
        always_looks: for private data, even where every candidate is on the box: a rule asks for it.
        signals: what rules and guards read of a request's text; None: they read nothing.
    """

    def __init__(
        self,
        site: Site,
        policies: Sequence[Policy],
        books: Books,
        egress: Egress,
        *,
        always_looks: bool = False,
        signals: Signals | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._site = site
        self._policies = policies
        self._books = books
        self.egress = egress
        self._always_looks = always_looks
        self._signals = signals
        self._clock = clock
        self._wall_clock = wall_clock

    async def decide(self, request: Request, outcome: Outcome) -> Decided:
        """Decides; and while there is a choice, counts the prompt for the local route in front and decides again.

        Raises:
            BackendError: no route is left; the message has every reason.
        """
        candidates, how = self._site.resolve(request.model, request.kind)
        outcome.reasons.append(how)
        looks = self._always_looks or any(route.location == "remote" for route in candidates)
        seen, told = await self._looked(request, outcome.received, looks=looks)
        known = self._known(request, candidates, seen, told)
        counts: dict[str, PromptCount] = {}
        failed: list[BackendError] = []
        while True:
            countable = [route for route in candidates if self._worth_counting(request, route, candidates, counts)]
            snapshot = self._snapshot(request, known, counts, outcome, countable)
            plan = decide(self._policies, request, candidates, snapshot)
            if countable and not plan.routes:
                # When to come again is told by what it needs, not by the least that it may need.
                snapshot = self._snapshot(request, known, counts, outcome)
                plan = decide(self._policies, request, candidates, snapshot)
            outcome.decided = Decided(plan, candidates, snapshot, counts, seen.names)
            if not plan.routes:
                raise _no_route(plan.drops, failed)
            front = plan.routes[0]
            if front not in countable:
                break
            try:
                counts[front.name] = await self._site.backends[front.model].count(request)
            except BackendError as error:
                failed.append(error)
                outcome.reasons.append(f"{front.name} failed: {error.code}")
                candidates = tuple(
                    route for route in candidates if route is not front and may_follow(error, front, route)
                )
                if not candidates:
                    raise
            # Others were admitted, and money was spent, while this one was counted. From here until the first attempt
            # has reserved what it may cost, nothing else runs: a budget is never given out twice.
            known = self._known(request, candidates, seen, told)
        outcome.reasons += plan.reasons
        outcome.reasons += [f"not {drop.route.name} ({drop.policy}: {drop.reason})" for drop in plan.drops]
        return outcome.decided

    async def _looked(self, request: Request, size: int, *, looks: bool) -> tuple[Seen, Told]:
        """What is in it and what it is like, told at the same time."""
        if self._signals is None:
            return await self.egress.look(request, size) if looks else Seen(request.declared, request.declared), Told()
        judged = self._signals.of(request, large=size > SEARCHED_AT_ONCE)
        if not looks:
            return Seen(request.declared, request.declared), await judged
        told, seen = await asyncio.gather(judged, self.egress.look(request, size))  # who has less time asks first
        return seen, told

    def ready(self, route: Route) -> bool:
        """Whether it is a model on the box that is loaded."""
        return route.location == "local" and self._site.backends[route.model].state().status == "ready"

    async def count(self, route: Route, request: Request) -> int:
        """Its prompt's tokens, exact, by a model on the box, which is loaded for it."""
        return (await self._site.backends[route.model].count(request)).tokens

    def again(self, request: Request, route: Route, outcome: Outcome) -> Plan:
        """Whether a later attempt on `route` is still allowed, by the site as it is now. What was found in the text and
        what was counted stays."""
        assert outcome.decided is not None
        before = outcome.decided.snapshot
        seen = Seen(before.data_classes, before.unfound, before.scan_failed, before.unknown)
        now = self._known(request, (route,), seen, Told(before.signals, before.late_signals))
        snapshot = self._snapshot(request, now, outcome.decided.counts, outcome)
        return decide(self._policies, request, (route,), snapshot)

    def _worth_counting(
        self, request: Request, front: Route, candidates: Sequence[Route], counts: Mapping[str, PromptCount]
    ) -> bool:
        """A route without an alternative is not counted here, unless somebody waits for it: its backend refuses a
        longer prompt in the same words. Nor is one that would have to be loaded first while a provider could answer."""
        if front.location == "remote" or front.name in counts:
            return False
        if len(candidates) == 1:
            return request.deadline_s is not None
        ready = self._site.backends[front.model].state().status == "ready"
        return ready or not any(route.location == "remote" for route in candidates)

    def _known(self, request: Request, candidates: Sequence[Route], seen: Seen, told: Told) -> dict[str, Any]:
        """What a snapshot holds, whatever will have been counted by then."""
        health = {route.name: self._site.health(route) for route in candidates if route.location == "remote"}
        states = self._site.local_states()
        return {
            "states": states,
            "learned": {name: self._books.estimates.learned(name) for name in {*states, *health}},
            "health": health,
            "offline": self._site.offline,
            "data_classes": seen.classes,
            "unfound": seen.unfound,
            "scan_failed": seen.failed,
            "unknown": seen.unknown,
            "signals": told.values,
            "late_signals": told.late,
            "spent": self._books.spending.spent(request.key),
            "sticky": self._books.asked_by(request) if len(candidates) > 1 else "",
            "at": self._wall_clock(),
        }

    def _snapshot(
        self,
        request: Request,
        known: dict[str, Any],
        counts: Mapping[str, PromptCount],
        outcome: Outcome,
        countable: Sequence[Route] = (),
    ) -> Snapshot:
        """A route that will be counted if it comes to the front may have all of the prompt in its cache, for all that
        is known: what is too late even so need not be counted, and nothing else is turned away uncounted."""
        # Another model's exact count is a better guess than the number of bytes.
        estimated = max((count.tokens for count in counts.values()), default=0) or estimated_tokens(request)
        cached = dict.fromkeys((route.name for route in countable), estimated)
        cached.update((name, count.cached) for name, count in counts.items())
        return Snapshot(
            **known,
            prompt_tokens={name: count.tokens for name, count in counts.items()},
            cached_tokens=cached,
            estimated_tokens=estimated,
            elapsed_s=self._clock() - outcome.started,
        )


def may_follow(failure: BackendError, failed: Route, route: Route) -> bool:
    """Whether another route is worth trying. A busy or slow box gets no faster by loading another model onto it."""
    slow = isinstance(failure, Overloaded | DeadlineExceeded)
    return not slow or failed.location == "remote" or route.location == "remote"


def estimated_tokens(request: Request) -> int:
    """Tokens of the longest prompt, as good as they can be told without a tokenizer."""
    if request.kind != "chat":
        return max((_prompt_tokens(prompt) for prompt in request.prompts), default=1)
    raw = request.raw
    tokens = sum(_text_tokens(str(raw[field])) for field in BESIDE_MESSAGES if raw.get(field))
    return tokens + sum(_message_tokens(message) for message in request.messages)


def _prompt_tokens(prompt: Prompt) -> int:
    if isinstance(prompt, Image):
        return MEDIA_TOKENS
    if isinstance(prompt, Features):
        return len(prompt.values)
    return _text_tokens(prompt) if isinstance(prompt, str) else len(prompt)


def _message_tokens(message: Mapping[str, Any]) -> int:
    tokens, content = MESSAGE_TOKENS, message.get("content")
    if isinstance(content, str):
        tokens += _text_tokens(content)
    else:
        for part in content or ():
            tokens += _text_tokens(part["text"]) if isinstance(part.get("text"), str) else MEDIA_TOKENS
    if calls := message.get("tool_calls") or message.get("function_call"):
        tokens += _text_tokens(str(calls))
    return tokens


def _text_tokens(text: str) -> int:
    """About four letters each in English prose; about one for each character of scripts with many."""
    return (len(text) // LETTERS_A_TOKEN if text.isascii() else len(text.encode()) // BYTES_A_TOKEN) + 1


def _no_route(drops: Sequence[Drop], failed: Sequence[BackendError]) -> BackendError:
    """What to tell the client when nothing is left: what may pass, the soonest; else the most able route's drop."""
    if failed:
        return failed[0]
    # That a route is elsewhere than asked for says less than why those that are there were dropped.
    drops_there = [drop for drop in drops if drop.policy != "order"] or drops
    passing = [drop.error for drop in drops_there if isinstance(drop.error, Unavailable | Overloaded)]
    error = (
        min(passing, key=lambda e: float("inf") if e.retry_after is None else e.retry_after)
        if passing
        else max(drops_there, key=lambda drop: drop.route.context_length).error
    )
    if len(drops) > 1:
        every = "; ".join(f"{drop.route.name}: {drop.policy}: {drop.reason}" for drop in drops)
        error.message = f"{error.message} No route is left ({every})."
    return error
