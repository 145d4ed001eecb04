"""Which rows teach and which test. By the texts themselves: a row that tested keeps testing when others are added."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backends.training.examples import key_of

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Split:
    """Indices of rows."""

    train: Ints
    test: Ints


def split(texts: Sequence[str], truth: Ints, test: float, seed: int) -> Split:
    """A part `test` of each label's rows for the test, at least one of each, and at least two left to learn from."""
    order = _order(texts, seed)
    chosen: list[int] = []
    for label in np.unique(truth):
        rows = [index for index in order if truth[index] == label]
        chosen += rows[: min(max(1, round(test * len(rows))), len(rows) - 2)]
    testing = np.zeros(len(texts), dtype=bool)
    testing[chosen] = True
    return Split(np.flatnonzero(~testing), np.flatnonzero(testing))


def folds(texts: Sequence[str], truth: Ints, count: int, seed: int) -> Ints:
    """The fold of each row, each label spread evenly over them."""
    place: Ints = np.zeros(len(texts), dtype=np.int64)
    seen: dict[int, int] = {}
    for index in _order(texts, seed + 1):
        label = int(truth[index])
        # Each label starts in another fold, so that rare ones do not all meet in the first.
        place[index] = (seen.setdefault(label, label)) % count
        seen[label] += 1
    return place


def _order(texts: Sequence[str], seed: int) -> list[int]:
    def rank(index: int) -> bytes:
        return hashlib.blake2b(f"{seed}\n{key_of(texts[index])}".encode(), digest_size=16).digest()

    return sorted(range(len(texts)), key=rank)
