"""The operator's own rules: CEL expressions over the request, its key and the site. The first that matches decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from backends.errors import BackendError, InvalidRequest, Unavailable
from backends.types import Request
from policies.base import Drop, Route, Snapshot, Verdict
from policies.variables import SAMPLES, reads_of, values_of

if TYPE_CHECKING:
    import cel

FAILURES = (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError)
"""What the library raises for an expression that cannot be evaluated."""


class RuleSettings(Protocol):
    """A rule as configured. Exactly one of `locality`, `routes` and `deny` is given."""

    @property
    def name(self) -> str: ...
    @property
    def when(self) -> str: ...
    @property
    def locality(self) -> str | None: ...
    @property
    def routes(self) -> tuple[str, ...]: ...
    @property
    def deny(self) -> str | None: ...
    @property
    def on_timeout(self) -> str: ...


class RuleError(Exception):
    """A rule that can never be evaluated.

    Attributes:
        index: its place among the rules, from 0.
        name: its name.
    """

    def __init__(self, index: int, name: str, message: str) -> None:
        super().__init__(message)
        self.index = index
        self.name = name
        self.message = message


@dataclass(frozen=True, slots=True)
class Rule:
    """A compiled rule.

    Attributes:
        reads: those of `policies.variables.VARIABLES` that it names.
        hold: it counts as matched while a signal that it depends on is not known.
    """

    name: str
    program: cel.Program
    reads: frozenset[str]
    locality: str | None = None
    routes: tuple[str, ...] = ()
    deny: str | None = None
    hold: bool = True

    def holds(self, contexts: Sequence[cel.Context | None], snapshot: Snapshot) -> bool | None:
        """Whether it matches, in each of these; None: that cannot be told."""
        if None in contexts or (snapshot.scan_failed and "request.data_classes" in self.reads):
            return None
        try:
            results = [self.program.execute(context) for context in contexts]
        except FAILURES:
            late = not self.reads.isdisjoint(f"signals.{name}" for name in snapshot.late_signals)
            return self.hold if late else None
        return results[0] if isinstance(results[0], bool) and results.count(results[0]) == len(results) else None

    def choose(self, routes: tuple[Route, ...]) -> tuple[Route, ...]:
        """The routes that it keeps, in its order."""
        if self.deny is not None:
            return ()
        if self.locality is not None:
            return tuple(route for route in routes if route.location == self.locality.removeprefix("only_"))
        by_name = {route.name: route for route in routes}
        return tuple(by_name[name] for name in self.routes if name in by_name)

    def spare(self, routes: tuple[Route, ...]) -> tuple[Route, ...]:
        """The routes that stay when it cannot be told whether it matches."""
        return () if self.deny is not None else tuple(route for route in routes if route.location == "local")


@dataclass(frozen=True, slots=True)
class Rules:
    """Applies the first rule that matches. Made by `compile_rules`.

    A rule that cannot be evaluated fails closed: it lets nothing leave the site, and if it is there to refuse, it
    refuses. The rules after it are still looked at.

    Attributes:
        reads: those of `policies.variables.VARIABLES` that the rules name; only these are put together for a request.
    """

    rules: tuple[Rule, ...] = ()
    reads: tuple[str, ...] = ()

    def __call__(self, request: Request, routes: tuple[Route, ...], snapshot: Snapshot) -> Verdict:
        """Drops with `denied_by_rule`, `no_route` and `rule_failed`."""
        if not self.rules:
            return Verdict(routes)
        kept = routes
        drops: tuple[Drop, ...] = ()
        contexts = [_context(self.reads, request, snapshot)]
        if snapshot.unknown:
            # With those classes and without them: a rule to which that makes no difference is told all the same.
            with_them = replace(snapshot, data_classes=snapshot.data_classes | snapshot.unknown)
            contexts.append(_context(self.reads, request, with_them))
        for rule in self.rules:
            holds = rule.holds(contexts, snapshot)
            if holds is False:
                continue
            chosen = rule.choose(kept) if holds else rule.spare(kept)
            if chosen != kept:
                reason = f"rule {rule.name}" if holds else f"rule {rule.name} failed"
                error = _refusal(rule, request) if holds else _broken(rule)
                drops += tuple(Drop(route, "rules", reason, error) for route in kept if route not in chosen)
                kept = chosen
            if holds:
                return Verdict(kept, drops, f"rule {rule.name}")
        return Verdict(kept, drops)


def compile_rules(settings: Sequence[RuleSettings]) -> Rules:
    """The rules, compiled once and tried out.

    Raises:
        RuleError: one does not compile, names something unknown, or does not give true or false.
    """
    if not settings:
        return Rules()
    rules = tuple(_compile(index, rule) for index, rule in enumerate(settings))
    return Rules(rules, tuple(sorted(frozenset[str]().union(*(rule.reads for rule in rules)))))


def _compile(index: int, rule: RuleSettings) -> Rule:
    import cel

    try:
        program = cel.compile(rule.when)
        reads = reads_of(rule.when, program)
        for request, snapshot in SAMPLES:
            result = program.execute(values_of(reads, request, snapshot))
            if not isinstance(result, bool):
                raise TypeError(f"it gives {result!r:.40}, not true or false")
    except FAILURES as error:
        message = f"unknown field {error}" if isinstance(error, KeyError) else str(error)
        raise RuleError(index, rule.name, f"rule {rule.name!r}: {message}") from error
    hold = rule.on_timeout == "hold"
    return Rule(rule.name, program, reads, rule.locality, tuple(rule.routes), rule.deny, hold)


def _context(reads: Sequence[str], request: Request, snapshot: Snapshot) -> cel.Context | None:
    """The variables as the library wants them; None: one cannot be said in CEL."""
    import cel

    try:
        return cel.Context(variables=values_of(reads, request, snapshot))
    except FAILURES:
        return None


def _refusal(rule: Rule, request: Request) -> BackendError:
    if rule.deny is not None:
        return InvalidRequest(rule.deny, code="denied_by_rule")
    wanted = f"{rule.locality.removeprefix('only_')} routes" if rule.locality else ", ".join(rule.routes)
    return InvalidRequest(
        f"The site's rule {rule.name!r} lets only {wanted} answer this request, and none of these serves the model "
        f"{request.model} now. Ask for another model.",
        code="no_route",
        param="model",
    )


def _broken(rule: Rule) -> BackendError:
    return Unavailable(
        f"The site's rule {rule.name!r} could not be evaluated for this request, so it must not go on. "
        "The site's operator has to correct the rule.",
        code="rule_failed",
    )
