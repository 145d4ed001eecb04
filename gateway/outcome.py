"""What became of one request: written by whoever handles it, read once, at the end, by the log and the metrics."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from backends.types import Chunk, Event, Usage
from policies.base import Route

Ending = Literal["success", "error", "cancelled"]


@dataclass(slots=True)
class Outcome:
    """One per request, whatever it asks for. Times are of the monotonic clock, in seconds.

    Attributes:
        key: name of the API key that it came with.
        ending: set once; None while it runs.
        error: the code of the error that ended it.
        reasons: why this route, in a few words each.
        attempts: routes that were asked to generate.
        finished: choices that have their finish_reason.
    """

    id: str
    method: str = ""
    path: str = ""
    started: float = field(default_factory=time.monotonic)
    key: str = ""
    status: int = 0
    ending: Ending | None = None
    error: str = ""
    stream: bool = False
    route: Route | None = None
    reasons: list[str] = field(default_factory=list)
    attempts: int = 0
    usage: Usage | None = None
    finished: int = 0
    first_at: float | None = None
    _last_at: dict[int, float] = field(default_factory=dict)

    @property
    def committed(self) -> bool:
        """Whether an answer has begun: from here on, no other route may answer."""
        return self.first_at is not None

    @property
    def reason(self) -> str:
        """For the header: one line of ASCII."""
        return "; ".join(self.reasons).encode("ascii", "replace").decode()[:500]

    def end(self, ending: Ending, error: str = "") -> None:
        """The first ending counts; what comes after it (a client that hangs up once it has all) changes nothing."""
        if self.ending is None:
            self.ending, self.error = ending, error

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
