"""Whether an endpoint is worth asking: passive health and a circuit breaker. Pure but for its clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

State = Literal["closed", "open", "half_open"]

FAILURES = 3  # in a row, before an endpoint is left alone
FIRST_PAUSE_S = 2.0
LONGEST_PAUSE_S = 120.0
TRIAL_S = 30.0  # a trial that nobody reported back on has been lost; another may be made


class Breaker:
    """Closed: ask. Open: do not, until a pause has passed; it doubles with each failed trial. Half open: one trial at a
    time.

    Attributes:
        reason: what went wrong last; empty while all is well.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures = 0
        self._pause_s = FIRST_PAUSE_S
        self._until = 0.0
        self._opened = False
        self._cut_off = False
        self._trial_until = 0.0
        self.reason = ""

    @property
    def state(self) -> State:
        """As it is now."""
        if not self._opened:
            return "closed"
        return "open" if self._clock() < self._until else "half_open"

    @property
    def available(self) -> bool:
        """Whether a request may be sent now. Looking changes nothing."""
        if not self._opened:
            return True
        now = self._clock()
        return now >= self._until and now >= self._trial_until

    @property
    def retry_after(self) -> float:
        """Seconds until it is worth asking again."""
        return max(0.0, max(self._until, self._trial_until) - self._clock()) if self._opened else 0.0

    def begin(self) -> bool:
        """Takes the permission to send; in half-open state there is one. Report back with one of the others."""
        if not self.available:
            return False
        if self._opened:
            self._trial_until = self._clock() + TRIAL_S
        return True

    def abandoned(self) -> None:
        """Whoever had begun was cancelled before the endpoint showed how it is: another may make the trial."""
        self._trial_until = 0.0

    def succeeded(self) -> None:
        """It answered: whatever it was, it is well now."""
        self._failures, self._pause_s = 0, FIRST_PAUSE_S
        self._opened = self._cut_off = False
        self._trial_until, self.reason = 0.0, ""

    def failed(self, reason: str, pause_s: float | None = None) -> None:
        """It did not answer, or not usefully. `pause_s`: it said itself for how long (`Retry-After`)."""
        state, self.reason = self.state, reason
        if pause_s is not None:
            self._open(min(pause_s, LONGEST_PAUSE_S))
        elif state == "closed":
            self._failures += 1
            if self._failures >= FAILURES:
                self._open(self._pause_s)
        elif state == "half_open":
            self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
            self._open(self._pause_s)
        # Open already: an answer to what was sent before, which says nothing new.

    def unreachable(self, reason: str, pause_s: float | None = None) -> None:
        """Not even a connection: one such failure is enough, since the next would cost a request as much.

        `pause_s`: a probe looks again within that time, so no request need try.
        """
        self._failures = max(self._failures, FAILURES - 1)
        self.failed(reason, pause_s)
        self._cut_off = True

    def reached(self) -> None:
        """A connection was made and nothing asked: that heals only what no connection had broken."""
        if self._cut_off:
            self.succeeded()

    def _open(self, seconds: float) -> None:
        self._opened, self._cut_off = True, False
        self._until = self._clock() + seconds
        self._trial_until = 0.0
