"""A radix tree over token sequences: each node a run of tokens, each path from the root a prefix. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field


@dataclass(eq=False, slots=True)
class Node:
    """A run of tokens at positions [start, start + len(tokens)).

    Attributes:
        holders: llama.cpp's sequences that cover the whole path down to here.
        live: how many of them are live.
        pieces: about how many stretches of neighbouring cells it lies in: what copying it away costs.
        offered: whether a copy of it was made elsewhere, or found not to be worth it.
        last_used: tick of the last use; larger is later.
    """

    tokens: list[int]
    start: int
    parent: Node | None
    children: dict[int, Node] = field(default_factory=dict)
    holders: set[int] = field(default_factory=set)
    live: int = 0
    pieces: int = 1
    offered: bool = False
    last_used: int = 0

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)


def common_prefix(a: Sequence[int], b: Sequence[int], offset: int = 0) -> int:
    """How many leading tokens of `a` equal `b[offset:]`."""
    n = min(len(a), len(b) - offset)
    if a[:n] == b[offset : offset + n]:
        return n
    low, high = 0, n  # a[:low] is equal, a[:high] is not; slices compare in C
    while high - low > 1:
        mid = (low + high) // 2
        if a[low:mid] == b[offset + low : offset + mid]:
            low = mid
        else:
            high = mid
    return low


def walk(root: Node, tokens: list[int]) -> tuple[Node, int]:
    """The deepest node that `tokens` reach into, and how many of them match."""
    node, matched = root, 0
    while matched < len(tokens):
        child = node.children.get(tokens[matched])
        if child is None:
            break
        n = common_prefix(child.tokens, tokens, matched)
        node, matched = child, matched + n
        if n < len(child.tokens):
            break
    return node, matched


def split(node: Node, at: int) -> Node:
    """Cut `node` at position `at`; returns the new upper half, `node` itself stays the lower one."""
    assert node.parent is not None and node.start < at < node.end
    k = at - node.start
    upper = Node(node.tokens[:k], node.start, node.parent, {node.tokens[k]: node}, set(node.holders), node.live)
    upper.last_used = node.last_used
    upper.pieces = max(1, node.pieces * k // len(node.tokens))
    node.pieces = max(1, node.pieces - upper.pieces)
    node.parent.children[upper.tokens[0]] = upper
    node.tokens, node.start, node.parent = node.tokens[k:], at, upper
    return upper


def path(node: Node | None) -> Iterator[Node]:
    """From `node` up to the root, which is not among them."""
    while node is not None and node.parent is not None:
        yield node
        node = node.parent


def below(node: Node) -> Iterator[Node]:
    """All descendants of `node`, a parent before its children."""
    stack = list(node.children.values())
    while stack:
        step = stack.pop()
        yield step
        stack.extend(step.children.values())
