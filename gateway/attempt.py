"""One attempt on one route: through the boundary if it leaves the site, paid if it costs, measured in any case."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from backends.base import Backend
from backends.errors import BackendError, DeadlineExceeded, EngineFailed, InvalidRequest
from backends.types import Chunk, Event, Request, Usage
from gateway.books import Books
from gateway.egress import Clearance, Egress, Passage
from gateway.metrics import Metrics
from gateway.outcome import Outcome
from gateway.validation.watch import InvalidAnswer, Watches
from policies.base import Plan, Route

REPLY_TOKENS = 100  # about what a complaint has

UNPAID = frozenset({"provider_unreachable", "provider_busy", "provider_key", "provider_not_found", "provider_error"})
"""Failures after which a provider bills nothing: it did not begin, or answered with an error in place of an answer."""


@dataclass(frozen=True, slots=True)
class Works:
    """What attempts work with, of one generation."""

    backends: Mapping[str, Backend]
    egress: Egress
    books: Books
    metrics: Metrics
    watches: Watches = field(default_factory=Watches)


@dataclass(frozen=True, slots=True)
class Repair:
    """An answer that was not what it had to be, put before the provider that gave it.

    Attributes:
        sent: what it had been asked.
        reply: what it said, and what is wrong with it.
        tokens: of the reply, about.
    """

    sent: Clearance
    reply: Sequence[Mapping[str, Any]]
    tokens: int


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds until another route gets its turn: of waiting for the first event, or for the `whole` answer."""

    seconds: float
    whole: bool = False


class Attempt:
    """The answer of one route to one request."""

    def __init__(
        self,
        works: Works,
        request: Request,
        route: Route,
        plan: Plan,
        outcome: Outcome,
        repairs: Repair | None = None,
    ) -> None:
        self.route = route
        self.texts: list[str] = []
        self.deltas = 0
        self.repairs = repairs
        self._sent: Clearance | None = None
        self._passage: Passage | None = None
        self.can_continue = request.choices == 1 and request.kind == "chat"
        self._works = works
        self._request = request
        self._plan = plan
        self._outcome = outcome

    async def events(self, patience: Patience | None = None) -> AsyncGenerator[Event, None]:
        """Chunks, and last the usage. Raises `BackendError`s; whatever happens, what it cost is booked once."""
        self._outcome.begin(self.route)
        began = time.monotonic()
        usage: Usage | None = None
        failure: BackendError | None = None
        with ExitStack() as stack:
            try:
                watch = await self._works.watches.watch(self._request, self.route)
                sent = self._sent = await self._cleared(stack)
            except BackendError as error:
                self._outcome.tried.append((self.route.name, error.code, 0.0))
                raise
            try:
                source = self._works.backends[self.route.model].generate(sent.request)
                if patience is not None:
                    source = _impatient(source, patience)
                async with aclosing(source) as events:
                    async for raw in events:
                        event = sent.restore(raw)
                        self._saw(event)
                        if isinstance(event, Usage):
                            usage = event
                            break
                        if watch is None or not watch.holds(event, raw):
                            self._outcome.told()
                            yield event
                whole = self._whole(usage)
                if watch is not None:
                    held = await watch.released()
                    self._outcome.reasons.append("validated")
                    self._outcome.told()
                    for event in held:
                        yield event
                yield whole
            except BackendError as error:
                failure = error
                raise
            finally:
                self._book(usage, failure, time.monotonic() - began, sent)

    async def _cleared(self, stack: ExitStack) -> Clearance:
        route, decided = self.route, self._outcome.decided
        if route.location == "local" or decided is None:
            return Clearance(self._request, frozenset(), 0.0)
        works, snapshot = self._works, decided.snapshot
        usd, duty = snapshot.cost(self._request, route), self._plan.redact.get(route.name, frozenset())
        if self.repairs and route.price:
            usd += route.price.cost(self.repairs.tokens, 0)
        if usd:
            # Before anything is awaited: the plan was made with what was left just now.
            works.books.spending.reserve(self._payment, self._request.key, usd)
            stack.callback(works.books.spending.release, self._payment)  # after its settlement this does nothing
            self._outcome.reasons.append(f"costs up to ${usd:.4f}" if usd >= 0.0001 else "costs under $0.0001")
        if self.repairs:
            clearance = self.repairs.sent.going_on(self.repairs.reply, usd)
        else:
            clearance = await works.egress.clear(
                self._request, route, duty, snapshot.data_classes, usd, self._outcome.received, decided.names
            )
        self._passage = stack.enter_context(works.egress.boundary.open(clearance, route.provider))
        self._outcome.redacted |= clearance.redacted
        return clearance

    def repair(self, error: InvalidAnswer) -> Repair | None:
        """How it can be asked to do better; None: it cannot, or this was that already."""
        if self.repairs or self._sent is None or not error.reply:
            return None
        said = self._outcome.usage.completion_tokens if self._outcome.usage else self.deltas
        return Repair(self._sent, error.reply, said + REPLY_TOKENS)

    @property
    def _payment(self) -> str:
        return f"{self._request.id}#{self._outcome.attempts}"

    def _saw(self, event: Event) -> None:
        self._outcome.saw(event, self._works.metrics.gap_observer(self.route.model))
        if isinstance(event, Usage):
            return
        self.deltas += 1
        if event.finish_reason is not None:
            self.can_continue = False  # it is complete, whatever comes after it
        if event.wire is not None or event.tools:
            self.can_continue = False  # tool calls and the like cannot be taken over by another model
            self._works.books.saw(event, self.route, self._request.key)
        elif self._request.continue_on_break:
            self.texts.append(event.text)

    def _whole(self, usage: Usage | None) -> Usage:
        """The usage of an answer that is complete: a cut one must never look so."""
        if usage is None or self._outcome.finished != self._request.choices:
            message = f"The model {self.route.model} broke off without finishing its answer. Try again."
            raise EngineFailed(message, retry_after=1)
        return usage

    def _book(self, usage: Usage | None, failure: BackendError | None, seconds: float, sent: Clearance) -> None:
        code = failure.code if failure else "ok" if usage else "cancelled"
        self._outcome.tried.append((self.route.name, code, seconds))
        self._learn(usage, seconds)
        if not sent.reserved_usd:
            return
        price = self.route.price
        assert price is not None
        assert self._outcome.decided is not None
        if usage:
            usd = price.cost(usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)
        elif self._free(failure):
            usd = 0.0
        elif self._request.stream:
            # Nobody told what it counted. Each delta is at least a token.
            usd = price.cost(self._outcome.decided.snapshot.tokens(self.route), self.deltas)
        else:
            usd = sent.reserved_usd  # it may have computed all of it, and nothing was seen
        self._works.books.spending.settle(self._payment, usd)
        costs = self._outcome.costs
        costs[self.route.name] = costs.get(self.route.name, 0.0) + usd

    def _free(self, failure: BackendError | None) -> bool:
        """Whether an attempt without a usage cost nothing: nothing left, or the provider refused before it began."""
        if self.deltas:
            return False
        if self._passage is None or not self._passage.sent:
            return True
        return failure is not None and (failure.code in UNPAID or isinstance(failure, InvalidRequest))

    def _learn(self, usage: Usage | None, seconds: float) -> None:
        """How long it got; and of a local route, how long it took against what was expected. Only of a plan that is
        fresh: a second attempt comes later."""
        outcome, decided = self._outcome, self._outcome.decided
        if outcome.attempts != 1 or decided is None:
            return
        name, estimates, first_at = self.route.name, self._works.books.estimates, outcome.first_at
        predicted, under = self._plan.estimates.get(name), decided.snapshot.learned.get(name)
        if usage and first_at is not None:
            ttft_s = first_at - (time.monotonic() - seconds)
            tokens, limit = usage.completion_tokens // self._request.choices, self._request.sampling.max_tokens
            estimates.observe(name, predicted, ttft_s, seconds, tokens, limit, under)
        elif predicted:
            estimates.broke_off(name, predicted, seconds, began=first_at is not None, under=under)


async def _impatient(source: AsyncGenerator[Event, None], patience: Patience) -> AsyncGenerator[Event, None]:
    """The events, if the first one, or all of them, come in time."""
    until = asyncio.get_running_loop().time() + patience.seconds
    async with aclosing(source) as events:
        waits = True
        while waits:
            try:
                async with asyncio.timeout_at(until):
                    event = await anext(events, None)
            except TimeoutError:
                what = "whole answer" if patience.whole else "first token"
                message = f"No {what} within {patience.seconds:.3g} s, and another route had to get its turn."
                raise DeadlineExceeded(message, code="first_token_timeout", retry_after=5) from None
            if event is None:
                return
            waits = patience.whole
            yield event
        async for event in events:
            yield event


async def continuation(
    works: Works, request: Request, broken: Attempt, route: Route, outcome: Outcome
) -> AsyncGenerator[Event, None]:
    """A local model goes on from the text so far; the seam is marked in the stream and in the audit."""
    outcome.continued = True
    outcome.reasons.append(f"continued by {route.name}")
    yield Chunk(0, comment=f"outstation: {broken.route.name} broke off, {route.name} goes on from here")
    limit = request.sampling.max_tokens
    sampling = replace(request.sampling, max_tokens=None if limit is None else max(1, limit - broken.deltas))
    said = "".join(broken.texts)
    follow = Attempt(works, replace(request, sampling=sampling, continuation=said), route, Plan((route,)), outcome)
    async with aclosing(follow.events()) as events:
        async for event in events:
            yield _with_what_was_said(event, broken.deltas) if isinstance(event, Usage) else event


def _with_what_was_said(usage: Usage, tokens: int) -> Usage:
    """It was part of the second prompt; to the client it is part of the completion."""
    prompt, completion = max(0, usage.prompt_tokens - tokens), usage.completion_tokens + tokens
    return replace(usage, prompt_tokens=prompt, completion_tokens=completion)
