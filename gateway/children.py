"""Further inferences that one HTTP request gives rise to: each has its own id, outcome and row in the audit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from backends.errors import BackendError
from gateway.errors import kind_of
from gateway.outcome import Outcome
from gateway.record import decision_of
from gateway.shared import Shared


class Children:
    """One for each generation of the configuration.

    Args:
        policy: hash of the policy in force.
    """

    def __init__(self, shared: Shared, policy: str) -> None:
        self._shared = shared
        self._policy = policy

    @contextmanager
    def outcome(self, parent: Outcome) -> Iterator[Outcome]:
        """The outcome of a further inference, booked at the end: `req_1.2` beside `req_1`."""
        child = Outcome(self._id(parent), parent.method, parent.path, parent.started, parent.key, parent.received)
        try:
            yield child
            child.end("success")
            child.status = child.status or 200
        except asyncio.CancelledError:
            child.end("cancelled")
            raise
        except BackendError as error:
            child.status = kind_of(error).status
            child.end("error", error.code)
            raise
        finally:
            self._shared.running_ids.discard(child.id)
            self._book(child)

    def _id(self, parent: Outcome) -> str:
        """One that no running request has: backends and the boundary tell requests apart by it."""
        while True:
            parent.inferences += 1
            found = f"{parent.id}.{parent.inferences}"
            if found not in self._shared.running_ids:
                self._shared.running_ids.add(found)
                return found

    def _book(self, child: Outcome) -> None:
        child.end("error")
        now = child.ended or time.monotonic()
        if child.request is not None:
            child.policy = self._policy
            self._shared.audit.decision(decision_of(child, now))
        self._shared.metrics.count(child, child.path, now)
