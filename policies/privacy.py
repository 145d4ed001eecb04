"""Drops remote routes whose provider may not see what the request holds, or has it redacted for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from backends.errors import InvalidRequest
from backends.types import Request
from policies.base import Drop, Route, Snapshot, Verdict

Action = Literal["allow", "redact", "deny"]


@dataclass(frozen=True, slots=True)
class Privacy:
    """What each provider may see.

    Attributes:
        rules: by provider, what each data class may do there; its own `default` is for the classes it does not name.
        default: for what neither says.
        findable: the classes that can be found, and so redacted; to redact any other means to deny it.
    """

    rules: Mapping[str, Mapping[str, Action]]
    default: Action
    findable: frozenset[str]

    def __call__(self, request: Request, routes: tuple[Route, ...], snapshot: Snapshot) -> Verdict:
        """Local routes stay as they are. A request that could not be searched goes to no provider, and one that could
        not be searched for some classes to none that may not see those."""
        classes = snapshot.data_classes | request.declared
        if not classes and not snapshot.scan_failed and not snapshot.unknown:
            return Verdict(routes)
        drops: list[Drop] = []
        redact: dict[str, frozenset[str]] = {}
        for route in routes:
            if route.location == "local":
                continue
            if snapshot.scan_failed:
                drops.append(_unsearched(route, []))
            elif denied := self._having(route, classes, "deny", snapshot):
                drops.append(_denied(route, denied))
            elif hidden := [cls for cls in sorted(snapshot.unknown) if self.action(route.provider, cls) != "allow"]:
                drops.append(_unsearched(route, hidden))
            elif duty := self._having(route, classes, "redact", snapshot):
                redact[route.name] = frozenset(duty)
        if not drops:
            return Verdict(routes, redact=redact)
        dropped = {drop.route.name for drop in drops}
        return Verdict(tuple(route for route in routes if route.name not in dropped), tuple(drops), redact=redact)

    def action(self, provider: str, cls: str) -> Action:
        """What that provider is to get of that data class."""
        rules = self.rules.get(provider, {})
        action = rules.get(cls) or rules.get("default") or self.default
        return "deny" if action == "redact" and cls not in self.findable else action

    def _having(self, route: Route, classes: frozenset[str], action: Action, snapshot: Snapshot) -> list[str]:
        """The classes for which that is to be done; what is said to be there and was not found is never redacted."""
        said = {cls: self.action(route.provider, cls) for cls in classes}
        said |= {cls: "deny" for cls in snapshot.unfound & classes if said[cls] == "redact"}
        return sorted(cls for cls in classes if said[cls] == action)


def _denied(route: Route, classes: list[str]) -> Drop:
    named = ", ".join(classes)
    error = InvalidRequest(
        f"The request holds data of the class {named}, which may not be sent to {route.provider}. "
        f"Leave it out, ask a local model, or have the operator allow it in that provider's `data`.",
        code="privacy_denied",
    )
    return Drop(route, "privacy", f"holds {named}", error)


def _unsearched(route: Route, classes: list[str]) -> Drop:
    """`classes`: what it could not be searched for; empty: anything."""
    named = f" ({', '.join(classes)})" if classes else ""
    error = InvalidRequest(
        f"The request could not be searched for personal data{named}, so it may not be sent to {route.provider}. "
        "Ask a local model, or send it in smaller parts.",
        code="privacy_scan_failed",
    )
    return Drop(route, "privacy", f"not searched{named}", error)
