"""Yesterday's decisions under another policy: the same facts, decided anew. Nothing is sent and nothing is run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from backends.types import Request
from gateway.audit_rows import Decision
from gateway.config import Config
from gateway.models import check_names, model_aliases
from gateway.policies import check_rule_routes, policies_of
from gateway.providers import provider_aliases, remote_routes
from gateway.record import Facts, read_facts
from gateway.spending import Spending
from gateway.state import AUTO, SWITCHED_OFF
from policies.base import Estimate, Plan, Route, Snapshot, Spent, decide

REFUSED = "refused"
UNSENT = frozenset({"provider_down", "egress_denied", "offline", "audit_unavailable", "privacy_denied"})
"""How an attempt at a provider ends before anything departs. All others are in the egress ledger."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """One decision, as it was and as it would be. Costs in US dollars, times in seconds; None: cannot be told.

    Attributes:
        before, after: names of the routes in front; `refused`: there was none.
        left_before, left_after: the providers to whom it went; empty: it stayed.
        redacted_after: something would be replaced before it left. There is no text to try it on: that it can be
            replaced is taken for granted.
        searched: its text was searched for private data then.
        lost: the route that answered in the end, although another was in front, and that would not be asked now.
        reason: why so, now.
    """

    row: Decision
    before: str
    after: str
    cost_before: float
    cost_after: float
    total_before: float
    total_after: float | None
    left_before: tuple[str, ...]
    left_after: tuple[str, ...]
    redacted_after: bool
    searched: bool
    lost: str
    reason: str

    @property
    def changed(self) -> bool:
        return self.before != self.after or bool(self.lost)


class Replay:
    """Decides rows of the audit, in the order of their arrival, by `config`.

    Money is spent anew: what the rows would cost takes the place of what they did cost, and a budget that would have
    been used up by then is used up.

    Raises:
        ConfigError: a rule that does not compile; an alias or a rule with a provider's model that is not there.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._policies = policies_of(config)
        self._remotes = remote_routes(config)
        names = [route.name for route in self._remotes]
        check_names(config, {}, {route.name: route.kinds for route in self._remotes})
        check_rule_routes(config, names)
        self._aliases = {**model_aliases(config), **provider_aliases(config)}
        self._now = 0.0
        self._spent_then, self._spent_anew = Spending(lambda: self._now), Spending(lambda: self._now)
        self._local: dict[str, Route] = {}

    def decide(self, rows: Iterable[Decision]) -> Iterator[Replayed | Decision]:
        """One for each row; a row without facts, or with facts of an older form, comes back as it is."""
        for row in rows:
            self._now = row.at
            try:
                facts = read_facts(row.facts)
            except ValueError:
                yield row
                continue
            made = self._one(row, facts)
            for spending, usd in ((self._spent_then, made.cost_before), (self._spent_anew, made.cost_after)):
                if usd:
                    spending.reserve(row.request_id, row.key, usd)
                    spending.settle(row.request_id, usd)
            yield made

    def _one(self, row: Decision, facts: Facts) -> Replayed:
        request = facts.request
        self._local.update((route.name, route) for route in facts.local)
        snapshot = replace(
            facts.snapshot,
            spent=self._spent(facts.snapshot.spent, request.key),
            offline=_offline(self._config, facts.snapshot.offline),
        )
        candidates = self._candidates(row, facts)
        plan = decide(self._policies, request, candidates, snapshot)
        return _compare(row, facts, plan, snapshot, self._estimate(request, plan, snapshot))

    def _estimate(self, request: Request, plan: Plan, snapshot: Snapshot) -> Estimate | None:
        """Of the route in front. One that was not counted then was given the benefit of the doubt for the decision, as
        if all of its prompt were cached; for a time to be told, nothing is."""
        front = plan.routes[0] if plan.routes else None
        if front is None or front.name in snapshot.prompt_tokens or front.name not in snapshot.cached_tokens:
            return plan.estimates.get(front.name) if front else None
        plain = replace(snapshot, cached_tokens={})
        return decide(self._policies, request, (front,), plain).estimates.get(front.name)

    def _spent(self, recorded: Spent, key: str) -> Spent:
        """What was recorded, with this replay's spending in place of what was spent since it begins."""
        then, anew = self._spent_then.spent(key), self._spent_anew.spent(key)
        if then == anew:
            return recorded
        names = Spent.__dataclass_fields__
        parts = {n: getattr(recorded, n) - getattr(then, n) + getattr(anew, n) for n in names}
        return Spent(**{name: max(0.0, usd) for name, usd in parts.items()})

    def _candidates(self, row: Decision, facts: Facts) -> tuple[Route, ...]:
        """What the requested name stands for now. The box's own models are those of then."""
        name = self._aliases.get(facts.request.model, facts.request.model)
        if name != AUTO:
            named = name.removeprefix("local/")
            there = {**{route.name: route for route in facts.local}, **self._seen(facts)}
            return tuple(route for route in (*there.values(), *self._remotes) if named == route.model)
        was_auto = bool(row.reasons) and (row.reasons[0] == AUTO or row.reasons[0].endswith(f" for {AUTO}"))
        local = facts.local if was_auto else tuple(self._seen(facts).values())
        if "default" in self._config.routing.model_fields_set:
            local = tuple(sorted(local, key=lambda route: route.model != self._config.routing.default))
        return (*local, *self._remotes)

    def _seen(self, facts: Facts) -> Mapping[str, Route]:
        """Models that were on the box then, as far as this row or those before it describe them."""
        return {name: self._local[name] for name in facts.snapshot.states if name in self._local}


def _offline(config: Config, then: str) -> str:
    """The switch is the new configuration's; a link that was down then is down."""
    if config.routing.offline:
        return SWITCHED_OFF
    return "" if then == SWITCHED_OFF else then


def _compare(row: Decision, facts: Facts, plan: Plan, snapshot: Snapshot, estimate: Estimate | None) -> Replayed:
    before = facts.planned[0] if facts.planned else REFUSED
    after = plan.routes[0].name if plan.routes else REFUSED
    still = {route.name for route in plan.routes}
    lost = row.route if before == after and row.route and row.route not in still else ""
    front = plan.routes[0] if plan.routes else None
    went = [name for name, code, _ in row.attempts if not name.startswith("local/") and code not in UNSENT]
    # The same route in front goes on as it went, as far as the routes after it are still there.
    same = before == after
    goes = [name for name in went if name in still] if same else [front.name] if front and front.provider else []
    return Replayed(
        row=row,
        before=before,
        after=after,
        cost_before=row.cost,
        cost_after=_cost(row, facts.request, front, snapshot) if not same else 0.0 if lost else row.cost,
        total_before=row.total_s,
        total_after=_total(row, front, estimate, snapshot) if not same else None if lost else row.total_s,
        left_before=_providers(went),
        left_after=_providers(goes),
        redacted_after=any(plan.redact.get(name) for name in goes),
        searched=snapshot.scan_failed or bool(snapshot.health),
        lost=lost,
        reason=_reason(plan, lost),
    )


def _providers(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.partition("/")[0] for name in names))


def _reason(plan: Plan, lost: str) -> str:
    dropped = [(d.route.name, f"{d.policy}: {d.reason}") for d in plan.drops]
    if lost or not plan.routes:
        said = [f"{name}: {why}" for name, why in dropped if name == (lost or name)]
        return "; ".join(said) or "no such model"
    return "; ".join((*plan.reasons, *(f"not {name} ({why})" for name, why in dropped)))


def _total(row: Decision, front: Route | None, estimate: Estimate | None, snapshot: Snapshot) -> float | None:
    """Seconds that it would take: on the box at most (90% of the answers), at a provider by its pace then."""
    if front is None:
        return None
    if estimate:
        return estimate.total_s
    health = snapshot.health.get(front.name)
    if not (health and health.tokens_per_s and row.completion_tokens):
        return None
    return health.ttft_s + row.completion_tokens / health.tokens_per_s


def _cost(row: Decision, request: Request, front: Route | None, snapshot: Snapshot) -> float:
    """By the tokens that it had; by those expected if it was not answered."""
    if front is None or front.price is None:
        return 0.0
    if row.completion_tokens:
        return front.price.cost(row.prompt_tokens, row.completion_tokens)
    return snapshot.cost(request, front)
