"""One provider: its endpoints with their breakers, its key, its connections. All its models share them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx2

from backends.remote.breaker import Breaker
from backends.remote.settings import ProviderSettings

SLOW = 0.2  # weight of the newest figure in an average
PROBE_S = 5.0

Depart = Callable[[str, str, str, int], None]
"""(request id, provider, endpoint's host, bytes): called before anything is sent, each time. It notes what leaves, and
raises for a request that nobody has cleared for this provider."""


@dataclass(eq=False, slots=True)
class Endpoint:
    """One base URL.

    Attributes:
        host: as the egress ledger names it.
        ttft_s, tokens_per_s: averages of late; 0 while unknown.
    """

    base_url: str
    host: str
    breaker: Breaker
    ttft_s: float = 0.0
    tokens_per_s: float = 0.0
    urls: dict[str, httpx2.URL] = field(default_factory=dict)

    def url(self, path: str) -> httpx2.URL:
        """Of one of the API's paths; parsed once."""
        known = self.urls.get(path)
        if known is None:
            known = self.urls[path] = httpx2.URL(f"{self.base_url}/{path}")
        return known

    def answered(self, ttft_s: float) -> None:
        """Its first token came after `ttft_s`."""
        self.breaker.succeeded()
        self.ttft_s = ttft_s if not self.ttft_s else self.ttft_s + SLOW * (ttft_s - self.ttft_s)

    def finished(self, tokens: int, seconds: float) -> None:
        """An answer's tokens after the first came within `seconds`."""
        if tokens > 1 and seconds > 0:
            rate = tokens / seconds
            self.tokens_per_s = rate if not self.tokens_per_s else self.tokens_per_s + SLOW * (rate - self.tokens_per_s)


class Provider:
    """Made once for each `[[providers]]`; belongs to the gateway's event loop.

    Args:
        depart: the egress boundary.
        client: whose requests go out; it is closed with the provider.
    """

    def __init__(
        self,
        settings: ProviderSettings,
        depart: Depart,
        client: httpx2.AsyncClient,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.endpoints = [Endpoint(url, urlsplit(url).netloc, Breaker(clock)) for url in settings.base_urls]
        self.clock = clock
        self._depart = depart
        self._client = client
        self._headers = httpx2.Headers(
            {"content-type": "application/json", "accept-encoding": "gzip, deflate", **settings.headers}
            | ({"authorization": f"Bearer {settings.key}"} if settings.key else {})
        )
        self._extensions: Mapping[str, object] = {
            "timeout": {"connect": settings.connect_timeout_s, "pool": settings.connect_timeout_s}
        }
        self._prober: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        return self.settings.name

    async def post(self, endpoint: Endpoint, path: str, request_id: str, body: bytes) -> httpx2.Response:
        """Sends; returns once the head of the answer is there. Close the response. Raises httpx2's errors."""
        self._depart(request_id, self.name, endpoint.host, len(body))
        request = httpx2.Request(
            "POST", endpoint.url(path), headers=self._headers, content=body, extensions=self._extensions
        )
        return await self._client.send(request, stream=True)

    def start(self) -> None:
        """Begins to look after endpoints that are ill, so that no request has to find out that they are well."""
        if self._prober is None:
            self._prober = asyncio.create_task(self._probe(), name=f"probe of {self.name}")

    async def close(self) -> None:
        """Ends the probe and the connections."""
        if self._prober is not None:
            self._prober.cancel()
            self._prober = None
        await self._client.aclose()

    async def _probe(self) -> None:
        while True:
            await asyncio.sleep(PROBE_S)
            for endpoint in self.endpoints:
                if endpoint.breaker.state == "half_open" and endpoint.breaker.begin():
                    await self._knock(endpoint)

    async def _knock(self, endpoint: Endpoint) -> None:
        """A connection, and nothing sent over it: enough to tell a dead link or host from a living one."""
        parts = urlsplit(endpoint.base_url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            async with asyncio.timeout(self.settings.connect_timeout_s):
                _, writer = await asyncio.open_connection(parts.hostname, port)
        except OSError as error:  # TimeoutError is one
            endpoint.breaker.unreachable(f"no connection ({type(error).__name__})")
        else:
            writer.close()
            endpoint.breaker.succeeded()
