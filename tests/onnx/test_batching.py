"""Which rows share a run: all of them once, within the limit, and nobody waits long."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from backends.onnx.batching import OVERHEAD, Row, Turns

LIMIT = 400
JOBS = st.lists(
    st.tuples(st.sampled_from(["m", "n"]), st.lists(st.integers(1, 600), min_size=1, max_size=30)),
    min_size=1,
    max_size=8,
)


def waiting(jobs: list[tuple[str, list[int]]]) -> tuple[Turns, list[Row]]:
    turns = Turns()
    rows = [[Row(str(j), model, n) for n in lengths] for j, (model, lengths) in enumerate(jobs)]
    for some in rows:
        turns.add(some)
    return turns, [row for some in rows for row in some]


def all_runs(turns: Turns) -> list[list[Row]]:
    runs = []
    while run := turns.take(lambda _: LIMIT):
        runs.append(run)
    return runs


@given(JOBS)
def test_each_row_is_computed_once(jobs: list[tuple[str, list[int]]]) -> None:
    turns, rows = waiting(jobs)
    assert len(turns) == len(rows)
    computed = [row for run in all_runs(turns) for row in run]
    assert sorted(map(id, computed)) == sorted(map(id, rows))
    assert (len(turns), turns.tokens) == (0, 0)


@given(JOBS)
def test_a_run_is_of_one_model_and_within_the_limit(jobs: list[tuple[str, list[int]]]) -> None:
    turns, _ = waiting(jobs)
    for run in all_runs(turns):
        assert len({row.model for row in run}) == 1
        longest = max(row.length for row in run)
        assert len(run) == 1 or len(run) * longest <= LIMIT
        padding = len(run) * longest - sum(row.length for row in run)
        assert padding <= OVERHEAD * (len(run) - 1)


@given(JOBS, st.integers(0, 7), st.integers(0, 5))
def test_of_a_dropped_job_nothing_more_is_computed(jobs: list[tuple[str, list[int]]], job: int, before: int) -> None:
    turns, rows = waiting(jobs)
    done = [row for _ in range(before) for row in turns.take(lambda _: LIMIT)]
    turns.drop(str(job))
    after = [row for run in all_runs(turns) for row in run]
    assert all(row.job != str(job) for row in after)
    assert sorted(map(id, done + after)) == sorted(id(row) for row in rows if row in done or row.job != str(job))


@given(JOBS, st.integers(0, 5), st.sampled_from(["m", "n", "other"]))
def test_a_short_text_waits_for_two_runs_at_most(jobs: list[tuple[str, list[int]]], before: int, model: str) -> None:
    turns, _ = waiting(jobs)
    for _ in range(before):
        turns.take(lambda _: LIMIT)
    turns.add([Row("new", model, 0)])
    assert any(row.job == "new" for _ in range(2) for row in turns.take(lambda _: LIMIT))


@given(JOBS, st.sampled_from(["m", "n"]))
def test_the_last_model_comes_when_no_other_waits(jobs: list[tuple[str, list[int]]], last: str) -> None:
    turns, rows = waiting(jobs)
    order = []
    while run := turns.take(lambda _: LIMIT, last):
        order += [row.model for row in run]
    assert order == sorted(order, key=lambda model: model == last)
    assert len(order) == len(rows)


@given(JOBS, st.sampled_from(["m", "n"]))
def test_a_model_that_is_not_to_be_taken_waits(jobs: list[tuple[str, list[int]]], never: str) -> None:
    turns, rows = waiting(jobs)
    while run := turns.take(lambda _: LIMIT, never, but=True):
        assert {row.model for row in run} != {never}
    assert len(turns) == sum(row.model == never for row in rows)


def test_a_large_job_goes_on_while_short_ones_keep_coming() -> None:
    turns, rows = waiting([("m", [100] * 40)])
    left = len(rows)
    for i in range(30):
        turns.add([Row(f"s{i}", "n", 5)])
        left -= sum(row.model == "m" for row in turns.take(lambda _: LIMIT))
    assert left == 0, "40 texts of 100 tokens, 4 in a run: each other run was theirs, and those that nobody else wanted"


def test_texts_that_wait_together_share_a_run() -> None:
    turns, _ = waiting([("m", [12])] * 16)
    assert [len(run) for run in all_runs(turns)] == [16]


def test_a_text_far_shorter_than_the_others_runs_alone() -> None:
    turns, _ = waiting([("m", [100, 10, 98, 102, 11])])
    assert sorted(sorted(row.length for row in run) for run in all_runs(turns)) == [[10, 11], [98, 100, 102]]
