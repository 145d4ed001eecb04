"""A connection that does not wait for ever: a server that is stopped, or that is cut off, says nothing at all."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any, Final

import psycopg
from psycopg import waiting

from rag.store.engine import Row

LOOK_S: Final = 0.1
"""Between looks at the clock."""
MARGIN: Final = 1.2
"""Times the server's own bound: it says by itself that a statement has taken too long, where it can."""


class Silent(psycopg.OperationalError):
    """The server has said nothing for too long. The connection is closed then: nobody knows where it stands."""


def connection(statement_s: float) -> type[psycopg.Connection[Row]]:
    """A class of connections on which no more than `statement_s`, and a little, passes without a word."""

    class Bounded(psycopg.Connection[Row]):
        def wait(self, gen: Any, interval: float = LOOK_S, timeout: float | None = None) -> Any:
            # Each thread counts for itself: nobody has to come from outside to free it.
            return super().wait(_bounded(self, gen, statement_s * MARGIN), interval, timeout)

    return Bounded


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
