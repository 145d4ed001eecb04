"""What is done where a signal of a request is too high: it is flagged, refused, or kept to some routes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from backends.errors import BackendError, InvalidRequest, Unavailable
from backends.types import GENERATES, Request
from policies.base import Drop, Route, Snapshot, Verdict
from policies.signals import JUDGED, TOO_LONG

RETRIEVED_ABOVE = 0.99
"""Of retrieved text, which is judged sentence by sentence: of so many one is soon mistaken for an attack."""


class GuardSettings(Protocol):
    """A guard as configured."""

    @property
    def signal(self) -> str: ...
    @property
    def above(self) -> float: ...
    @property
    def action(self) -> str: ...
    @property
    def locality(self) -> str | None: ...
    @property
    def routes(self) -> tuple[str, ...]: ...
    @property
    def on_timeout(self) -> str: ...
    @property
    def retrieved(self) -> bool: ...
    @property
    def retrieved_above(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class Guard:
    """One of them.

    Attributes:
        reads: the signal's name in a snapshot.
        hold: it holds while the signal is not known.
        retrieved_above: as `above`, of retrieved text.
    """

    signal: str
    reads: str
    above: float
    action: str
    locality: str | None
    routes: tuple[str, ...]
    hold: bool
    retrieved_above: float = RETRIEVED_ABOVE

    def said(self, snapshot: Snapshot) -> str:
        """Why it holds, in a few words; empty: it does not."""
        if self.reads in snapshot.late_signals:
            return f"{self.signal} not known in time" if self.hold else ""
        for name, bound in self._bounds(snapshot):
            value = snapshot.signals.get(name, 0.0)
            if isinstance(value, float) and value > bound:
                return f"{self.signal} {value:.2f}"
        return ""

    def _bounds(self, snapshot: Snapshot) -> tuple[tuple[str, float], ...]:
        """What is compared with what."""
        user, retrieved = f"{self.signal}_user", f"{self.signal}_retrieved"
        if self.reads in JUDGED and {user, retrieved} <= snapshot.signals.keys():
            return (user, self.above), (retrieved, self.retrieved_above)
        return ((self.reads, self.above),)

    def choose(self, routes: tuple[Route, ...]) -> tuple[Route, ...]:
        """The routes that it keeps, in its order."""
        if self.action == "flag":
            return routes
        if self.locality is not None:
            return tuple(route for route in routes if route.location == self.locality.removeprefix("only_"))
        by_name = {route.name: route for route in routes}
        return tuple(by_name[name] for name in self.routes if name in by_name)

    def refusal(self, request: Request, *, late: bool, too_long: bool = False) -> BackendError:
        """What the client is told if no route is left. `late`: the signal is not known; `too_long`: nor will it be."""
        if self.action == "route":
            return InvalidRequest(
                f"The site lets only some routes answer this request (guard: {self.signal}), and none of these serves "
                f"the model {request.model} now. Ask for another model.",
                code="no_route",
                param="model",
            )
        if late and not all(isinstance(prompt, str) for prompt in request.prompts):
            return InvalidRequest(
                f"The site judges what it answers ({self.signal}), and token ids cannot be judged. Send the text.",
                code="not_judged",
                param="prompt",
            )
        if late and too_long:
            return InvalidRequest(
                f"The site judges what it answers ({self.signal}), and this text is too long to be judged. Send less.",
                code="not_judged",
            )
        if late:
            return Unavailable(
                f"This request must be judged ({self.signal}) before it is answered, which took too long. Try again.",
                code="not_judged",
                retry_after=1.0,
            )
        return InvalidRequest(
            f"The site does not answer this request: its text was judged to be {_CALLED[self.signal]}.",
            code="content_blocked",
            extra={"category": self.signal},
        )


_CALLED = {"injection": "a prompt injection", "toxicity": "toxic", "difficulty": "too difficult"}


@dataclass(frozen=True, slots=True)
class Guards:
    """Applies all that hold: those that block, then the others in the operator's order. They judge what a language
    model would answer, nothing else."""

    guards: tuple[Guard, ...] = ()

    def __call__(self, request: Request, routes: tuple[Route, ...], snapshot: Snapshot) -> Verdict:
        """Drops with `content_blocked`, `not_judged` and `no_route`."""
        if not self.guards or request.kind not in GENERATES:
            return Verdict(routes)
        kept, drops, reasons = routes, tuple[Drop, ...](), list[str]()
        for guard in self.guards:
            if not (said := guard.said(snapshot)):
                continue
            reasons.append(f"guard: {said}")
            chosen = guard.choose(kept)
            if chosen != kept:
                late = snapshot.late_signals
                error = guard.refusal(request, late=guard.reads in late, too_long=TOO_LONG in late)
                drops += tuple(Drop(route, "guards", said, error) for route in kept if route not in chosen)
                kept = chosen
        return Verdict(kept, drops, "; ".join(dict.fromkeys(reasons)))


def guards_of(settings: Sequence[GuardSettings]) -> Guards:
    """The guards as configured."""
    return Guards(tuple(_guard(one) for one in sorted(settings, key=lambda one: one.action != "block")))


def _guard(settings: GuardSettings) -> Guard:
    judged = settings.signal in JUDGED and not settings.retrieved
    return Guard(
        settings.signal,
        f"{settings.signal}_user" if judged else settings.signal,
        settings.above,
        settings.action,
        settings.locality,
        tuple(settings.routes),
        settings.on_timeout == "hold",
        max(settings.above, RETRIEVED_ABOVE) if settings.retrieved_above is None else settings.retrieved_above,
    )
