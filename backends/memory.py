"""How much memory models need, and a limit on what all of them take together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from backends.errors import Unavailable

SMALL_FACTOR = 2
"""Of a small model's files: weights are unpacked, and a run needs room beside them."""
RUNTIME_BYTES = 96 << 20
"""Of the process of all small models, before the first of them: its libraries."""
RETRY_S = 30.0


def memory_need(file_bytes: int, kv_bytes_per_cell: int, cells: int) -> int:
    """Bytes that an LLM takes: its weights, and a KV cache of so many cells."""
    return file_bytes + kv_bytes_per_cell * cells


def small_memory_need(file_bytes: int) -> int:
    """Bytes that a small model takes in the process of them all, with files of that size."""
    return SMALL_FACTOR * file_bytes


class _Ending(Protocol):
    async def ended(self) -> str: ...


P = TypeVar("P", bound=_Ending)


class MemoryBudget:
    """What models on the box may take together, and who has how much of it. Belongs to the event loop.

    Attributes:
        limit: bytes; None: there is none. It may be changed; what has been taken stays.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        # By the process that holds it and the model's name.
        self._taken: dict[tuple[int, str], int] = {}
        self._watches: set[asyncio.Task[None]] = set()

    @property
    def used(self) -> int:
        """Bytes that are taken."""
        return sum(self._taken.values())

    def check(self, name: str, need: int) -> None:
        """Raises `Unavailable` if `need` more bytes do not fit; the message says who has the others."""
        if self.limit is not None and self.used + need > self.limit:
            raise Unavailable(
                f"The model {name} needs about {_mib(need)} of the {_mib(self.limit)} that `limits.memory_mb` allows "
                f"all models, and {self._held()}.",
                retry_after=RETRY_S,
                code="memory_limit",
            )

    def take(self, process: object, name: str, need: int) -> None:
        """Takes `need` bytes for a model in a process, once, until the process ends or gives them back.

        Raises:
            Unavailable: it does not fit.
        """
        if (id(process), name) not in self._taken:
            self.check(name, need)
            self._taken[id(process), name] = need

    def give_back(self, process: object, name: str = "") -> None:
        """What the model has in the process; without a name: what all have."""
        for key in [key for key in self._taken if key[0] == id(process) and name in (key[1], "")]:
            del self._taken[key]

    def guarded(
        self, name: str, need: Callable[[], int], spawn: Callable[[], Awaitable[P]]
    ) -> Callable[[], Awaitable[P]]:
        """`spawn`, which takes what the model needs before it starts a process, until that process has ended."""

        async def start() -> P:
            before = object()
            self.take(before, name, need())
            try:
                process = await spawn()
                self._taken[id(process), name] = need()
            finally:
                self.give_back(before)
            watch = asyncio.create_task(self._until_end(process))
            self._watches.add(watch)
            watch.add_done_callback(self._watches.discard)
            return process

        return start

    async def _until_end(self, process: _Ending) -> None:
        try:
            await process.ended()
        finally:
            self.give_back(process)

    def _held(self) -> str:
        if not self._taken:
            return "nothing else has any: it can never fit"
        return "others have theirs: " + ", ".join(f"{name} {_mib(size)}" for (_, name), size in self._taken.items())


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.0f} MiB"
