"""A new configuration without a restart: each is a whole application of its own. A request ends where it began."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.config import Config, ConfigError, check_exposure
from gateway.policies import only_declared
from gateway.providers import warm_up
from gateway.state import Site, close_all

if TYPE_CHECKING:
    from gateway.routes.inference import Inference
    from gateway.shared import Shared

LOOK_S = 1.0
SPARE_S = 30.0
STOP_S = 5.0
AT_START = (
    "server.host",
    "server.port",
    "server.drain_timeout_s",
    "audit",
    "logging",
    "documents.store",
    "documents.key_env",
    "documents.key_file",
)
"""What only a restart changes. Named in docs/configuration.md."""

log = logging.getLogger("outstation.config")


@dataclass(eq=False, slots=True)
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
        look_s: how often its file is looked at.
    """

    def __init__(
        self,
        config: Config,
        make_shared: Callable[[Callable[[], Site]], Shared],
        build: Callable[[Config, Shared], Generation],
        load: Callable[[], Config] | None = None,
        *,
        look_s: float = LOOK_S,
    ) -> None:
        self._known = _stamp(config.source)
        self.shared = make_shared(lambda: self.current.site)
        self.current = build(config, self.shared)
        self._bound(config)
        self._started = config
        self._build = build
        self._load = load
        self._look_s = look_s
        self._alive = [self.current]
        self._tasks: set[asyncio.Task[object]] = set()
        self._reloading = asyncio.Lock()
        self._stopping = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        with self.lease() as generation:
            await generation.app(scope, receive, send)

    @contextmanager
    def lease(self) -> Iterator[Generation]:
        """The configuration in force, for one request: it ends where it began."""
        generation = self.current
        generation.running += 1
        try:
            yield generation
        finally:
            generation.running -= 1
            if not generation.running:
                generation.idle.set()

    async def reload(self) -> str:
        """Reads the file again. A bad one is refused whole, and the old configuration stays.

        Returns:
            Why it was refused; empty: it is in force.
        """
        if self._load is None:
            return "there is no file to read"
        async with self._reloading:
            self._known = _stamp(self.current.config.source)
            try:
                read = await asyncio.to_thread(_prepared, self._load)
                config = self._as_it_runs(read)
                if self._stopping:
                    return "the gateway is stopping"
                new = self._build(config, self.shared)
            except Exception as error:
                expected = isinstance(error, ConfigError)
                why = str(error) if expected else type(error).__name__
                log.error("the new configuration is refused, the old one stays: %s", why, exc_info=not expected)
                await self._close_unused()
                return why
            self._put_in_force(new, read)
            return ""

    def _put_in_force(self, new: Generation, read: Config) -> None:
        old, self.current = self.current, new
        self._alive.append(new)
        self._bound(new.config)
        log.info("configuration reloaded: policy %s, was %s", new.policy, old.policy)
        if late := _needs_restart(self._started, read):
            log.warning("changed, but only with the next start: %s", ", ".join(late))
        _tell(new.config, old.config)
        new.site.start()
        self._spawn(self._retire(old))

    def _bound(self, config: Config) -> None:
        """What holds at once, for requests under way as well."""
        self.shared.boundary.shut(config.routing.offline)
        self.shared.archive.keep_days = config.responses.keep_days
        self.shared.archive.max_bytes = config.responses.max_mb << 20
        self.shared.pool.memory.limit = config.limits.memory_mb * (1 << 20) if config.limits.memory_mb else None

    def _as_it_runs(self, config: Config) -> Config:
        """With what cannot change as it is now. Raises `ConfigError` if that leaves an open address without a key."""
        now = self._started
        kept = {"host": now.server.host, "port": now.server.port, "drain_timeout_s": now.server.drain_timeout_s}
        server = config.server.model_copy(update=kept)
        config = config.model_copy(update={"server": server, "audit": now.audit, "logging": now.logging})
        check_exposure(config)
        return config

    async def _retire(self, old: Generation) -> None:
        """Ends what no later generation has a use for, once no request of the old one runs."""
        if old.running:
            old.idle.clear()
            longest_s = old.config.server.body_timeout_s + old.config.limits.total_timeout_s + SPARE_S
            try:
                async with asyncio.timeout(longest_s):
                    await old.idle.wait()
            except TimeoutError:
                log.error("%d requests of an old configuration did not end within %g s", old.running, longest_s)
        self._alive.remove(old)
        await self._close_unused()

    async def _close_unused(self) -> None:
        """Of the backends, those that belong to no generation that is alive."""
        wanted = [backend for generation in self._alive for backend in generation.site.backends.values()]
        await close_all(self.shared.pool.keep(wanted))

    def _spawn(self, coroutine: Coroutine[None, None, object]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _live(self, receive: Receive, send: Send) -> None:
        """The lifespan protocol."""
        await receive()
        self._start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._stop()
        await send({"type": "lifespan.shutdown.complete"})

    def _start(self) -> None:
        self.shared.start()
        self.current.site.start()
        self.shared.background.start(self.lease)
        self.shared.library.start(self.lease)
        _tell(self.current.config)
        if self._load is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, lambda: self._spawn(self.reload()))
            self._spawn(self._watch())

    async def _stop(self) -> None:
        self._stopping = True
        if self._load is not None:
            asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)
            # The default would end the process in the middle of its leaving.
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        if tasks := set(self._tasks):
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=STOP_S)
        await self.shared.library.stop()
        await self.shared.background.stop()
        await self.current.site.close()
        await close_all(self.shared.pool.keep(()))
        await asyncio.to_thread(self.shared.close)

    async def _watch(self) -> None:
        """A changed file is read once it has been still for a moment: an editor may be in the middle of writing it."""
        while True:
            await asyncio.sleep(self._look_s)
            source = self.current.config.source
            now = _stamp(source)
            if now is not None and now != self._known:
                await asyncio.sleep(self._look_s / 4)
                if _stamp(source) == now:
                    await self.reload()


def _prepared(load: Callable[[], Config]) -> Config:
    """Read and tried out, with all imports done that it needs: the event loop is not held up by that."""
    config = load()
    warm_up(config)
    return config


def _tell(config: Config, before: Config | None = None) -> None:
    for name in set(only_declared(config)).difference(only_declared(before) if before else ()):
        log.info(
            "data class %s: no text is searched for it, it counts where a header, a body or a key declares it", name
        )


def _stamp(file: Path | None) -> tuple[int, int, int] | None:
    try:
        status = file.stat() if file else None
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_size, status.st_ino) if status else None


def _needs_restart(started: Config, read: Config) -> list[str]:
    """Which of `AT_START` the file has otherwise. Port 0 is any."""
    differ = []
    for place in AT_START:
        old: object = started
        new: object = read
        for part in place.split("."):
            old, new = getattr(old, part), getattr(new, part)
        if old != new and (place, new) != ("server.port", 0):
            differ.append(place)
    return differ
