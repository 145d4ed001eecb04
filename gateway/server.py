"""One process that listens, and leaves cleanly when told to."""

from __future__ import annotations

import contextlib
import gc
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from gateway.config import Config, ConfigError, check_exposure
from gateway.connection import Connection
from gateway.logging import set_up

BACKLOG = 1024

log = logging.getLogger("outstation.server")


def serve(config: Config, load: Callable[[], Config] | None = None) -> None:
    """Listens until SIGTERM or SIGINT, then drains within `server.drain_timeout_s` and returns.

    An open address without a key, a taken port, a configured model that is not there: says so and exits with 1.
    """
    set_up(config.logging)
    try:
        _serve(config, load)
    except ConfigError as error:
        raise SystemExit(f"Error: {error}") from None


def _serve(config: Config, load: Callable[[], Config] | None) -> None:
    from gateway.app import build_app

    check_exposure(config)
    with listen(config.server.host, config.server.port) as listener:
        host, port = listener.getsockname()[:2]
        config = config.model_copy(update={"server": config.server.model_copy(update={"port": port})})
        run(build_app(config, load=load), listener, config.server.drain_timeout_s, f"http://{_shown(host)}:{port}")


def listen(host: str, port: int) -> socket.socket:
    """A bound socket.

    Raises:
        ConfigError: the address is taken, not ours, or unknown.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise ConfigError(f"Cannot listen on {host}:{port}: {error.strerror}.") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"Cannot listen on {host}:{port}: {error.strerror}. Stop what runs there, or choose another with --port."
        ) from None
    return listener


def run(app: ASGIApp, listener: socket.socket, drain_timeout_s: float, url: str) -> None:
    """Serves `app` on `listener` until a signal comes."""
    server = _Server(
        uvicorn.Config(
            app,
            loop="auto",
            http=Connection,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_graceful_shutdown=max(1, round(drain_timeout_s)),
        ),
        url,
    )
    server.run(sockets=[listener])


class _Server(uvicorn.Server):
    """Exits with 0 after a signal; uvicorn would raise the signal once more, and die of it."""

    def __init__(self, config: uvicorn.Config, url: str) -> None:
        super().__init__(config)
        self._url = url

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # What is here now stays: the collector need not walk it again, and pauses get shorter.
        gc.collect()
        gc.freeze()
        # A request makes many small objects and no cycles to speak of: look for them less often.
        gc.set_threshold(20_000, 20, 50)
        # The loop notes each asynchronous generator, to close forgotten ones at its end; ours are closed where they are
        # used, and the notes show in a profile. Those that are dropped unfinished are still finalised.
        sys.set_asyncgen_hooks(firstiter=None, finalizer=sys.get_asyncgen_hooks().finalizer)
        log.info("listening on %s/v1", self._url)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if self.force_exit:
            # A second signal cuts the drain short, but the models' processes still have to be ended.
            await self.lifespan.shutdown()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        def stop(number: int, frame: FrameType | None) -> None:
            if self.should_exit:
                self.force_exit = True
            self.should_exit = True

        before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
