"""Prefixes that left the KV cache, kept in ordinary memory. Pure: a state is bytes that somebody else made.

Every cell in the KV cache slows every token of every sequence, its own or not: llama.cpp looks at all cells up to the
last one in use. Ordinary memory costs nothing, and copying a prefix back takes milliseconds where computing it anew
takes seconds. So prefixes that nobody uses move here (`KVCache.spill`).
"""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import dataclass

from backends.llama.radix import common_prefix


@dataclass(eq=False, slots=True)
class Saved:
    """One sequence from its start: its tokens, and their cells as llama.cpp writes them."""

    tokens: list[int]
    state: Sized
    last_used: int = 0


class HostCache:
    """Saved sequences, the least recently used dropped first."""

    def __init__(self, limit_bytes: int) -> None:
        self.used_bytes = 0
        self._limit_bytes = limit_bytes
        self._bytes_a_token = 0.0  # of the largest state seen; nothing is known before the first
        self._saved: list[Saved] = []
        self._tick = 0

    def find(self, tokens: list[int]) -> tuple[Saved | None, int]:
        """The saved sequence that shares the longest prefix with `tokens`, and that prefix's length."""
        best, most = None, 0
        for saved in self._saved:
            if (n := common_prefix(tokens, saved.tokens)) > most:
                best, most = saved, n
        return best, most

    def touch(self, saved: Saved) -> None:
        """It was of use just now."""
        self._tick += 1
        saved.last_used = self._tick

    def fits(self, tokens: int) -> bool:
        """Whether a sequence of so many tokens could be kept at all."""
        return tokens * self._bytes_a_token <= self._limit_bytes

    def put(self, tokens: list[int], state: Sized) -> None:
        """Keep a sequence; what it continues is not kept twice. One larger than the limit is not kept at all."""
        self._bytes_a_token = max(self._bytes_a_token, len(state) / len(tokens))
        if len(state) > self._limit_bytes:
            return
        for saved in [s for s in self._saved if s.tokens == tokens[: len(s.tokens)]]:
            self._drop(saved)
        new = Saved(tokens, state)
        self.touch(new)
        self._saved.append(new)
        self.used_bytes += len(state)
        while self.used_bytes > self._limit_bytes:
            self._drop(min(self._saved, key=lambda s: s.last_used))

    def _drop(self, saved: Saved) -> None:
        self._saved.remove(saved)
        self.used_bytes -= len(saved.state)
