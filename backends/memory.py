"""How much memory models need, and a limit on what all of them take together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from backends.errors import Unavailable

SMALL_FACTOR = 2
"""Of a small model's files: weights are unpacked, and a run needs room beside them."""
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
        self._taken: dict[object, tuple[str, int]] = {}
        self._watches: set[asyncio.Task[None]] = set()

    def take(self, holder: object, name: str, need: int) -> None:
        """Takes `need` bytes for the model `name`, on top of what others have. `holder` is given back by.

        Raises:
            Unavailable: it does not fit; the message says who has the rest.
        """
        others = [(other, size) for key, (other, size) in self._taken.items() if key != holder]
        used = sum(size for _, size in others)
        if self.limit is not None and used + need > self.limit:
            raise Unavailable(
                f"The model {name} needs about {_mib(need)}, and of the {_mib(self.limit)} that `limits.memory_mb` "
                f"allows all models {self._held(others)}.",
                retry_after=RETRY_S,
                code="memory_limit",
            )
        self._taken[holder] = name, need

    def give_back(self, holder: object) -> None:
        """What the holder took, if it did."""
        self._taken.pop(holder, None)

    @property
    def used(self) -> int:
        """Bytes that are taken."""
        return sum(size for _, size in self._taken.values())

    def guarded(
        self, name: str, need: Callable[[], int], spawn: Callable[[], Awaitable[P]]
    ) -> Callable[[], Awaitable[P]]:
        """`spawn`, which takes what the model needs before it starts a process, until that process has ended."""

        async def start() -> P:
            holder = object()
            self.take(holder, name, need())
            try:
                process = await spawn()
            except BaseException:
                self.give_back(holder)
                raise
            watch = asyncio.create_task(self._until_end(process, holder))
            self._watches.add(watch)
            watch.add_done_callback(self._watches.discard)
            return process

        return start

    async def _until_end(self, process: _Ending, holder: object) -> None:
        try:
            await process.ended()
        finally:
            self.give_back(holder)

    @staticmethod
    def _held(others: list[tuple[str, int]]) -> str:
        if not others:
            return "none is taken: it can never fit"
        return "these have their part: " + ", ".join(f"{name} {_mib(size)}" for name, size in others)


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.0f} MiB"
