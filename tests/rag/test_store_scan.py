"""The scan in memory: what it finds, under masks, after removals, beyond a segment."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.store import scan
from rag.store.engine import SHIFT

Floats = npt.NDArray[np.float32]


def _vectors(count: int, dimensions: int, seed: int) -> Floats:
    """Of unit length. As in embeddings a few directions say most, and the mean is not zero."""
    directions = np.random.default_rng(5).standard_normal((24, dimensions))
    random = np.random.default_rng(seed)
    made = 4.0 + random.standard_normal((count, 24)) @ directions + random.standard_normal((count, dimensions))
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    return made.astype(np.float32)


def _filled(vectors: Floats, sizes: list[int], steps: int = 3) -> scan.View:
    view = scan.empty(vectors[:50].sum(axis=0) / 50)
    ends = np.cumsum([0, *sizes])
    for some in np.array_split(np.arange(len(sizes)), steps):
        if len(some):
            part = vectors[ends[some[0]] : ends[some[-1] + 1]]
            view = scan.added(view, [int(n) * 3 + 1 for n in some], [sizes[n] for n in some], part)
    return view


def _exact(vectors: Floats, sizes: list[int], taken: set[int], query: Floats, limit: int) -> list[int]:
    ids = [(doc * 3 + 1) << SHIFT | place for doc, size in enumerate(sizes) for place in range(size)]
    scores = vectors @ query
    order = sorted(range(len(ids)), key=lambda row: -scores[row])
    return [ids[row] for row in order if ids[row] >> SHIFT in taken][:limit]


@settings(max_examples=80, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=20),
    dimensions=st.sampled_from([1, 7, 64, 65, 384]),
    seed=st.integers(0, 1_000),
    data=st.data(),
)
def test_the_best_under_a_mask_are_those_of_brute_force(
    sizes: list[int], dimensions: int, seed: int, data: st.DataObject
) -> None:
    vectors = _vectors(sum(sizes), dimensions, seed)
    docs = [doc * 3 + 1 for doc in range(len(sizes))]
    kept = set(data.draw(st.lists(st.sampled_from(docs), unique=True)))
    wanted = set(data.draw(st.lists(st.sampled_from([*docs, 2, 1_000]), unique=True)))
    view = scan.removed(_filled(vectors, sizes), np.array(sorted(kept), np.int64))
    assert view.dead == sum(size for doc, size in zip(docs, sizes, strict=True) if doc not in kept)
    query = _vectors(1, dimensions, seed + 1)[0]
    found = view.nearest(query, view.mask(np.array(sorted(wanted), np.int64)), 64).tolist()
    exact = _exact(vectors, sizes, kept & wanted, query, 64)
    assert len(found) == len(set(found)) == len(exact)
    assert {id_ >> SHIFT for id_ in found} <= kept & wanted
    if len(exact) < 64:  # there are no more, so all of them
        assert set(exact) == set(found)
    elif dimensions >= 64:  # in fewer, many are equally near
        assert len(set(exact[:10]) & set(found)) >= 8, "64 by four bits hold nearly all of the ten best by float32"


@pytest.mark.parametrize("share", [1.0, 0.5, 0.02])
def test_signs_leave_what_is_near(share: float) -> None:
    """Over a segment's end, with so many rows that the signs decide."""
    sizes = [700] * 120
    vectors = _vectors(sum(sizes), 96, 7)
    view = _filled(vectors, sizes)
    assert len(view.segments) == 2
    taken = {doc * 3 + 1 for doc in range(int(120 * share))}
    mask = view.mask(np.array(sorted(taken), np.int64))
    hits = 0
    for query in _vectors(20, 96, 8):
        found = view.nearest(query, mask, 64).tolist()
        assert {id_ >> SHIFT for id_ in found} <= taken
        rows = np.array([doc for doc in range(120) for _ in range(700)]) * 3 + 1
        scores = np.where(np.isin(rows, list(taken)), vectors @ query, -2.0)
        best = np.argsort(-scores)[:10]
        hits += len({int(rows[row] << SHIFT | row % 700) for row in best} & set(found))
    assert hits >= 196


def test_what_a_reader_holds_does_not_change() -> None:
    vectors = _vectors(30, 16, 1)
    before = scan.added(scan.empty(np.zeros(16, np.float32)), [1], [10], vectors[:10])
    every = before.mask(np.array([1, 2, 3], np.int64))
    seen = before.nearest(vectors[0], every, 64).tolist()
    after = scan.removed(scan.added(before, [2], [20], vectors[10:]), np.array([2], np.int64))
    assert before.nearest(vectors[0], every, 64).tolist() == seen
    assert {id_ >> SHIFT for id_ in after.nearest(vectors[0], after.mask(np.array([1, 2], np.int64)), 64)} == {2}


def test_a_row_takes_what_is_said() -> None:
    view = scan.added(scan.empty(np.zeros(384, np.float32)), [1], [10], _vectors(10, 384, 1))
    assert view.bytes == 10 * 248
