"""One provider: its endpoints with their breakers, its key, its connections. All its models share them."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx2

from backends.remote.breaker import Breaker
from backends.remote.dial import dial
from backends.remote.reply import Reply
from backends.remote.settings import ProviderSettings
from backends.remote.transport import Target, Transport, target

Depart = Callable[[str, str, str, int], None]
"""(request id, provider, endpoint's host, bytes): called before anything is sent, each time. It notes what leaves, and
raises for a request that nobody has cleared for this provider."""


class StoppedAtBoundaryError(Exception):
    """`Depart` said no, by `error`. Nothing was sent, and nothing is known of the endpoint."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True, slots=True)
class Knocking:
    """How endpoints are looked after between requests: by a connection, over which nothing is sent.

    Attributes:
        ill_s: seconds between two knocks at an endpoint whose breaker is not closed.
        idle_s: the same at one that is well, if no request has heard from it meanwhile.
        allowed: asked before each knock; False while nothing may leave the site.
    """

    ill_s: float = 5.0
    idle_s: float = 15.0
    allowed: Callable[[], bool] = lambda: True


@dataclass(eq=False, slots=True)
class Endpoint:
    """One base URL.

    Attributes:
        host: as the egress ledger names it.
        heard_at: when it last answered or was knocked at, by the provider's clock.
    """

    base_url: str
    host: str
    breaker: Breaker
    heard_at: float = -math.inf
    targets: dict[str, Target] = field(default_factory=dict, repr=False)


class Provider:
    """Made once for each `[[providers]]`; belongs to the gateway's event loop.

    Args:
        depart: the egress boundary.
        transport: whose connections requests go over; it is closed with the provider.
        clock: seconds, for breakers and rates.
    """

    def __init__(
        self,
        settings: ProviderSettings,
        depart: Depart,
        transport: Transport,
        *,
        clock: Callable[[], float] = time.monotonic,
        knocking: Knocking | None = None,
    ) -> None:
        self.settings = settings
        self.endpoints = [Endpoint(url, urlsplit(url).netloc, Breaker(clock)) for url in settings.base_urls]
        self.clock = clock
        self._knocking = knocking or Knocking()
        self._depart = depart
        self._transport = transport
        # To unpack costs time, and a link that is worth packing for packs by itself: `identity`.
        self._headers = {"content-type": "application/json", "accept-encoding": "identity"}
        self._headers |= {"authorization": f"Bearer {settings.key}"} if settings.key else {}
        self._prober: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        return self.settings.name

    def health(self) -> tuple[str, float | None]:
        """(why it cannot be asked now, seconds until it can); ("", None) while an endpoint can."""
        if self.available is not None:
            return "", None
        soonest = min((endpoint.breaker for endpoint in self.endpoints), key=lambda breaker: breaker.retry_after)
        return soonest.reason or "resting after failures", soonest.retry_after

    @property
    def available(self) -> Endpoint | None:
        """The endpoint that a request would be sent to now."""
        return next((endpoint for endpoint in self.endpoints if endpoint.breaker.available), None)

    async def post(self, endpoint: Endpoint, path: str, request_id: str, body: bytes, until: float) -> Reply:
        """Sends; returns once the head of the answer is there. Close the reply.

        Args:
            until: the event loop's time (s) at which to give up.

        Raises:
            StoppedAtBoundaryError: it may not leave.
            httpx2.TransportError: no connection, or no answer over it.
        """
        to = endpoint.targets.get(path) or self._target(endpoint, path)
        try:
            self._depart(request_id, self.name, endpoint.host, len(body))
        except Exception as error:
            raise StoppedAtBoundaryError(error) from error
        reply = await self._transport.send(to, body, until, self.settings.connect_timeout_s)
        endpoint.heard_at = self.clock()
        return reply

    def start(self) -> None:
        """Begins to look after the endpoints, so that no request has to find out that one is dead, or well again.
        A second call does nothing."""
        if self._prober is None:
            self._prober = asyncio.create_task(self._look_after(), name=f"probe of {self.name}")

    async def close(self) -> None:
        """Ends the probe and the connections, at once. A second call does nothing."""
        prober, self._prober = self._prober, None
        if prober is not None:
            prober.cancel()
            await asyncio.wait([prober])
        await self._transport.aclose()

    def _target(self, endpoint: Endpoint, path: str) -> Target:
        try:
            made = target("POST", httpx2.URL(f"{endpoint.base_url}/{path}"), self._headers.items())
        except (ValueError, httpx2.InvalidURL) as error:
            raise httpx2.LocalProtocolError(str(error)) from None
        endpoint.targets[path] = made
        return made

    async def _look_after(self) -> None:
        while True:
            if self._knocking.allowed():
                await asyncio.gather(*(self._knock(endpoint) for endpoint in self.endpoints if self._due(endpoint)))
            await asyncio.sleep(min(self._knocking.ill_s, self._knocking.idle_s))

    def _due(self, endpoint: Endpoint) -> bool:
        if endpoint.breaker.state != "closed":
            return True
        return self.clock() - endpoint.heard_at >= self._knocking.idle_s

    async def _knock(self, endpoint: Endpoint) -> None:
        """Enough to tell a dead link, host or name from a living one."""
        parts = urlsplit(endpoint.base_url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            async with asyncio.timeout(self.settings.connect_timeout_s):
                connection = await dial(parts.hostname or "", port, self._transport.resolver)
        except (OSError, ValueError) as error:  # TimeoutError and a name that is none are among them
            # Until the next knock has had its time, no request need find out.
            pause_s = self._knocking.ill_s + self.settings.connect_timeout_s + 1
            endpoint.breaker.unreachable(f"no connection ({type(error).__name__})", pause_s)
        else:
            connection.close()
            endpoint.heard_at = self.clock()
            endpoint.breaker.reached()
