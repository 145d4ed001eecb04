"""What llama.cpp's unified memory does, in plain Python: a cell is one token at one position, held by any number of
sequences, and free once its last sequence lets go. Refuses whatever llama.cpp would refuse or get wrong."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(eq=False, slots=True)
class Cell:
    """One token's keys and values."""

    token: int
    pos: int
    seqs: set[int] = field(default_factory=set)


class FakeMemory:
    """`kv_cache.Memory`, and the `decode` that fills it."""

    def __init__(self, cells: int) -> None:
        self.capacity = cells
        self.sequences: dict[int, dict[int, Cell]] = {}

    @property
    def cells(self) -> set[Cell]:
        """Each distinct cell in use."""
        return {cell for cells in self.sequences.values() for cell in cells.values()}

    def decode(self, seq: int, tokens: list[int], start: int) -> None:
        """Compute `tokens` at positions from `start`; there must be a free cell for each."""
        assert len(self.cells) + len(tokens) <= self.capacity, "no free cell: llama_decode would fail with code 1"
        held = self.sequences.setdefault(seq, {})
        for pos, token in enumerate(tokens, start):
            assert pos not in held, f"sequence {seq} would have two cells at position {pos}"
            held[pos] = Cell(token, pos, {seq})

    def rm(self, seq: int, p0: int, p1: int) -> None:
        held = self.sequences.get(seq, {})
        for pos in [p for p in held if p >= max(p0, 0) and (p1 < 0 or p < p1)]:
            held.pop(pos).seqs.discard(seq)
        if not held:
            self.sequences.pop(seq, None)

    def cp(self, src: int, dst: int, p0: int, p1: int) -> None:
        held = self.sequences.setdefault(dst, {})
        for pos, cell in self.sequences.get(src, {}).items():
            if pos >= max(p0, 0) and (p1 < 0 or pos < p1):
                assert pos not in held or held[pos] is cell, f"sequence {dst} would have two cells at position {pos}"
                held[pos] = cell
                cell.seqs.add(dst)

    def save(self, seq: int) -> tuple[int, ...]:
        """The sequence's tokens, which stand for their keys and values."""
        return tuple(self.tokens(seq))

    def load(self, seq: int, state: tuple[int, ...]) -> bool:
        """False, with nothing changed, where llama.cpp finds no room; the sequence is empty before."""
        assert seq not in self.sequences
        if len(self.cells) + len(state) > self.capacity:
            return False
        FakeMemory.decode(self, seq, list(state), 0)
        return True

    def tokens(self, seq: int) -> list[int]:
        """What attention in `seq` sees, in order; its positions have no gap."""
        held = self.sequences.get(seq, {})
        assert sorted(held) == list(range(len(held))), f"sequence {seq} has gaps: {sorted(held)}"
        return [held[pos].token for pos in range(len(held))]
