"""An exact-enough scan of vectors in memory, in three steps that each leave less: signs, four bits, float32.

1. One bit for each dimension: the sign of its difference from the mean. 64 dimensions are compared by one XOR.
2. Four bits for each dimension, for the nearest few per cent of the rows that the mask takes.
3. The best of these are compared in float32, by the caller: the database has them.

The mask comes first, so a filter never costs results. What a reader sees is a `View` that nobody changes any more: one
writer (the caller sees to that) adds behind its end or makes another. For 384 dimensions a row takes 248 bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rag.store.engine import SHIFT

if TYPE_CHECKING:
    import numpy.typing as npt

    from rag.store.engine import Ids, Vectors

    Floats = npt.NDArray[np.float32]
    Mask = npt.NDArray[np.bool_]

SEGMENT: Final = 1 << 16
"""Rows that memory is taken for at once; what is never written of it costs nothing."""
MOST_SHARE: Final = 0.04
"""Of the rows: what 384 or more signs leave; fewer signs say less, and leave more. On real sentences' embeddings (384
dimensions) 2.2% hold 99% of the ten nearest."""
LEAST: Final = 2_000
SAMPLED: Final = 100_000
"""Rows, about, by which the distance is chosen."""
SPARSE: Final = 6
"""Where a mask takes fewer rows than one in so many, only these are compared."""
_BLOCK: Final = 2_048
"""Rows that are unpacked at once: they stay in the processor's cache."""
_FAR: Final = np.uint16(0xFFFF)


@dataclass(frozen=True, slots=True)
class Segment:
    """Room for `SEGMENT` rows.

    Attributes:
        bits: [words, rows]: the signs. This way round one pass is over contiguous memory.
        codes: [rows, dimensions / 2]: two numbers of four bits in each byte.
        scales: [rows]: what a code's unit is.
        docs: [rows]: the document's place in `View.docs`.
    """

    bits: npt.NDArray[np.uint64]
    codes: npt.NDArray[np.uint8]
    scales: Floats
    docs: npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class View:
    """What there is at one time.

    Attributes:
        mean: [dimensions]: what the signs are taken from.
        docs: [documents], ascending; `first`: their first row; `alive`: which of them have not been removed.
        rows: how many rows of the segments are in use; `dead`: how many of these are of removed documents.
    """

    mean: Floats
    segments: tuple[Segment, ...]
    docs: Ids
    first: Ids
    alive: Mask
    rows: int = 0
    dead: int = 0

    @property
    def bytes(self) -> int:
        """What the rows in use take."""
        words = -(-len(self.mean) // 64)
        return self.rows * (words * 40 + 8)

    def mask(self, docs: Ids) -> Mask:
        """[documents]: which of them are among `docs`."""
        mask = np.zeros(len(self.docs), bool)
        places = np.searchsorted(self.docs, docs)
        inside = places < len(self.docs)
        places, docs = places[inside], docs[inside]
        mask[places[self.docs[places] == docs]] = True
        return mask & self.alive

    def nearest(self, query: Floats, mask: Mask, limit: int) -> Ids:
        """Ids of the `limit` pieces that are nearest by four bits, of the documents in the mask, the best first."""
        parts = self._by_signs(query, mask, limit)
        scores = np.concatenate(
            [self._by_codes(segment, rows, query) for segment, rows in parts] or [np.empty(0, np.float32)]
        )
        rows = np.concatenate([rows + n * SEGMENT for n, (_, rows) in enumerate(parts)] or [np.empty(0, np.int64)])
        docs = np.concatenate([segment.docs[rows] for segment, rows in parts] or [np.empty(0, np.int32)])
        most = min(limit, len(scores))
        best = np.argpartition(scores, len(scores) - most)[len(scores) - most :] if most else np.empty(0, np.int64)
        best = best[np.argsort(-scores[best], kind="stable")]
        at = docs[best]
        ids: Ids = (self.docs[at] << SHIFT) | (rows[best] - self.first[at])
        return ids

    def _by_signs(self, query: Floats, mask: Mask, limit: int) -> list[tuple[Segment, Ids]]:
        """For each segment the rows that are worth a second look: all that the mask takes, where they are few."""
        used = self._used()
        masks = [mask[segment.docs[:count]] for segment, count in used]
        taken = [int(np.count_nonzero(one)) for one in masks]
        total = sum(taken)
        wanted = max(LEAST, 4 * limit, int(total * MOST_SHARE * max(1.0, 384 / len(self.mean))))
        if total <= 2 * wanted:
            return [(segment, np.flatnonzero(one)) for (segment, _), one in zip(used, masks, strict=True)]
        signs = _signs(query[None, :] - self.mean)[:, 0]
        # How near the nearest are is seen on some of the rows: counting all would take as long as comparing them.
        step = max(1, total // SAMPLED)
        compared, counted = [], np.zeros(64 * len(signs) + 2, np.int64)
        for (segment, count), one, some in zip(used, masks, taken, strict=True):
            rows, far = _distances(segment, count, one, some, signs)
            compared.append((rows, far))
            counted += np.bincount(np.minimum(far[::step], len(counted) - 1), minlength=len(counted))
        radius = int(np.searchsorted(np.cumsum(counted[:-1]), max(1, wanted // step)))
        found = []
        for (segment, _), (rows, far) in zip(used, compared, strict=True):
            near = np.flatnonzero(far <= radius)
            found.append((segment, near if rows is None else rows[near]))
        return found

    def _used(self) -> list[tuple[Segment, int]]:
        """The segments with the number of their rows that are in use."""
        return [(one, min(SEGMENT, self.rows - n * SEGMENT)) for n, one in enumerate(self.segments)]

    def _by_codes(self, segment: Segment, rows: Ids, query: Floats) -> Floats:
        """Their dot products with the query, but for a constant."""
        half = segment.codes.shape[1]
        padded = np.zeros(2 * half, np.float32)
        padded[: len(query)] = query
        low, high, base = padded[:half], padded[half:], 8.0 * float(padded.sum())
        scores = np.empty(len(rows), np.float32)
        for start in range(0, len(rows), _BLOCK):
            some = rows[start : start + _BLOCK]
            codes = segment.codes[some]
            # vecdot is one dot product for each row, on this thread: a matrix product would start BLAS's own threads.
            dots = np.vecdot((codes & 15).astype(np.float32), low) + np.vecdot((codes >> 4).astype(np.float32), high)
            scores[start : start + _BLOCK] = (dots - base) * segment.scales[some]
        return scores


def empty(mean: Floats) -> View:
    """Without rows. Raises nothing; `mean`: about that of the vectors to come, or zeros."""
    none = np.empty(0, np.int64)
    return View(np.asarray(mean, np.float32), (), none, none, np.empty(0, bool))


def added(view: View, docs: Sequence[int], sizes: Sequence[int], vectors: Vectors) -> View:
    """With documents of `sizes` pieces, which follow all that are there; `vectors` are theirs in order."""
    words = -(-vectors.shape[1] // 64)
    segments, start, row = list(view.segments), 0, view.rows
    ordinals = np.repeat(np.arange(len(docs), dtype=np.int32) + np.int32(len(view.docs)), sizes)
    while start < len(vectors):
        if row == len(segments) * SEGMENT:
            segments.append(_segment(words))
        at = row % SEGMENT
        end = min(len(vectors), start + SEGMENT - at)
        _fill(segments[-1], at, vectors[start:end] - view.mean, ordinals[start:end])
        row, start = row + end - start, end
    first = view.rows + np.cumsum([0, *sizes[:-1]]) if sizes else np.empty(0, np.int64)
    return replace(
        view,
        segments=tuple(segments),
        docs=np.concatenate([view.docs, np.asarray(docs, np.int64)]),
        first=np.concatenate([view.first, first.astype(np.int64)]),
        alive=np.concatenate([view.alive, np.ones(len(docs), bool)]),
        rows=row,
    )


def removed(view: View, kept: Ids) -> View:
    """Without the documents that are not among `kept`. Their rows are passed over; the memory stays taken."""
    alive = view.mask(kept)
    ends = np.append(view.first[1:], view.rows)
    return replace(view, alive=alive, dead=int((ends - view.first)[~alive].sum()))


def _segment(words: int) -> Segment:
    return Segment(
        np.empty((words, SEGMENT), np.uint64),
        np.empty((SEGMENT, words * 32), np.uint8),
        np.empty(SEGMENT, np.float32),
        np.empty(SEGMENT, np.int32),
    )


def _fill(segment: Segment, at: int, vectors: Vectors, docs: npt.NDArray[np.int32]) -> None:
    half, end = segment.codes.shape[1], at + len(vectors)
    padded = np.zeros((len(vectors), 2 * half), np.float32)
    padded[:, : vectors.shape[1]] = vectors
    scales = np.maximum(np.abs(padded).max(axis=1), 1e-12) / 7.0
    codes = (np.rint(padded / scales[:, None]) + 8.0).astype(np.uint8)
    segment.codes[at:end] = codes[:, :half] | (codes[:, half:] << 4)
    segment.bits[:, at:end] = _signs(vectors)
    segment.scales[at:end] = scales
    segment.docs[at:end] = docs


def _signs(vectors: Vectors) -> npt.NDArray[np.uint64]:
    """[words, rows]."""
    words = -(-vectors.shape[1] // 64)
    packed = np.zeros((len(vectors), words * 8), np.uint8)
    bits = np.packbits(vectors > 0, axis=1)
    packed[:, : bits.shape[1]] = bits
    return np.ascontiguousarray(packed.view(np.uint64).T)


def _distances(
    segment: Segment, count: int, mask: Mask, taken: int, signs: npt.NDArray[Any]
) -> tuple[Ids | None, npt.NDArray[np.uint16]]:
    """How far the rows that the mask takes are by their signs. None: all rows are there, those not taken `_FAR`."""
    if taken * SPARSE < count:
        rows = np.flatnonzero(mask)
        return rows, _hamming(segment.bits[:, rows], signs, len(rows))
    far = _hamming(segment.bits, signs, count)
    if taken < count:
        np.putmask(far, ~mask, _FAR)
    return None, far


def _hamming(bits: npt.NDArray[np.uint64], signs: npt.NDArray[Any], count: int) -> npt.NDArray[np.uint16]:
    """How many signs differ from the query's, for each of the first `count` rows."""
    total = np.zeros(count, np.uint16)
    step = min(count, 16_384)
    differ, ones, some = np.empty(step, np.uint64), np.empty(step, np.uint8), np.empty(step, np.uint8)
    for start in range(0, count, step or 1):
        size = min(count - start, step)
        xored, counts, few = differ[:size], ones[:size], some[:size]
        # Three words have at most 192 signs, which one byte holds: bytes are added many at once.
        for first in range(0, len(signs), 3):
            few[:] = 0
            for word, sign in zip(bits[first : first + 3], signs[first : first + 3], strict=True):
                np.bitwise_xor(word[start : start + size], sign, out=xored)
                np.bitwise_count(xored, out=counts)
                np.add(few, counts, out=few)
            total[start : start + size] += few
    return total
