"""A radix index over llama.cpp's unified KV cache. Pure: it drives a `Memory` and never imports llama_cpp.

Every prefix that was computed is a path in a radix tree. In a unified cache a cell may belong to many sequences, so
"sharing" is one `cp` of metadata, and a cell is freed when its last sequence lets go. Invariants (property-tested):

- a tree node's cells exist once, and belong to exactly the sequences in `node.holders`, each of which covers the whole
  path from the root to the end of that node;
- cells in use = tokens in the tree + private tokens of live sequences;
- a node that a live sequence holds is never evicted.

Prompt tokens enter the tree as they are computed, so that others share them at once; completion tokens stay private
until their sequence closes.
"""

from __future__ import annotations

from collections.abc import Sized
from typing import Protocol

from backends.llama.backups import URGENT_NEW, WORTH_COPYING, Backups, Host
from backends.llama.prefixes import Holder, Prefixes
from backends.llama.radix import Node, below, common_prefix, path, split, walk

KEPT_CELLS = 64  # that kept prefixes may hold beside live sequences: each costs each of their tokens 2 to 3 us
# Tokens of a prompt that are computed even if the whole of it is cached. A batch of one is computed by other kernels,
# and with two the first token is bit for bit the same whether the rest was cached or not.
ALWAYS_COMPUTED = 2
MIN_TRIM = 64  # cells: evicting a long tail one cell a step would cost a scan of the cache each time


class Memory(Protocol):
    """What of llama.cpp's memory is needed; positions are [p0, p1), p1 = -1 is the end."""

    def rm(self, seq: int, p0: int, p1: int) -> None: ...

    def cp(self, src: int, dst: int, p0: int, p1: int) -> None: ...

    def save(self, seq: int) -> Sized: ...

    def load(self, seq: int, state: Sized) -> bool: ...


class KVCache:
    """Who holds which cells. All methods are synchronous and belong to the engine's one thread."""

    def __init__(
        self,
        cells: int,
        sequences: int,
        memory: Memory,
        *,
        reuse: bool = True,
        host: Host | None = None,
        worth_copying: int = WORTH_COPYING,
        urgent_new: int = URGENT_NEW,
    ) -> None:
        """`cells` and `sequences` as the context has them; `reuse=False` for a memory that cannot share a prefix."""
        self.cells = cells
        self.reuse = reuse
        self.used = 0
        self._memory = memory
        self._backups = Backups(host, worth_copying, urgent_new) if host is not None and reuse else None
        self._prefixes = Prefixes()
        self._root = self._prefixes.root
        self._free_ids = list(range(sequences - 1, -1, -1))
        self._holders: dict[int, Holder] = {}
        self._grew: int | None = None  # the sequence that took cells last: its next ones are their neighbours

    @property
    def evictable(self) -> int:
        """Cells of kept prefixes that no live sequence holds."""
        return self._prefixes.evictable

    @property
    def available(self) -> int:
        """Cells that are free or can be made free without touching a live sequence."""
        return self.cells - self.used + self.evictable

    def match(self, tokens: list[int]) -> int:
        """How many leading tokens need not be computed: they are in the cache, or can be copied back into it."""
        if not self.reuse:
            return 0
        matched = walk(self._root, tokens)[1]
        more = self._backups.beyond(tokens, matched) if self._backups else None
        return more[1] if more else matched

    def cost(self, tokens: list[int]) -> int:
        """By how much `available` falls once a sequence of `tokens` is opened and computed.

        A prefix that only kept sequences hold is not free of charge: its cells can no longer be evicted.
        """
        if not self.reuse:
            return len(tokens)
        node, matched = walk(self._root, tokens)
        while node.live == 0 and node.parent is not None:
            node, matched = node.parent, node.start
        return len(tokens) - matched

    def open(self, tokens: list[int]) -> tuple[int, int] | None:
        """A live sequence that starts with the longest cached prefix of `tokens`, all but the last two at most.

        Returns (sequence id, cached tokens), or None if every id belongs to a live sequence.
        """
        if not self._free_ids and not self._free_an_id():
            return None
        prefix = tokens[:-ALWAYS_COMPUTED]
        if self._backups and (restored := self._restore(self._backups, prefix)):
            return restored
        node, matched = walk(self._root, prefix) if self.reuse else (self._root, 0)
        if matched < node.end:
            node = split(node, matched)
        if matched and matched == len(prefix):
            self._forget(node.children.get(tokens[matched]))
        seq = self._free_ids.pop()
        holder = Holder(seq, self._root)
        self._holders[seq] = holder
        if matched:
            self._memory.cp(next(iter(node.holders)), seq, 0, matched)
            self._cover(holder, node)
        return seq, matched

    def computed(self, seq: int, tokens: list[int]) -> None:
        """`tokens` now follow what `seq` has in the tree: share them, and drop cells that duplicate another's."""
        holder = self._holders[seq]
        if not self.reuse:
            self.grow(seq, len(tokens))
            return
        self._share(holder, tokens, int(self._grew != seq))
        self._grew = seq

    def _share(self, holder: Holder, tokens: list[int], pieces: int) -> None:
        """`tokens`, computed by `holder` and lying in so many pieces, enter the tree below what it has there."""
        seq, done = holder.seq, 0
        while done < len(tokens):
            node = holder.node
            child = node.children.get(tokens[done])
            if child is None:
                holder.node = self._prefixes.append(node, seq, tokens[done:], pieces)
                self.used += len(tokens) - done
                return
            n = common_prefix(child.tokens, tokens, done)
            if n < len(child.tokens):
                child = split(child, child.start + n)
            # Another sequence computed the same tokens meanwhile: take its cells and free our own.
            self._memory.rm(seq, child.start, child.end)
            self._memory.cp(next(iter(child.holders)), seq, child.start, child.end)
            self._cover(holder, child)
            done += n

    def grow(self, seq: int, n: int = 1) -> None:
        """`seq` computed `n` more cells that nobody shares yet."""
        if not n:
            return
        holder = self._holders[seq]
        holder.private += n
        holder.pieces += self._grew != seq or not holder.pieces
        self._grew = seq
        self.used += n

    def close(self, seq: int, tail: list[int]) -> None:
        """The sequence ended; `tail` are the tokens of its private cells. What it computed is kept for reuse."""
        holder = self._holders[seq]
        self.used -= holder.private
        holder.private = 0
        if not self.reuse:
            self._drop(holder)
            return
        if tail:
            self._share(holder, tail, holder.pieces)
        self._prefixes.rest(holder.node)
        holder.live = False
        if holder.node is self._root or len(holder.node.holders) > 1:
            self._drop(holder)

    def make_room(self, n: int) -> bool:
        """Evict least-recently-used kept prefixes until `n` cells are free; False if live sequences hold too many."""
        if self.available < n:
            return False
        while self.cells - self.used < n:
            leaf = self._prefixes.oldest()
            self._trim(leaf, max(n - (self.cells - self.used), MIN_TRIM))
        return True

    def spill(self, limit: int = KEPT_CELLS) -> None:
        """Let the least recently used kept prefixes go until at most `limit` cells are kept. Those that the host does
        not have are copied to it first if that is worth it while others wait. Without a host, nothing is let go."""
        while self._backups and self.evictable > limit:
            leaf = self._prefixes.oldest()
            self._trim(leaf, len(leaf.tokens))

    def clear_kept(self) -> None:
        """Forget every prefix that no live sequence holds."""
        while leaves := list(self._prefixes.kept_leaves()):
            for leaf in leaves:
                self._trim(leaf, len(leaf.tokens))

    # -- the host's memory ---------------------------------------------------------------------------------------

    def back_up(self) -> bool:
        """Copy one kept prefix to the host, so that it can go at once when others come; for when nobody waits.
        False when there is none left that is worth it."""
        leaves = [leaf for leaf in self._prefixes.kept_leaves() if not leaf.offered] if self._backups else []
        for leaf in sorted(leaves, key=lambda node: node.last_used):
            leaf.offered = True
            if self._save(leaf, urgent=False):
                return True
        return False

    def _restore(self, backups: Backups, prefix: list[int]) -> tuple[int, int] | None:
        """A live sequence with what the host has of `prefix`, if that is much more than the tree has."""
        more = backups.beyond(prefix, walk(self._root, prefix)[1])
        if more is None:
            return None
        saved, n = more
        if not self.make_room(len(saved.tokens)):
            return None
        if not self._free_ids and not self._free_an_id():
            return None
        seq = self._free_ids.pop()
        if not self._memory.load(seq, saved.state):
            self._memory.rm(seq, -1, -1)
            self._free_ids.append(seq)
            return None
        if n < len(saved.tokens):
            self._memory.rm(seq, n, -1)
        self._holders[seq] = Holder(seq, self._root)
        self.computed(seq, prefix[:n])  # what the tree has of it already is shared, and the copy of that freed
        backups.host.touch(saved)
        return seq, n

    def _save(self, leaf: Node, *, urgent: bool) -> bool:
        """Copy the sequence that ends in a kept leaf to the host, if that is worth it; True if it was done."""
        seq = next(iter(leaf.holders))
        return self._backups is not None and self._backups.save(leaf, lambda: self._memory.save(seq), urgent=urgent)

    # -- the tree ------------------------------------------------------------------------------------------------

    def _cover(self, holder: Holder, node: Node) -> None:
        """`holder` now has everything down to `node`."""
        self._prefixes.cover(node, holder.seq)
        holder.node = node

    def _forget(self, node: Node | None) -> None:
        """Let an earlier answer to the very same prompt go, unless it is live: the new one then takes its cells.

        Sums over cells depend on where the cells lie, and what is sampled on the last bit of a sum. Asked again on a
        box that did nothing else meanwhile, the same seed gives the same answer.
        """
        if node is None or node.live:
            return
        for step in reversed([node, *below(node)]):
            self._trim(step, len(step.tokens))

    # -- letting go ----------------------------------------------------------------------------------------------

    def _trim(self, leaf: Node, n: int) -> None:
        """Free the last `n` cells of a kept leaf, or all of it."""
        self._save(leaf, urgent=True)
        keep = max(0, len(leaf.tokens) - n)
        self.used -= len(leaf.tokens) - keep
        for seq in leaf.holders:
            self._memory.rm(seq, leaf.start + keep, -1)
        parent = leaf.parent
        self._prefixes.shorten(leaf, keep)
        if keep or parent is None:
            return
        for seq in leaf.holders:
            holder = self._holders[seq]
            holder.node = parent
            if parent is self._root or len(parent.holders) > 1:
                self._drop(holder)

    def _drop(self, holder: Holder) -> None:
        """Give the id back: another sequence covers all that this one has, or there is nothing left."""
        for node in path(holder.node):
            node.holders.discard(holder.seq)
        self._memory.rm(holder.seq, -1, -1)
        del self._holders[holder.seq]
        self._free_ids.append(holder.seq)

    def _free_an_id(self) -> bool:
        """Evict the least recently used kept sequence until its id is free."""
        kept = [h for h in self._holders.values() if not h.live]
        if not kept:
            return False
        for holder in kept:
            if len(holder.node.holders) > 1:  # others went on below it: nothing is lost
                self._drop(holder)
                return True
        victim = min(kept, key=lambda h: h.node.last_used)
        while victim.seq in self._holders:
            self._trim(victim.node, len(victim.node.tokens))
        return True
