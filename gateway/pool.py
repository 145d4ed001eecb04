"""Backends by their settings: a new configuration that says the same of a model keeps its process and connections."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar, cast

from backends.base import Backend
from backends.memory import MemoryBudget

T = TypeVar("T")


class Pool:
    """One for the process. Belongs to the event loop.

    Attributes:
        memory: what the backends may take together; its limit is the present configuration's.
    """

    def __init__(self) -> None:
        self.memory = MemoryBudget()
        self._made: list[tuple[object, list[Backend]]] = []
        self._shared: list[tuple[object, object]] = []

    def get(self, settings: object, make: Callable[[], Sequence[Backend]]) -> list[Backend]:
        """The backends with exactly these settings, made if there are none."""
        for known, backends in self._made:
            if type(known) is type(settings) and known == settings:
                return backends
        backends = list(make())
        self._made.append((settings, backends))
        return backends

    def shared(self, settings: object, make: Callable[[], T]) -> T:
        """What several backends stand on, the same for the same settings. It is kept for good: it must hold nothing
        while none of them is there."""
        for known, thing in self._shared:
            if type(known) is type(settings) and known == settings:
                return cast("T", thing)
        made = make()
        self._shared.append((settings, made))
        return made

    def keep(self, wanted: Iterable[Backend]) -> list[Backend]:
        """Forgets all others; returns those: they are the caller's to close."""
        ids = {id(backend) for backend in wanted}
        kept: list[tuple[object, list[Backend]]] = []
        gone: list[Backend] = []
        for settings, backends in self._made:
            if any(id(backend) in ids for backend in backends):
                kept.append((settings, backends))
            else:
                gone += backends
        self._made = kept
        return gone
