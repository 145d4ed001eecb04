"""The site as the gateway sees it: which models it serves, under which names, and how they are."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from backends.base import Backend
from backends.errors import BackendError, ModelNotFound, Unavailable
from backends.types import ModelState
from policies.base import Route, Snapshot

AUTO = "auto"
CLOSE_TIMEOUT_S = 10.0

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
        default: the model that `auto` prefers.
        find: a backend for a name that nobody serves yet (a model that was pulled since), or None.
    """

    def __init__(
        self,
        backends: Sequence[Backend],
        aliases: Mapping[str, str],
        default: str,
        find: Callable[[str], Backend | None] = lambda _: None,
    ) -> None:
        self.default = default
        self.backends = {backend.name: backend for backend in backends}
        self.aliases = dict(aliases)
        self._routes = {backend.name: _route(backend) for backend in backends}
        self._find = find
        self._starts: dict[str, asyncio.Task[None]] = {}

    def resolve(self, model: str) -> Resolved:
        """The candidate routes for the name that a client asks for.

        Raises:
            ModelNotFound: nobody serves it; the message lists what there is.
            Unavailable: `auto`, and no model is on the box.
        """
        name = self.aliases.get(model, model)
        how = f"alias {model}" if model in self.aliases else "named"
        if name == AUTO:
            if not self._routes:
                self._look_for(self.default)
            return Resolved(self._auto(), "auto" if model == AUTO else f"{how} for auto")
        name = name.removeprefix("local/")
        if name in self._routes or self._look_for(name):
            return Resolved((self._routes[name],), how)
        there = ", ".join([AUTO, *self._routes, *self.aliases])
        raise ModelNotFound(f"There is no model {model[:100]!r} here. Available: {there}.", param="model")

    def _look_for(self, name: str) -> bool:
        """Whether the name is served now. Costs a look into the store's folder, on a miss only."""
        backend = self._find(name)
        if backend is None:
            return False
        self.backends[backend.name] = backend
        self._routes[backend.name] = _route(backend)
        log.info("serving %s, which was pulled since the start", backend.name)
        return True

    def _auto(self) -> tuple[Route, ...]:
        if not self._routes:
            raise Unavailable(
                "No model is on this box yet. Run `outstation pull smollm2-135m-instruct`.",
                code="no_model",
                param="model",
            )
        return tuple(sorted(self._routes.values(), key=lambda route: route.model != self.default))

    def names(self) -> list[str]:
        """Every name that `resolve` knows: models, `auto`, aliases."""
        return [*self._routes, *([AUTO] if self._routes else []), *self.aliases]

    def snapshot(self, prompt_tokens: Mapping[str, int]) -> Snapshot:
        """The states now, by route name."""
        states = {self._routes[name].name: backend.state() for name, backend in self.backends.items()}
        return Snapshot(states, prompt_tokens)

    def states(self) -> list[ModelState]:
        """What each model does now."""
        return [backend.state() for backend in self.backends.values()]

    def not_ready(self) -> list[str]:
        """Why `auto` could not be answered now; empty: it could. A model that loads on first use counts as ready."""
        try:
            route = self.resolve(AUTO).routes[0]
        except BackendError as error:
            return [error.message]
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
        closing = [asyncio.create_task(backend.close()) for backend in self.backends.values()]
        if not closing:
            return
        _, late = await asyncio.wait(closing, timeout=CLOSE_TIMEOUT_S)
        for task in late:
            task.cancel()
        for task in set(closing) - late:
            if error := task.exception():
                log.error("a backend did not close: %s", type(error).__name__)


def _route(backend: Backend) -> Route:
    return Route(f"local/{backend.name}", backend.name, "local", backend.context_length, backend.capabilities)
