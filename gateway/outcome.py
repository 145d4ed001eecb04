"""What became of one request: written by whoever handles it, read once, at the end, by the log and the metrics."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from backends.errors import BackendError
from backends.types import Chunk, Event, Request, Usage
from policies.base import Route

if TYPE_CHECKING:
    from gateway.planning import Decided

_random = random.Random()  # seeded by the system; an id has to be unlike others, not hard to guess


def new_id() -> str:
    """24 hex digits."""
    return f"{_random.getrandbits(96):024x}"


Ending = Literal["success", "error", "cancelled"]


@dataclass(slots=True)
class Outcome:
    """One per request, whatever it asks for. Times are of the monotonic clock, in seconds.

    Attributes:
        key: name of the API key that it came with.
        received: bytes of its body.
        ending: set once, and when; None while it runs.
        error: the code of the error that ended it.
        reasons: why this route, in a few words each.
        attempts: routes that were asked to generate; `tried`: with how each ended and after how many seconds.
        finished: choices that have their finish_reason.
        decided: the last plan, with what it was made from.
        last_failure: of the attempt before; the next route is chosen by it.
        costs: US dollars by the name of the route that they were spent on.
        policy: hash of the policy that decided.
        inferences: that its request gave rise to so far; those after the first have outcomes of their own.
    """

    id: str
    method: str = ""
    path: str = ""
    started: float = field(default_factory=time.monotonic)
    key: str = ""
    received: int = 0
    status: int = 0
    ending: Ending | None = None
    ended: float | None = None
    error: str = ""
    stream: bool = False
    route: Route | None = None
    reasons: list[str] = field(default_factory=list)
    attempts: int = 0
    usage: Usage | None = None
    finished: int = 0
    first_at: float | None = None
    request: Request | None = None
    decided: Decided | None = None
    tried: list[tuple[str, str, float]] = field(default_factory=list)
    last_failure: BackendError | None = None
    costs: dict[str, float] = field(default_factory=dict)
    redacted: bool = False
    continued: bool = False
    policy: str = ""
    inferences: int = 1
    _committed: bool = False
    _last_at: dict[int, float] = field(default_factory=dict)

    @property
    def committed(self) -> bool:
        """Whether the client has seen a part of an answer: from here on, no other route may answer."""
        return self._committed

    @property
    def cost_usd(self) -> float:
        """What all attempts cost together."""
        return sum(self.costs.values())

    @property
    def reason(self) -> str:
        """For the header: one line of printable ASCII, whatever a provider called its error."""
        line = "; ".join(self.reasons).encode("ascii", "replace").decode()[:500]
        return line if line.isprintable() else "".join(char if char.isprintable() else "?" for char in line)

    def end(self, ending: Ending, error: str = "") -> None:
        """The first ending counts; what comes after it (a client that hangs up once it has all) changes nothing."""
        if self.ending is None:
            self.ending, self.ended, self.error = ending, time.monotonic(), error

    def trade(self, other: Outcome) -> None:
        """Of two inferences of one request, which is the request's own: the failed one of this outcome goes to the
        other's row, and what the other has answered to this one's, which is not over yet."""
        for name in ("route", "attempts", "usage", "finished", "first_at", "request", "decided", "tried", "costs"):
            mine, theirs = getattr(self, name), getattr(other, name)
            setattr(self, name, theirs)
            setattr(other, name, mine)
        self.reasons, other.reasons = [*other.reasons, *self.reasons], self.reasons
        other.ending, other.ended, other.error = self.ending, self.ended, self.error
        self.ending, self.ended, self.error = None, None, ""

    def begin(self, route: Route) -> None:
        """Another route is attempted. What one before it said has reached nobody, or stays."""
        self.route, self.attempts = route, self.attempts + 1
        if not self._committed:
            self.finished, self.usage, self.first_at = 0, None, None
            self._last_at.clear()

    def failed(self, error: BackendError) -> None:
        """The attempt under way failed."""
        self.last_failure = error
        if self.route and not self._committed:
            self.reasons.append(f"{self.route.name} failed: {error.code}")

    def told(self) -> None:
        """What comes next goes to the client."""
        if self.stream:
            self._committed = True

    def saw(self, event: Event, observe_gap: Callable[[float], object]) -> None:
        """Notes a chunk or the usage as it passes. `observe_gap` gets the seconds since the choice's last token."""
        now = time.monotonic()
        if self.first_at is None:
            self.first_at = now
        if isinstance(event, Usage):
            self.usage = event
            return
        self._saw_chunk(event, now, observe_gap)

    def _saw_chunk(self, chunk: Chunk, now: float, observe_gap: Callable[[float], object]) -> None:
        if chunk.finish_reason:
            self.finished += 1
        if not chunk.tokens and not chunk.text:
            return
        last = self._last_at.get(chunk.index)
        if last is not None:
            observe_gap(now - last)
        self._last_at[chunk.index] = now
