"""What a policy sees, what it answers, and how several of them become one plan. Pure: no await, clock, log or I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from backends.errors import BackendError
from backends.types import ModelState, Request


@dataclass(frozen=True, slots=True)
class Route:
    """One way to have a request answered.

    Attributes:
        name: `local/NAME` or `PROVIDER/MODEL`, as in the header `x-outstation-route`.
        model: the name of the backend that serves it.
        context_length: tokens of prompt and completion together.
        capabilities: what it can do beyond text.
    """

    name: str
    model: str
    location: Literal["local", "remote"] = "local"
    context_length: int = 0
    capabilities: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The site as it was when the request came; both mappings are by route name.

    Attributes:
        prompt_tokens: exact, by the route's own tokenizer; a route that is missing has not been counted.
    """

    states: Mapping[str, ModelState] = field(default_factory=dict)
    prompt_tokens: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Drop:
    """A route that a policy took out, and why.

    Attributes:
        reason: a few words, for the header `x-outstation-reason`.
        error: what the client is told if no route is left.
    """

    route: Route
    policy: str
    reason: str
    error: BackendError


@dataclass(frozen=True, slots=True)
class Verdict:
    """A policy's answer: the routes that stay, in the order it wants them, and those it drops.

    Attributes:
        reason: why it reordered, if it did; empty otherwise.
    """

    kept: tuple[Route, ...]
    drops: tuple[Drop, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """The routes to attempt, in order, with everything that was dropped on the way and why."""

    routes: tuple[Route, ...]
    drops: tuple[Drop, ...] = ()
    reasons: tuple[str, ...] = ()


Policy = Callable[[Request, tuple[Route, ...], Snapshot], Verdict]


class PolicyError(Exception):
    """A policy returned a route that it was not given, or lost one without a word: the request fails closed."""


def decide(policies: Sequence[Policy], request: Request, routes: tuple[Route, ...], snapshot: Snapshot) -> Plan:
    """Lets each policy in turn drop and reorder what the ones before it left.

    No policy can bring back a route that an earlier one dropped.

    Raises:
        PolicyError: a policy's kept and dropped routes together are not exactly the routes it was given.
    """
    drops: list[Drop] = []
    reasons: list[str] = []
    for policy in policies:
        if not routes:
            break
        verdict = policy(request, routes, snapshot)
        if verdict.kept is not routes:
            _check(policy, routes, verdict)
        routes = verdict.kept
        drops.extend(verdict.drops)
        if verdict.reason:
            reasons.append(verdict.reason)
    return Plan(routes, tuple(drops), tuple(reasons))


def _check(policy: Policy, given: tuple[Route, ...], verdict: Verdict) -> None:
    """A route must leave as either kept or dropped, once."""
    answered = [route.name for route in verdict.kept] + [drop.route.name for drop in verdict.drops]
    if sorted(answered) != sorted(route.name for route in given) or not set(verdict.kept) <= set(given):
        name = getattr(policy, "__name__", type(policy).__name__)
        raise PolicyError(f"{name} was given {[r.name for r in given]} and answered {answered}")
