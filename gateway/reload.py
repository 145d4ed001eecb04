"""A new configuration without a restart: each is a whole application of its own; a request ends in the one it began in."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.config import Config, ConfigError
from gateway.state import Site, close_all

if TYPE_CHECKING:
    from gateway.routes.inference import Inference
    from gateway.shared import Shared

LOOK_S = 1.0
LONGEST_CLOSE_S = 600.0

log = logging.getLogger("outstation.config")


@dataclass(slots=True)
class Generation:
    """One configuration, put together.

    Attributes:
        policy: hash of everything in it that routes are decided by.
        running: requests that began in it and have not ended.
    """

    config: Config
    site: Site
    inference: Inference
    app: ASGIApp
    policy: str
    running: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)


class Gateway:
    """The ASGI application that uvicorn runs.

    Args:
        build: a generation from a configuration. Raises `ConfigError`.
        load: reads the configuration anew; None: it never changes.
    """

    def __init__(
        self,
        config: Config,
        make_shared: Callable[[Callable[[], Site]], Shared],
        build: Callable[[Config, Shared], Generation],
        load: Callable[[], Config] | None = None,
    ) -> None:
        self.shared = make_shared(lambda: self.current.site)
        self.current = build(config, self.shared)
        self.shared.boundary.shut(config.routing.offline)
        self._build = build
        self._load = load
        self._tasks: set[asyncio.Task[object]] = set()
        self._reloading = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        generation = self.current
        generation.running += 1
        try:
            await generation.app(scope, receive, send)
        finally:
            generation.running -= 1
            if not generation.running:
                generation.idle.set()

    async def reload(self) -> str:
        """Reads the file again; a bad one is refused whole and the old configuration stays. Returns what came of it."""
        if self._load is None:
            return "there is no file to read"
        async with self._reloading:
            try:
                config = await asyncio.to_thread(self._load)
                new = self._build(config, self.shared)
            except ConfigError as error:
                log.error("the new configuration is refused, the old one stays: %s", error)
                return str(error)
            old, self.current = self.current, new
            self.shared.boundary.shut(config.routing.offline)
            log.info("configuration reloaded: policy %s, was %s", new.policy, old.policy)
            if _listens_elsewhere(old.config, new.config):
                log.warning("server.host, server.port and [audit] change with the next start only")
            new.site.start()
            self._spawn(self._retire(old))
            return ""

    async def _retire(self, old: Generation) -> None:
        """Ends what the new generation has no use for, once no request of the old one runs."""
        if old.running:
            old.idle.clear()
            async with asyncio.timeout(LONGEST_CLOSE_S):
                await old.idle.wait()
        await close_all(self.shared.pool.keep(self.current.site.backends.values()))

    def _spawn(self, coroutine: Coroutine[None, None, object]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _live(self, receive: Receive, send: Send) -> None:
        """The lifespan protocol."""
        await receive()
        await self._start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def _start(self) -> None:
        self.shared.start()
        self.current.site.start()
        if self._load is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, lambda: self._spawn(self.reload()))
            if self.current.config.source:
                self._spawn(self._watch(self.current.config.source))

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await self.current.site.close()
        await close_all(self.shared.pool.keep(()))
        await asyncio.to_thread(self.shared.close)

    async def _watch(self, file: Path) -> None:
        """A changed file is read once it has been still for a moment: an editor may be in the middle of writing it."""
        known = _stamp(file)
        while True:
            await asyncio.sleep(LOOK_S)
            now = _stamp(file)
            if now is not None and now != known:
                await asyncio.sleep(LOOK_S / 4)
                if _stamp(file) == now:
                    known = now
                    await self.reload()


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _listens_elsewhere(old: Config, new: Config) -> bool:
    return (old.server.host, old.audit) != (new.server.host, new.audit)
