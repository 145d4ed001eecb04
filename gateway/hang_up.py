"""How a request learns that its client has gone: called by the connection, in place of a task that waits for it."""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import Scope

EXTENSION = "outstation.hang_up"


class HangUp:
    """One for each connection. A task that waited on ASGI's `receive` would cost a tenth of a short request, and its
    cancellation leaves cycles for the collector.

    Attributes:
        gone: the client has hung up.
    """

    __slots__ = ("_listeners", "gone")

    def __init__(self) -> None:
        self.gone = False
        self._listeners: list[Callable[[], None]] = []

    def listen(self, listener: Callable[[], None]) -> None:
        """Calls `listener` when the client hangs up; at once, if it has."""
        self._listeners.append(listener)
        if self.gone:
            listener()

    def forget(self, listener: Callable[[], None]) -> None:
        """It need not be told any more."""
        self._listeners.remove(listener)

    def tell(self) -> None:
        """The client has hung up."""
        self.gone = True
        for listener in list(self._listeners):
            listener()


def hang_up_of(scope: Scope) -> HangUp:
    """The one of a request's connection; a server that has none never tells."""
    found = scope.get("extensions", {}).get(EXTENSION)
    return found if isinstance(found, HangUp) else HangUp()
