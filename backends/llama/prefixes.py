"""The tree of computed prefixes: which sequences hold them, and how many of their cells no live one needs. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from backends.llama.radix import Node, below, path


@dataclass(eq=False, slots=True)
class Holder:
    """A llama.cpp sequence id in use: its deepest node, its private cells beyond it (and in how many pieces they lie),
    and whether it is live or kept."""

    seq: int
    node: Node
    private: int = 0
    pieces: int = 0
    live: bool = True


class Prefixes:
    """A radix tree whose nodes know their holders; `KVCache` does to llama.cpp's memory what is done here.

    Attributes:
        evictable: cells of nodes that no live sequence holds.
    """

    __slots__ = ("_tick", "evictable", "root")

    def __init__(self) -> None:
        self.root = Node([], 0, None)
        self.evictable = 0
        self._tick = 0

    def append(self, node: Node, seq: int, tokens: list[int], pieces: int) -> Node:
        """The node that ends `tokens`, which the live sequence `seq` computed below `node`; they lie in so many pieces.
        A leaf of its own grows in place, so that chunks do not become chains."""
        if node is not self.root and not node.children and node.holders == {seq}:
            node.tokens.extend(tokens)
            node.pieces += pieces
            node.offered = False
            return node
        leaf = Node(tokens, node.end, node, {}, {seq}, 1, max(1, pieces))
        node.children[tokens[0]] = leaf
        self._touch(leaf)
        return leaf

    def cover(self, node: Node, seq: int) -> None:
        """The live sequence `seq` now covers everything down to `node`."""
        for step in path(node):
            if seq not in step.holders:
                step.holders.add(seq)
                if step.live == 0:
                    self.evictable -= len(step.tokens)
                step.live += 1
            self._touch(step)

    def rest(self, node: Node) -> None:
        """A live sequence that covers everything down to `node` has ended, and only keeps it."""
        for step in path(node):
            self._touch(step)
            step.live -= 1
            if step.live == 0:
                self.evictable += len(step.tokens)

    def kept_leaves(self) -> Iterator[Node]:
        """Those that no live sequence holds."""
        for node in below(self.root):
            if not node.children and node.live == 0:
                yield node

    def oldest(self) -> Node:
        """The kept leaf that was used least recently; there must be one."""
        return min(self.kept_leaves(), key=lambda node: node.last_used)

    def shorten(self, leaf: Node, keep: int) -> None:
        """Only the first `keep` cells of a kept leaf stay; without any it is gone."""
        assert leaf.live == 0 and not leaf.children and leaf.parent is not None
        self.evictable -= len(leaf.tokens) - keep
        if keep:
            leaf.pieces = max(1, leaf.pieces * keep // len(leaf.tokens))
            del leaf.tokens[keep:]
        else:
            del leaf.parent.children[leaf.tokens[0]]

    def _touch(self, node: Node) -> None:
        self._tick += 1
        node.last_used = self._tick
