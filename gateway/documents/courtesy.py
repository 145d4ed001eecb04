"""Who computes first: those who wait for a search, before files that are read in."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Final

RECENT_S: Final = 2.0
"""After a search the next one is expected: one core is left free for it."""
MOST_WAIT_S: Final = 1.0
"""That a turn waits for searches: files are read in, however many there are."""


class Courtesy:
    """Turns of a process's work for files.

    Args:
        at_once: turns where nobody searches.
        clock: monotonic (s).
    """

    def __init__(
        self, at_once: int, clock: Callable[[], float] = time.monotonic, most_wait_s: float = MOST_WAIT_S
    ) -> None:
        self._most_wait_s = most_wait_s
        self._at_once = at_once
        self._clock = clock
        self._searches = 0
        self._searched_at = float("-inf")
        self._turns = 0
        self._changed = asyncio.Event()

    @contextlib.contextmanager
    def searching(self) -> Iterator[None]:
        """While it lasts, no turn begins."""
        self._searches += 1
        try:
            yield
        finally:
            self._searches -= 1
            self._searched_at = self._clock()
            self._changed.set()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """One turn."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._most_wait_s):
                while not self._may_begin():
                    self._changed.clear()
                    await self._changed.wait()
        self._turns += 1
        try:
            yield
        finally:
            self._turns -= 1
            self._changed.set()

    def _may_begin(self) -> bool:
        recent = self._clock() - self._searched_at < RECENT_S
        return not self._searches and self._turns < (1 if recent else self._at_once)
