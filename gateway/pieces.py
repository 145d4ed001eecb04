"""What a small model says of pieces of text, remembered: a conversation brings its beginning with every turn."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from hashlib import blake2b
from typing import Generic, TypeVar

AT_ONCE = 16  # pieces of one call: the event loop is not held up by what is made of them
REMEMBERED = 4096

T = TypeVar("T")


class Pieces(Generic[T]):
    """Asks only for what it has not been told. A piece is remembered by its digest: no text is kept.

    Args:
        ask: the answers for some pieces, in their order.
    """

    def __init__(self, ask: Callable[[Sequence[str]], Awaitable[Sequence[T]]]) -> None:
        self._ask = ask
        self._known: OrderedDict[bytes, T] = OrderedDict()

    async def of(self, pieces: Sequence[str]) -> list[T]:
        """The answers in the order of the pieces. Raises whatever `ask` does, `ValueError` for too few answers."""
        digests = [blake2b(piece.encode("utf-8", "surrogatepass"), digest_size=16).digest() for piece in pieces]
        told: dict[bytes, T] = {}
        for digest in digests:
            if digest in self._known:
                self._known.move_to_end(digest)
                told[digest] = self._known[digest]
        new = {digest: piece for digest, piece in zip(digests, pieces, strict=True) if digest not in told}
        waiting = list(new)
        for start in range(0, len(waiting), AT_ONCE):
            some = waiting[start : start + AT_ONCE]
            answers = await self._ask([new[digest] for digest in some])
            for digest, answer in zip(some, answers, strict=True):
                told[digest] = self._known[digest] = answer
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return [told[digest] for digest in digests]
