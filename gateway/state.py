"""The site as the gateway sees it: which models it serves, under which names, and how they are."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from backends.base import Backend, Local, Remote
from backends.errors import BackendError, ModelNotFound, Unavailable
from backends.types import GENERATES, Kind, ModelState
from policies.base import Health, Route

AUTO = "auto"
CLOSE_TIMEOUT_S = 10.0
NO_CONNECTION = "no connection"  # as breakers say it
NO_LINK = "no link: no provider can be reached"
SWITCHED_OFF = "the operator's switch `routing.offline` is on"

log = logging.getLogger("outstation.site")


class Resolved(NamedTuple):
    """What a model name stands for: candidates in order of preference, and how they were found."""

    routes: tuple[Route, ...]
    reason: str


class Site:
    """The backends by name, their aliases and the default. Made by the composition root.

    Args:
        backends: in the operator's order.
        aliases: other name to model name or `auto`.
        default: the language model that `auto` prefers.
        defaults: the model that `auto` stands for in each other task; nothing is tried in its place.
        find: a backend for a name that nobody serves yet (a model that was pulled since), or None.
        remote: the routes of those backends that are not on the box, by backend name.
        switched_off: the operator lets nothing leave.
    """

    def __init__(
        self,
        backends: Sequence[Backend],
        aliases: Mapping[str, str],
        default: str,
        find: Callable[[str], Backend | None] = lambda _: None,
        remote: Mapping[str, Route] = MappingProxyType({}),
        *,
        switched_off: bool = False,
        defaults: Mapping[Kind, str] = MappingProxyType({}),
    ) -> None:
        self.default = default
        self.defaults = defaults
        self.backends = {backend.name: backend for backend in backends}
        self.aliases = dict(aliases)
        self._switched_off = switched_off
        self._routes = {backend.name: remote.get(backend.name) or _route(backend) for backend in backends}
        self._healths = {backend.name: backend for backend in backends if isinstance(backend, Remote)}
        self._several = len({route.provider for route in remote.values()}) > 1
        self._find = find
        self._starts: dict[str, asyncio.Task[None]] = {}

    def resolve(self, model: str, kind: Kind = "chat") -> Resolved:
        """The candidate routes for the name that a client asks for, to do a task of that kind.

        Raises:
            ModelNotFound: nobody serves it; the message lists what there is.
            Unavailable: `auto`, and no model is on the box.
        """
        name = self.aliases.get(model, model)
        how = f"alias {model}" if model in self.aliases else "named"
        if name == AUTO and kind not in GENERATES:
            name = self._default_for(kind)
        if name == AUTO:
            if not self._local():
                self._look_for(self.default)
            return Resolved(self._auto(), "auto" if model == AUTO else f"{how} for auto")
        name = name.removeprefix("local/")
        if name in self._routes or self._look_for(name):
            return Resolved((self._routes[name],), how)
        there = ", ".join([AUTO, *self._routes, *self.aliases])
        raise ModelNotFound(f"There is no model {model[:100]!r} here. Available: {there}.", param="model")

    def _default_for(self, kind: Kind) -> str:
        name = self.defaults.get(kind, "")
        if name in self._routes or (name and self._look_for(name)):
            return name
        raise Unavailable(
            f"No model for this task ({kind}) is on this box. Run `outstation pull {name or 'NAME'}`.",
            code="no_model",
            param="model",
        )

    def _look_for(self, name: str) -> bool:
        """Whether the name is served now. Costs a look into the store's folder, on a miss only."""
        backend = self._find(name)
        if backend is None:
            return False
        self.backends[backend.name] = backend
        self._routes[backend.name] = _route(backend)
        log.info("serving %s, which was pulled since the start", backend.name)
        return True

    @property
    def offline(self) -> str:
        """Why nothing may or can leave: the operator's switch, or no provider can be reached; empty: it can."""
        if self._switched_off:
            return SWITCHED_OFF
        # One provider that cannot be reached may be at fault itself; all of several say that it is the link.
        cut_off = self._several and all(one.health()[0].startswith(NO_CONNECTION) for one in self._healths.values())
        return NO_LINK if cut_off else ""

    def _local(self) -> list[Route]:
        return [route for route in self._generating() if route.location == "local"]

    def _generating(self) -> list[Route]:
        return [route for route in self._routes.values() if route.kinds & GENERATES]

    def _auto(self) -> tuple[Route, ...]:
        """The default, the other models on the box, and the providers' in the operator's order."""
        if not self._generating():
            raise Unavailable(
                "No language model is on this box yet. Run `outstation pull smollm2-135m-instruct`.",
                code="no_model",
                param="model",
            )
        return tuple(
            sorted(self._generating(), key=lambda route: (route.location == "remote", route.model != self.default))
        )

    def names(self) -> list[str]:
        """Every name that `resolve` knows and that can be reached now: models, `auto`, aliases."""
        reachable = [route for route in self._routes.values() if self._reachable(route)]
        known = [route.model for route in reachable]
        auto = [AUTO] if any(route.kinds & GENERATES for route in reachable) else []
        aliases = [alias for alias, target in self.aliases.items() if target.removeprefix("local/") in {*known, *auto}]
        return [*known, *auto, *aliases]

    def _reachable(self, route: Route) -> bool:
        return route.location == "local" or not (self.offline or self.health(route).reason)

    def routes(self) -> list[Route]:
        """Every route."""
        return list(self._routes.values())

    def local_states(self) -> dict[str, ModelState]:
        """What the models on the box do now, by route name."""
        local = [route for route in self._routes.values() if route.location == "local"]
        return {route.name: self.backends[route.model].state() for route in local}

    def health(self, route: Route) -> Health:
        """Of a remote route."""
        backend = self._healths.get(route.model)
        return Health(*backend.health()) if backend else Health()

    def states(self) -> list[ModelState]:
        """What each model on the box does now."""
        return list(self.local_states().values())

    def kinds(self, model: str) -> list[Kind]:
        """What a model that is served is asked for."""
        return sorted(self.backends[model].kinds)

    def not_ready(self) -> list[str]:
        """Why `auto` could not be answered now; empty: it could. A model that loads on first use counts as ready."""
        try:
            routes = self.resolve(AUTO).routes
        except BackendError as error:
            return [error.message]
        route = routes[0]
        if any(other.location == "remote" and self._reachable(other) for other in routes):
            return []
        state = self.backends[route.model].state()
        if state.status == "failed":
            return [f"{state.name} failed: {state.detail or 'see the log'}"]
        start = self._starts.get(state.name)
        if state.status in ("starting", "stopped") and start is not None and not start.done():
            return [f"{state.name} is loading"]
        return []

    def start(self) -> None:
        """Lets every backend load, in the background: the gateway listens meanwhile."""
        for backend in self.backends.values():
            self._starts[backend.name] = asyncio.create_task(self._start(backend))

    async def _start(self, backend: Backend) -> None:
        try:
            await backend.start()
        except BackendError as error:
            log.error("%s did not start: %s", backend.name, error.message)

    async def close(self) -> None:
        """Ends every backend; returns within `CLOSE_TIMEOUT_S`."""
        for start in self._starts.values():
            start.cancel()
        await close_all(self.backends.values())


async def close_all(backends: Iterable[Backend]) -> None:
    """Ends them together, within `CLOSE_TIMEOUT_S`."""
    closing = [asyncio.create_task(backend.close()) for backend in backends]
    if not closing:
        return
    _, late = await asyncio.wait(closing, timeout=CLOSE_TIMEOUT_S)
    for task in late:
        task.cancel()
    for task in set(closing) - late:
        if error := task.exception():
            log.error("a backend did not close: %s", type(error).__name__)


def _route(backend: Backend) -> Route:
    return Route(
        f"local/{backend.name}",
        backend.name,
        "local",
        backend.context_length,
        backend.capabilities,
        backend.kinds,
        parameters_b=backend.parameters_b if isinstance(backend, Local) else 0.0,
        sha256=backend.sha256 if isinstance(backend, Local) else "",
    )
