"""What a policy sees, what it answers, and how several of them become one plan. Pure: no await, clock, log or I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from backends.errors import BackendError
from backends.types import GENERATES, Kind, ModelState, Request


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per million tokens. `cached` is for prompt tokens that the provider had in its cache."""

    input: float
    output: float
    cached: float

    def cost(self, prompt: int, completion: int, cached: int = 0) -> float:
        """US dollars for so many tokens; the `cached` ones are among the prompt's."""
        return ((prompt - cached) * self.input + cached * self.cached + completion * self.output) / 1e6


@dataclass(frozen=True, slots=True)
class Route:
    """One way to have a request answered.

    Attributes:
        name: `local/NAME` or `PROVIDER/MODEL`, as in the header `x-outstation-route`.
        model: the name of the backend that serves it.
        context_length: tokens of prompt and completion together.
        capabilities: what it can do beyond text.
        kinds: what it can be asked for.
        enforces: of a provider's model: what its answers are held to there (`structured_output`, `tools`); what it
            only promises is validated here. The box's own are held to everything.
        provider: whose model it is; empty: the box's own.
        price: what it costs; None: nothing.
        parameters_b: size of the model in billions of parameters; 0: not known.
        quality: the operator's rank among routes; higher is better.
        sha256: of the model file; empty: not known.
    """

    name: str
    model: str
    location: Literal["local", "remote"] = "local"
    context_length: int = 0
    capabilities: frozenset[str] = frozenset()
    kinds: frozenset[Kind] = GENERATES
    provider: str = ""
    price: Price | None = None
    parameters_b: float = 0.0
    quality: float = 0.0
    sha256: str = ""
    enforces: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Health:
    """Whether a remote route can be reached, as far as is known without asking it.

    Attributes:
        reason: why not, in a few words; empty while it can.
        retry_after: seconds until it is worth asking again; None: not known.
        ttft_s: seconds to its first token of late; 0: not known.
        tokens_per_s: of late, of one answer; 0: not known.
    """

    reason: str = ""
    retry_after: float | None = None
    ttft_s: float = 0.0
    tokens_per_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Learned:
    """What a route's past answers taught about the next ones (`gateway/estimates.py`).

    Attributes:
        completion_tokens: 90% of its answers are at most so long.
        ttft_factor, total_factor: of a local model: what the plain estimate is multiplied by, so that 90% of its
            answers come in time.
    """

    completion_tokens: int = 256
    ttft_factor: float = 1.0
    total_factor: float = 1.0


@dataclass(frozen=True, slots=True)
class Spent:
    """Money spent and reserved by requests under way, in US dollars."""

    key_day: float = 0.0
    key_month: float = 0.0
    site_day: float = 0.0
    site_month: float = 0.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The site as it was when the request came; mappings are by route name.

    Attributes:
        prompt_tokens: exact, by the route's own tokenizer; a route that is missing has not been counted.
        cached_tokens: of them, those that the box need not compute, for local routes.
        estimated_tokens: prompt tokens as good as they can be told without a remote route's tokenizer.
        learned: of routes that have answered before.
        health: of remote routes; one that is missing is not known to be ill.
        offline: why nothing may leave the site now (the operator's switch, or no link); empty: it may.
        data_classes: declared or found in the text.
        unfound: of them, those that were declared and that nothing in the text bears out: they cannot be redacted.
        scan_failed: the text could not be searched for them, so nothing is known.
        signals: what the request's text is like, as far as a rule or a guard reads it (`policies/signals.py`).
        late_signals: of those, what could not be told in time.
        unknown: classes for which alone it could not be searched.
        spent: by the request's key, and by the site.
        sticky: name of the route that asked for the tool calls whose results this request brings; empty: none.
        elapsed_s: seconds since the request arrived.
        at: Unix time (s).
    """

    states: Mapping[str, ModelState] = field(default_factory=dict)
    prompt_tokens: Mapping[str, int] = field(default_factory=dict)
    cached_tokens: Mapping[str, int] = field(default_factory=dict)
    estimated_tokens: int = 0
    learned: Mapping[str, Learned] = field(default_factory=dict)
    health: Mapping[str, Health] = field(default_factory=dict)
    offline: str = ""
    data_classes: frozenset[str] = frozenset()
    unfound: frozenset[str] = frozenset()
    scan_failed: bool = False
    unknown: frozenset[str] = frozenset()
    signals: Mapping[str, float | str] = field(default_factory=dict)
    late_signals: frozenset[str] = frozenset()
    spent: Spent = field(default_factory=Spent)
    sticky: str = ""
    elapsed_s: float = 0.0
    at: float = 0.0

    def tokens(self, route: Route) -> int:
        """Prompt tokens on that route: exact where they were counted, else the estimate."""
        return self.prompt_tokens.get(route.name, self.estimated_tokens)

    def cost(self, request: Request, route: Route) -> float:
        """US dollars that it may cost on that route: each prompt as long as the longest, each completion as long as was
        asked for, else as 90% are."""
        if route.price is None:
            return 0.0
        if request.kind not in GENERATES:
            return route.price.cost(self.tokens(route) * max(1, len(request.prompts)), 0)
        usual = self.learned.get(route.name, Learned()).completion_tokens
        prompt = self.tokens(route) * max(1, len(request.prompts))
        return route.price.cost(prompt, (request.sampling.max_tokens or usual) * request.choices)


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
class Estimate:
    """Seconds from now until the first token, and until the end: 90% of such answers are no later."""

    ttft_s: float
    total_s: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """A policy's answer: the routes that stay, in the order it wants them, and those it drops.

    Attributes:
        reason: why it reordered, if it did; empty otherwise.
        redact: by route name, data classes that must be replaced before anything is sent there. Such a duty can be
            added to by later policies, never lifted.
        estimates: by route name, when an answer is expected.
    """

    kept: tuple[Route, ...]
    drops: tuple[Drop, ...] = ()
    reason: str = ""
    redact: Mapping[str, frozenset[str]] = field(default_factory=dict)
    estimates: Mapping[str, Estimate] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """The routes to attempt, in order, with everything that was dropped on the way and why."""

    routes: tuple[Route, ...]
    drops: tuple[Drop, ...] = ()
    reasons: tuple[str, ...] = ()
    redact: Mapping[str, frozenset[str]] = field(default_factory=dict)
    estimates: Mapping[str, Estimate] = field(default_factory=dict)


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
    redact: dict[str, frozenset[str]] = {}
    estimates: dict[str, Estimate] = {}
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
        for name, classes in verdict.redact.items():
            redact[name] = redact.get(name, frozenset()) | classes
        estimates.update(verdict.estimates)
    return Plan(routes, tuple(drops), tuple(reasons), redact, estimates)


def _check(policy: Policy, given: tuple[Route, ...], verdict: Verdict) -> None:
    """A route must leave as either kept or dropped, once."""
    answered = [route.name for route in verdict.kept] + [drop.route.name for drop in verdict.drops]
    if sorted(answered) != sorted(route.name for route in given) or not set(verdict.kept) <= set(given):
        name = getattr(policy, "__name__", type(policy).__name__)
        raise PolicyError(f"{name} was given {[r.name for r in given]} and answered {answered}")
