"""Yesterday's decisions under another policy: the same facts, decided anew. Nothing is sent and nothing is run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from backends.types import Request
from gateway.audit_rows import Decision
from gateway.config import Config
from gateway.models import model_aliases
from gateway.policies import policies_of
from gateway.providers import provider_aliases, remote_routes
from gateway.record import read_facts
from gateway.spending import Spending
from gateway.state import AUTO
from policies.base import Plan, Route, Snapshot, decide

REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Replayed:
    """One decision, as it was and as it would be. Costs in US dollars, times in seconds; None: cannot be told.

    Attributes:
        before, after: names of the routes asked first; `refused`: none was.
        left_before, left_after: the provider to whom it went; empty: it stayed.
        reason: why so, now.
    """

    row: Decision
    before: str
    after: str
    cost_before: float
    cost_after: float
    total_before: float
    total_after: float | None
    left_before: str
    left_after: str
    redacted_after: bool
    reason: str

    @property
    def changed(self) -> bool:
        return self.before != self.after


def replay(rows: Iterable[Decision], config: Config) -> Iterator[Replayed | Decision]:
    """Each row decided anew by `config`, in order; a row that has no facts comes back as it is.

    Money is spent anew as well: a budget that would have been used up by then is used up.
    """
    policies, remotes = policies_of(config), remote_routes(config)
    aliases = {**model_aliases(config), **provider_aliases(config)}
    now = 0.0
    spending = Spending(lambda: now)
    providers = {route.name: route.provider for route in remotes}
    for row in rows:
        now = row.at
        try:
            request, local, snapshot = read_facts(row.facts)
        except ValueError:
            yield row
            continue
        snapshot = replace(snapshot, spent=spending.spent(request.key), offline=_offline(config, snapshot.offline))
        candidates = _candidates(aliases.get(request.model, request.model), local, remotes)
        plan = decide(policies, request, candidates, snapshot)
        made = _compare(row, request, plan, snapshot, providers.get(row.route, row.route.partition("/")[0]))
        if made.cost_after:
            spending.reserve(row.request_id, request.key, made.cost_after)
            spending.settle(row.request_id, made.cost_after)
        yield made


def _offline(config: Config, then: str) -> str:
    """The switch is the new configuration's; a link that was down then is down."""
    if config.routing.offline:
        return "routing.offline"
    return "" if "switch" in then else then


def _candidates(name: str, local: Sequence[Route], remotes: Sequence[Route]) -> tuple[Route, ...]:
    if name == AUTO:
        return (*local, *remotes)
    named = name.removeprefix("local/")
    return tuple(route for route in (*local, *remotes) if named == route.model)


def _compare(row: Decision, request: Request, plan: Plan, snapshot: Snapshot, provider: str) -> Replayed:
    front = plan.routes[0] if plan.routes else None
    before = row.attempts[0][0] if row.attempts else REFUSED
    after = front.name if front else REFUSED
    cost, total = (row.cost, row.total_s) if after == before else (_cost(row, request, front, snapshot), None)
    if front and after != before:
        estimate, health = plan.estimates.get(front.name), snapshot.health.get(front.name)
        if estimate:
            total = estimate.total_s
        elif health and health.tokens_per_s:
            total = health.ttft_s + row.completion_tokens / health.tokens_per_s
    return Replayed(
        row=row,
        before=before,
        after=after,
        cost_before=row.cost,
        cost_after=cost,
        total_before=row.total_s,
        total_after=total,
        left_before=provider if before not in (REFUSED, "") and not before.startswith("local/") else "",
        left_after=front.provider if front else "",
        redacted_after=bool(front and plan.redact.get(front.name)),
        reason="; ".join(plan.reasons) if front else "; ".join(f"{d.policy}: {d.reason}" for d in plan.drops),
    )


def _cost(row: Decision, request: Request, front: Route | None, snapshot: Snapshot) -> float:
    """By the tokens that it had; by those expected if it was not answered."""
    if front is None or front.price is None:
        return 0.0
    if row.completion_tokens:
        return front.price.cost(row.prompt_tokens, row.completion_tokens)
    return snapshot.cost(request, front)
