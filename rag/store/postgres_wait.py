"""A connection that does not wait for ever: a server that is stopped, or that is cut off, says nothing at all."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any, Final

import psycopg
from psycopg import waiting

from rag.store.engine import Row

BRIEF_S: Final = 10.0
"""For what a server that is well answers at once."""
LOOK_S: Final = 0.1
"""Between looks at the clock."""
MARGIN: Final = 1.2
"""Times the server's own bound: it says by itself that a statement has taken too long, where it can."""


class Silent(psycopg.OperationalError):
    """The server has said nothing for too long. The connection is closed then: nobody knows where it stands."""


class Bounded(psycopg.Connection[Row]):
    """On it no more than `silence_s` passes without a word."""

    silence_s: float = BRIEF_S

    def is_for(self, statement_s: float, *, at_once: bool = False) -> None:
        """What comes: statements that the server ends after `statement_s`. `at_once`: such as take no time."""
        silence_s = statement_s * MARGIN
        self.silence_s = min(BRIEF_S, silence_s) if at_once else silence_s

    def wait(self, gen: Any, interval: float = LOOK_S, timeout: float | None = None) -> Any:
        """See `psycopg.Connection.wait`. Each thread looks itself: nobody has to come from outside to free it."""
        return super().wait(_bounded(self, gen, self.silence_s), interval, timeout)


def _bounded(db: psycopg.Connection[Row], work: Any, silence_s: float) -> Generator[Any, Any, Any]:
    """The same steps, with a look at the clock at each."""
    heard = time.monotonic()
    try:
        wanted = next(work)
        while True:
            ready = yield wanted
            if ready != waiting.Ready.NONE:
                heard = time.monotonic()
            elif time.monotonic() - heard > silence_s:
                db.close()
                raise Silent("the server is silent")
            wanted = work.send(ready)
    except StopIteration as end:
        return end.value
