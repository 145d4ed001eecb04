"""The audit: every decision with its outcome, and every departure before it leaves. Never a text.

The event loop only queues; one thread of its own serialises, hashes and commits what has gathered. A departure is in
its journal before `depart` returns, so that it survives the end of the process at any moment.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from backends.errors import Unavailable
from gateway.audit_rows import Decision, Departure, Ending, departure_line, departure_row
from gateway.audit_store import what_is_wrong
from gateway.audit_verify import Verification, verify
from gateway.audit_writer import Item, Writer

if TYPE_CHECKING:
    from gateway.audit_reader import Spent

__all__ = ["Audit", "Decision", "Departure", "Ending", "Verification", "verify"]

log = logging.getLogger("outstation.audit")

GATHER_S: Final = 0.02
RETRY_S: Final = 1.0
IDLE_S: Final = 60.0
OPEN_S: Final = 5.0
CLOSE_S: Final = 10.0
MOST_WAITING: Final = 10_000
DAY_S: Final = 86_400.0


class Audit:
    """The audit of one home. `decision` and `depart` belong to the event loop's thread, and wait for nothing.

    Attributes:
        why: what is wrong; empty: nothing.
        lost: decisions that could not be kept.
    """

    def __init__(
        self,
        path: Path,
        keep_days: int,
        on_open: Callable[[Iterable[Spent]], None] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Opens nothing yet.

        Args:
            keep_days: older rows are removed.
            on_open: gets what was spent, on the event loop's thread, before anything may leave. Without it, an audit
                that does not open at once lets nothing leave until the next start.
            clock: Unix time (s).
        """
        self._path = path
        self._on_open = on_open
        self._clock = clock
        self._queue: deque[Item] = deque()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._tried = threading.Event()
        self._idle = False
        self._thread: threading.Thread | None = None
        self._writer = Writer(path, keep_days * DAY_S, clock, self._queue, self._closing)
        self._counted = False
        self._departed = 0
        self._journal_why = ""
        self._overflow = 0

    @property
    def healthy(self) -> bool:
        """Whether something may leave."""
        return not self.why

    @property
    def why(self) -> str:
        if self._thread is None:
            return "The audit has not been started."
        return self._writer.why or self._journal_why

    @property
    def lost(self) -> int:
        return self._overflow + self._writer.lost

    def start(self) -> None:
        """Opens the file and ends what a crash left open. A file that cannot be opened is tried again and again."""
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()
        self._tried.wait(OPEN_S)
        if self._writer.spent is not None:
            self._count(self._writer.spent)

    def close(self) -> None:
        """Writes what is queued, and ends the thread."""
        if self._thread is None:
            return
        self._counted = False
        self._closing.set()
        self._wake.set()
        self._thread.join(CLOSE_S)
        self._thread = None

    def decision(self, decision: Decision) -> None:
        """Keeps the outcome of a request: once, at its end."""
        if len(self._queue) >= MOST_WAITING or self._thread is None:
            if not self._overflow:
                log.error("decisions are being lost: %s", self.why or "the disk is too slow")
            self._overflow += 1
            return
        self._put(decision)

    def depart(
        self,
        request_id: str,
        provider: str,
        host: str,
        n_bytes: int,
        classes: frozenset[str],
        redacted: bool,
        reserved_usd: float,
        key: str = "",
    ) -> None:
        """Writes that something leaves, before it does. Returns once the end of the process cannot undo it.

        Args:
            reserved_usd: what this send may cost; charged if the process ends before the request's decision.
            key: name of the API key that is charged then.

        Raises:
            Unavailable: it cannot be written, so nothing may be sent.
        """
        # Half of the queue is kept for the decisions of what has left already.
        if self._writer.why or not self._counted or len(self._queue) >= MOST_WAITING // 2:
            raise self._refusal()
        number = self._departed = self._departed + 1
        departure = Departure(
            number,
            request_id,
            self._clock(),
            provider,
            host,
            n_bytes,
            tuple(sorted(classes)),
            redacted,
            reserved_usd,
            key,
        )
        line = departure_line(departure)
        try:
            full = self._writer.journal.append(line)
        except OSError as error:
            self._journal_why = f"The egress journal is not available: {what_is_wrong(error)}."
            log.error("%s (%s)", self._journal_why, self._path.parent)
            raise self._refusal() from error
        self._journal_why = ""
        self._put(departure_row(departure, line))
        if full is not None:
            self._put(full)

    def _put(self, item: Item) -> None:
        self._queue.append(item)
        if self._idle:
            self._idle = False
            self._wake.set()

    def _count(self, spent: Iterable[Spent]) -> None:
        if self._on_open:
            self._on_open(spent)
        self._departed = self._writer.departed
        self._counted = True

    def _refusal(self) -> Unavailable:
        if self._thread is not None and not self._counted and self._writer.spent is not None and self._on_open:
            # This request was decided before anyone knew what had been spent; the next one is not.
            self._count(self._writer.spent)
        why = self.why or (
            "The audit was opened late. Restart the gateway."
            if not self._counted and not self._on_open
            else "The audit cannot keep up. Try again in a moment."
        )
        return Unavailable(
            f"Nothing may leave the site now, because it could not be recorded. {why}",
            code="audit_unavailable",
            retry_after=RETRY_S,
        )

    def _run(self) -> None:
        """The thread."""
        while True:
            closing = self._closing.is_set()
            done = self._writer.work()
            self._tried.set()
            if closing:
                self._writer.finish()
                return
            if not done:
                self._closing.wait(RETRY_S)
                continue
            self._idle = True
            if not self._queue:
                self._wake.wait(IDLE_S)
            self._idle = False
            self._wake.clear()
            # One wake-up, one transaction and one change of threads for all that comes within this time.
            self._closing.wait(GATHER_S)
