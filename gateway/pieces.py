"""What a small model says of pieces of text, remembered: a conversation brings its beginning with every turn."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Generic, TypeVar

AT_ONCE = 8  # pieces of one call: the event loop is not held up by what is made of them
REMEMBERED = 4096
MOST_LEFT = 4
"""Judgings that go on although nobody waits for them any more."""
LEFT_S = 60.0
"""Seconds that one may take in all."""

T = TypeVar("T")


@dataclass(eq=False, slots=True)
class _Judging(Generic[T]):
    """Some pieces that are being asked about, and who waits for it."""

    pieces: Mapping[bytes, str] = field(repr=False)
    answers: dict[bytes, T] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None
    waiting: int = 0


class Pieces(Generic[T]):
    """Asks only for what it has not been told, and for nothing twice at a time. A piece is remembered by its digest: no
    text is kept.

    Who has no more time leaves; what it asked for is asked on for a while, so that it is known when it comes again.

    Args:
        ask: the answers for some pieces, in their order.
    """

    def __init__(self, ask: Callable[[Sequence[str]], Awaitable[Sequence[T]]]) -> None:
        self._ask = ask
        self._known: OrderedDict[bytes, T] = OrderedDict()
        self._asked: dict[bytes, _Judging[T]] = {}
        self._left: set[_Judging[T]] = set()

    async def of(self, pieces: Sequence[str]) -> list[T]:
        """The answers in the order of the pieces. Raises whatever `ask` does, `ValueError` for too few answers."""
        digests = [blake2b(piece.encode("utf-8", "surrogatepass"), digest_size=16).digest() for piece in pieces]
        told: dict[bytes, T] = {}
        for digest in digests:
            if digest in self._known:
                self._known.move_to_end(digest)
                told[digest] = self._known[digest]
        new = {digest: piece for digest, piece in zip(digests, pieces, strict=True) if digest not in told}
        judgings = dict.fromkeys(self._asked[digest] for digest in new if digest in self._asked)
        if fresh := {digest: piece for digest, piece in new.items() if digest not in self._asked}:
            judgings[self._begin(fresh)] = None
        await self._wait(list(judgings))
        for judging in judgings:
            told.update(judging.answers)
        return [told[digest] for digest in digests]

    def _begin(self, fresh: Mapping[bytes, str]) -> _Judging[T]:
        judging = _Judging[T](fresh)
        self._asked.update(dict.fromkeys(fresh, judging))
        judging.task = asyncio.create_task(self._judge(judging), name="pieces")
        # Not the coroutine's own end: a task that is cancelled before it began has none.
        judging.task.add_done_callback(lambda task: self._end(judging, task))
        return judging

    async def _judge(self, judging: _Judging[T]) -> None:
        waiting = list(judging.pieces)
        async with asyncio.timeout(LEFT_S):
            for start in range(0, len(waiting), AT_ONCE):
                some = waiting[start : start + AT_ONCE]
                answers = await self._ask([judging.pieces[digest] for digest in some])
                for digest, answer in zip(some, answers, strict=True):
                    judging.answers[digest] = self._known[digest] = answer
                while len(self._known) > REMEMBERED:
                    self._known.popitem(last=False)

    def _forget(self, judging: _Judging[T]) -> None:
        self._left.discard(judging)
        for digest in judging.pieces:
            if self._asked.get(digest) is judging:
                del self._asked[digest]

    def _end(self, judging: _Judging[T], task: asyncio.Task[None]) -> None:
        self._forget(judging)
        if not task.cancelled():
            task.exception()  # without a waiter it would be reported as never retrieved

    async def _wait(self, judgings: Sequence[_Judging[T]]) -> None:
        """Whoever stops waiting leaves them to themselves, if there are not too many of that kind already."""
        for judging in judgings:
            judging.waiting += 1
            self._left.discard(judging)
        try:
            for judging in judgings:
                assert judging.task is not None
                await asyncio.shield(judging.task)
        finally:
            for judging in judgings:
                judging.waiting -= 1
                self._leave(judging)

    def _leave(self, judging: _Judging[T]) -> None:
        task = judging.task
        if judging.waiting or task is None or task.done():
            return
        if len(self._left) < MOST_LEFT:
            self._left.add(judging)
        else:
            self._forget(judging)  # now: who comes next must not wait for what was cancelled
            task.cancel()
