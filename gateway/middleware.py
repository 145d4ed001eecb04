"""Pure ASGI, behind the recorder: who may come in, and how much they may bring."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import RefusedError, file_too_large
from gateway.headers import header
from gateway.schemas.settings import AccessKey, ServerSettings

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
WILDCARDS = frozenset({"0.0.0.0", "::"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class HostGuard:
    """Refuses foreign `Host` names, so that a page on the web cannot reach the box by rebinding its own name to it.

    A rebinding page always comes under a name, so on a wildcard bind every IP literal is let in.
    Pages of other sites are refused for anything that changes or computes, by `Origin`.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        hosts = [host.lower() for host in ("localhost", settings.host, *settings.allowed_hosts)]
        self._app = app
        self._hosts = frozenset(hosts)
        self._suffixes = tuple(host[1:] for host in hosts if host.startswith("*."))
        self._origins = frozenset(settings.allowed_origins)
        self._any_address = settings.host in WILDCARDS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            host = header(scope, b"host") or ""
            if not self._allowed(_without_port(host.lower())):
                raise RefusedError(
                    403,
                    f"The host name {host[:100]!r} is not allowed here. Add it to `server.allowed_hosts`.",
                    code="host_not_allowed",
                )
            origin = header(scope, b"origin")
            if origin is not None and scope["method"] not in SAFE_METHODS and not self._same_site(origin, host):
                raise RefusedError(
                    403,
                    "Requests from other sites' pages are refused. Add the origin to `server.allowed_origins`.",
                    code="origin_not_allowed",
                )
        await self._app(scope, receive, send)

    def _allowed(self, host: str) -> bool:
        if host in self._hosts or "*" in self._hosts or (self._suffixes and host.endswith(self._suffixes)):
            return True
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return self._any_address or address.is_loopback

    def _same_site(self, origin: str, host: str) -> bool:
        return origin in self._origins or origin.partition("://")[2].lower() == host.lower()


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


class KeyGuard:
    """Asks for a key wherever one exists, on loopback as well; only the health checks stay open."""

    def __init__(self, app: ASGIApp, keys: Sequence[AccessKey]) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._keys and scope["path"] not in OPEN_PATHS:
            scope["outcome"].key = self._holder(header(scope, b"authorization"), header(scope, b"x-api-key"))
        await self._app(scope, receive, send)

    def _holder(self, authorization: str | None, api_key: str | None) -> str:
        """The name of the key; every key is compared, so that the time taken tells nothing."""
        scheme, _, token = (authorization or "").partition(" ")
        given = [token.strip()] if scheme.lower() == "bearer" else []
        given += [] if api_key is None else [api_key.strip()]
        digests = [hashlib.sha256(one.encode("latin-1", "replace")).digest() for one in given]
        matching = [key.name for digest in digests for key in self._keys if hmac.compare_digest(key.digest, digest)]
        if matching:
            return matching[0]
        raise RefusedError(
            401,
            "Wrong API key."
            if authorization or api_key
            else "This gateway needs an API key: `Authorization: Bearer KEY`, or `x-api-key: KEY`.",
            code="invalid_api_key",
            type="authentication_error",
            headers=[(b"www-authenticate", b"Bearer")],
        )


UPLOAD = ("POST", "/v1/files")
UPLOAD_S = 6 * 3600.0
"""For a whole file: half a GiB over Wi-Fi that is nearly gone."""
FORM_BYTES = 1 << 20
"""That a form may have beside its file. How large the file itself may be, whoever reads the form sees to."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """On a body.

    Attributes:
        wait_s: until more of it comes; total_s: until all of it is there.
        too_large: what is said of a larger one.
    """

    most_bytes: int
    wait_s: float
    total_s: float
    too_large: Callable[[], RefusedError]


class BodyLimit:
    """Refuses bodies over the limit, announced or streamed, before they are in memory; and those that never come.

    Args:
        most_mb: for a file that is uploaded (MiB): it is larger than any other body, and may take its time as long as
            it keeps coming.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings, most_mb: int) -> None:
        self._app = app
        self._max_bytes = settings.max_body_bytes
        self._timeout_s = settings.body_timeout_s
        self._any = Bounds(settings.max_body_bytes, self._timeout_s, self._timeout_s, self._too_large)
        upload_bytes = (most_mb << 20) + FORM_BYTES
        self._upload = Bounds(
            upload_bytes, self._timeout_s, max(UPLOAD_S, self._timeout_s), partial(file_too_large, most_mb)
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        bounds = self._upload if (scope["method"], scope["path"]) == UPLOAD else self._any
        announced = header(scope, b"content-length")
        if announced and announced.isdigit() and int(announced[:20]) > bounds.most_bytes:
            raise bounds.too_large()
        received = 0
        complete = False
        until = time.monotonic() + bounds.total_s

        async def counted() -> Message:
            nonlocal received, complete
            if complete:
                return await receive()
            try:
                async with asyncio.timeout(min(bounds.wait_s, max(0.0, until - time.monotonic()))):
                    message = await receive()
            except TimeoutError:
                raise self._too_slow() from None
            received += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if received > bounds.most_bytes:
                raise bounds.too_large()
            scope["outcome"].received = received
            return message

        await self._app(scope, counted, send)

    def _too_slow(self) -> RefusedError:
        return RefusedError(
            408,
            f"The body, or more of it, did not arrive within {self._timeout_s:g} s (`server.body_timeout_s`).",
            code="body_timeout",
            headers=[(b"connection", b"close")],
        )

    def _too_large(self) -> RefusedError:
        # The rest of the body is still on its way: only closing the connection gets rid of it.
        return RefusedError(
            413,
            f"The body is larger than {self._max_bytes} bytes (`server.max_body_bytes`).",
            code="body_too_large",
            headers=[(b"connection", b"close")],
        )
