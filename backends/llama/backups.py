"""Copies of prefixes in the host's memory: which are worth making, and which are worth copying back. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import Any, Protocol

from backends.llama.radix import Node, path

WORTH_COPYING = 64  # tokens: fewer are computed as soon as they are copied back
# When a prefix is worth a copy: a part of it must be new to the host; and while others wait, much of it, in few pieces,
# each of which takes up to 1 ms.
NEW_SHARE = 1 / 8
URGENT_NEW = 256
URGENT_TOKENS_A_PIECE = 4
MOST_PIECES = 256  # a copy cannot be interrupted, and somebody may come meanwhile


class Saved(Protocol):
    """A sequence outside of the cache: its tokens from the start, and their cells."""

    tokens: list[int]
    state: Sized


class Host(Protocol):
    """Where prefixes go that nobody uses; `host_cache.HostCache`."""

    def find(self, tokens: list[int]) -> tuple[Saved | None, int]: ...

    def touch(self, saved: Any) -> None: ...

    def fits(self, tokens: int) -> bool: ...

    def put(self, tokens: list[int], state: Sized) -> None: ...


class Backups:
    """What the host has, as far as it is worth the time.

    Args:
        worth_copying, urgent_new: see the constants.
    """

    __slots__ = ("_urgent_new", "_worth_copying", "host")

    def __init__(self, host: Host, worth_copying: int = WORTH_COPYING, urgent_new: int = URGENT_NEW) -> None:
        self.host = host
        self._worth_copying = worth_copying
        self._urgent_new = urgent_new

    def beyond(self, tokens: list[int], matched: int) -> tuple[Saved, int] | None:
        """What the host has of the beginning of `tokens`, and how much, if that is much more than `matched`."""
        saved, n = self.host.find(tokens)
        return None if saved is None or n - matched < self._worth_copying else (saved, n)

    def save(self, leaf: Node, copied: Callable[[], Sized], *, urgent: bool) -> bool:
        """Keep the prefix that ends in a kept leaf, if it is worth a copy; True if one was made.

        llama.cpp copies every stretch of neighbouring cells by itself. Tokens that were decoded beside other sequences
        lie one by one; `urgent` says that others wait meanwhile.
        """
        nodes = [*path(leaf)]
        tokens = [t for node in reversed(nodes) for t in node.tokens]
        if not self.host.fits(len(tokens)):
            return False
        saved, known = self.host.find(tokens)
        if saved and known == len(tokens):
            self.host.touch(saved)
        new, pieces = len(tokens) - known, sum(node.pieces for node in nodes)
        if new < max(self._worth_copying, NEW_SHARE * len(tokens)):
            return False
        if urgent and new < max(self._urgent_new, URGENT_TOKENS_A_PIECE * pieces):
            return False
        if pieces > MOST_PIECES:
            return False
        self.host.put(tokens, copied())
        return True
