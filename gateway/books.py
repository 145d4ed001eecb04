"""What one request leaves for the next: money spent, how well time was told, who asked for a tool call, retries."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from backends.types import Chunk, Request
from gateway.estimates import Estimates
from gateway.spending import Spending
from policies.base import Route

REMEMBERED = 4096
LONGEST_ID = 200
RETRY_SHARE = 0.1
MOST_RETRIES = 10.0


class RetryBudget:
    """Retries are a tenth of the requests at most, with a few to begin with: a provider that is down gets no storm."""

    def __init__(self) -> None:
        self._tokens = MOST_RETRIES

    def earn(self) -> None:
        """A request came."""
        self._tokens = min(MOST_RETRIES, self._tokens + RETRY_SHARE)

    def take(self) -> bool:
        """Whether one more try is affordable; if so, it is paid."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class Books:
    """One for the process: it outlives a reload. Belongs to the event loop."""

    def __init__(self, spending: Spending, estimates: Estimates) -> None:
        self.spending = spending
        self.estimates = estimates
        self.retries = RetryBudget()
        self._tool_calls: OrderedDict[tuple[str, str], str] = OrderedDict()

    def saw(self, chunk: Chunk, route: Route, key: str) -> None:
        """Remembers who asked for a tool call: its result must go back there. Each API key has its own."""
        for id_ in _call_ids(chunk):
            self._tool_calls[key, id_] = route.name
            if len(self._tool_calls) > REMEMBERED:
                self._tool_calls.popitem(last=False)

    def asked_by(self, request: Request) -> str:
        """The route whose tool call this request answers; empty: none, or not known any more."""
        if not self._tool_calls or not request.messages:
            return ""
        last: Any = request.messages[-1]
        if last.get("role") != "tool":
            return ""
        return self._tool_calls.get((request.key, str(last.get("tool_call_id"))), "")


def _call_ids(chunk: Chunk) -> list[str]:
    if chunk.wire is None:
        return [piece.id for piece in chunk.tools if piece.id]
    said = chunk.wire.get("delta") or chunk.wire.get("message") or {}
    calls = [call.get("id") for call in said.get("tool_calls") or () if isinstance(call, dict)]
    return [id_ for id_ in calls if isinstance(id_, str) and len(id_) <= LONGEST_ID]
