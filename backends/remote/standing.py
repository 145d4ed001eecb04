"""What asking an endpoint has shown of it: how fast it is, and whether it is well."""

from __future__ import annotations

from dataclasses import dataclass

from backends.errors import BackendError, InvalidRequest
from backends.remote.provider import Endpoint

NEWEST = 0.2  # weight of the newest figure in an average
SLOWER = 3  # times the usual
LEAST_PATIENCE_S = 2.0  # whoever hangs up sooner says nothing of the endpoint
ANSWERED = frozenset({"provider_not_found"})  # ill is not the endpoint
MAY_SAY_HOW_LONG = frozenset({"provider_busy", "provider_key", "provider_error"})


@dataclass(slots=True)
class Pace:
    """How fast a model has been at one endpoint of late; 0 while unknown."""

    ttft_s: float = 0.0
    tokens_per_s: float = 0.0

    @property
    def patience_s(self) -> float:
        """For the first token. Longer is no longer a matter of chance."""
        return max(LEAST_PATIENCE_S, SLOWER * self.ttft_s)

    def began(self, ttft_s: float) -> None:
        self.ttft_s += (ttft_s - self.ttft_s) * (NEWEST if self.ttft_s else 1)

    def ended(self, tokens: int, seconds: float) -> None:
        """So many tokens came within `seconds`."""
        if tokens > 0 and seconds > 0:
            self.tokens_per_s += (tokens / seconds - self.tokens_per_s) * (NEWEST if self.tokens_per_s else 1)


def blame(endpoint: Endpoint, error: BackendError) -> None:
    """What a failure says of the endpoint."""
    breaker = endpoint.breaker
    if isinstance(error, InvalidRequest) or error.code in ANSWERED:
        breaker.succeeded()
    elif error.code == "provider_unreachable":
        breaker.unreachable("no connection")
    elif error.code in MAY_SAY_HOW_LONG:
        breaker.failed(error.code, error.retry_after)
    else:
        breaker.failed(error.code)


def left(endpoint: Endpoint, waited_s: float, patience_s: float) -> None:
    """Whoever asked went away before anything came: a client that hung up, or one whose deadline is shorter than any
    timeout of ours, so that an endpoint that stalls would never be found out."""
    if waited_s >= patience_s:
        endpoint.breaker.failed("provider_timeout")
    else:
        endpoint.breaker.abandoned()
