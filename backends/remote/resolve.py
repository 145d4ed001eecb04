"""Names to addresses, in threads of their own.

Without a link a lookup hangs for tens of seconds. In the event loop's own pool of threads a few of them would hold up
everything else that runs there, and each other: here the worst is one thread for each host that somebody asks for.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

KEPT_S = 30.0

Address = tuple[int, int, int, str, Any]
"""As getaddrinfo has it."""
Lookup = Callable[[str, int], list[Address]]


def look_up(host: str, port: int) -> list[Address]:
    """Asks the system. Blocks.

    Raises:
        OSError: no such host, or nobody to ask.
        ValueError: a name that cannot be one.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(*address[:3], "", address[4]) for address in found]


class Resolver:
    """One lookup of a host at a time, shared by all who wait; what it found is kept for a while, a failure is not.
    Belongs to one event loop.

    Args:
        clock: seconds.
    """

    def __init__(self, ask: Lookup = look_up, clock: Callable[[], float] = time.monotonic) -> None:
        self._ask = ask
        self._clock = clock
        self._asked: dict[tuple[str, int], Future[tuple[float, list[Address]]]] = {}

    async def addresses(self, host: str, port: int) -> list[Address]:
        """At least one. Whoever is cancelled leaves the lookup to the others, and to those who come later.

        Raises:
            OSError: no such host, or nobody to ask.
            ValueError: a name that cannot be one.
        """
        asked = self._asked.get((host, port))
        if asked is None or not self._good(asked):
            asked = self._asked[host, port] = self._begin(host, port)
        _, found = asked.result() if asked.done() else await asyncio.wrap_future(asked)
        return found

    def forget(self, host: str, port: int) -> None:
        """What was found leads nowhere (any more)."""
        asked = self._asked.get((host, port))
        if asked is not None and asked.done():
            del self._asked[host, port]

    def _good(self, asked: Future[tuple[float, list[Address]]]) -> bool:
        if not asked.done():
            return True
        return asked.exception() is None and self._clock() - asked.result()[0] < KEPT_S

    def _begin(self, host: str, port: int) -> Future[tuple[float, list[Address]]]:
        asked: Future[tuple[float, list[Address]]] = Future()
        asked.set_running_or_notify_cancel()  # from here on, no waiter's cancellation reaches it

        def run() -> None:
            try:
                found = self._ask(host, port)
                asked.set_result((self._clock(), found))
            except BaseException as error:  # noqa: BLE001 - the waiters' to handle
                asked.set_exception(error)

        try:
            threading.Thread(target=run, name=f"lookup of {host}", daemon=True).start()
        except RuntimeError as error:
            raise OSError(f"no thread for a lookup: {error}") from error
        return asked
