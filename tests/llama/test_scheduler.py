"""The scheduler in simulation: everyone is served, nobody stalls, and nobody's tokens depend on the neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from backends.llama.kv_cache import ALWAYS_COMPUTED
from backends.llama.scheduler import DECODE_RESERVE, PASSED_OVER_S, Sequence
from tests.llama.simulation import Simulation, alone

# Other than every prompt's first token, so that prompts share nothing unless they are meant to.
UNIQUE = 1000


def prompt(n: int, start: int) -> list[int]:
    """`n` tokens that no prompt of another start begins with."""
    return [UNIQUE + start, *(k % 50 for k in range(n - 1))]


@dataclass(frozen=True)
class Arrival:
    """One request of a random workload; `family` prompts share a prefix of `shared` tokens."""

    family: int
    shared: int
    own: int
    n: int
    at: float
    cancel_after: int | None = None

    def tokens(self, i: int) -> list[int]:
        return [*prompt(self.shared, self.family), UNIQUE + 100 + i, *range(self.own)]


ARRIVALS = st.builds(
    Arrival,
    family=st.integers(0, 2),
    shared=st.integers(1, 90),
    own=st.integers(0, 60),
    n=st.integers(1, 40),
    at=st.floats(0, 3),
    cancel_after=st.none() | st.integers(0, 60),
)


@settings(max_examples=200)
@given(
    arrivals=st.lists(ARRIVALS, min_size=1, max_size=12),
    cells=st.integers(200, 700),
    max_sequences=st.integers(1, 6),
    max_batch=st.sampled_from([16, 64, 256]),
    reuse=st.booleans(),
    host_tokens=st.sampled_from([0, 100, 1000]),
)
def test_everyone_finishes_with_the_tokens_they_would_have_alone(
    arrivals: list[Arrival], cells: int, max_sequences: int, max_batch: int, reuse: bool, host_tokens: int
) -> None:
    """Small caches preempt all the time; cancellations come anywhere; the answers stay the same and no cell is lost."""
    sim = Simulation(
        cells=cells, max_sequences=max_sequences, max_batch=max_batch, reuse=reuse, host_tokens=host_tokens
    )
    cancels: list[tuple[int, Sequence]] = []
    for i, a in enumerate(arrivals):
        s = sim.add(f"r{i}", a.tokens(i), a.n, at=a.at)
        if a.cancel_after is not None:
            cancels.append((a.cancel_after, s))
    cancelled = set()
    while cancels and sim.busy:
        if not (sim.scheduler.live or sim.scheduler.waiting):
            sim.now = sim.arrivals[0][0]
        sim.step()
        for after, s in [c for c in cancels if c[0] <= sim.steps]:
            cancels.remove((after, s))
            if s in sim.scheduler.live or s in sim.scheduler.waiting:
                sim.scheduler.finish(s)
                cancelled.add(s.key)
    sim.run()
    for i, a in enumerate(arrivals):
        if (f"r{i}", 0) not in cancelled:
            assert sim.finished[f"r{i}", 0] == alone(a.tokens(i), a.n)


def test_preemption_happens_and_is_not_seen() -> None:
    sim = Simulation(cells=300, max_sequences=6)
    for i in range(6):
        sim.add(f"r{i}", prompt(20, i), 90)
    sim.run()
    assert sim.scheduler.preemptions > 0
    for i in range(6):
        assert sim.finished[f"r{i}", 0] == alone(prompt(20, i), 90)


def test_the_youngest_is_preempted() -> None:
    sim = Simulation(cells=150, max_sequences=2)
    old = sim.add("old", prompt(20, 0), 100)
    sim.step()
    sim.now += 1e-3
    young = sim.add("young", prompt(20, 1), 100)
    while not sim.scheduler.preemptions:
        sim.step()
    assert old.seq is not None
    assert young.seq is None
    sim.run()


def test_a_shared_prefix_is_computed_once() -> None:
    """Eight at once with the same 300 tokens: one computes them, the others wait for it and then share its cells."""
    sim = Simulation(max_sequences=8)
    shared = prompt(300, 0)
    for i in range(8):
        sim.add(f"r{i}", [*shared, UNIQUE + 50 + i, *range(20)], 10)
    sim.run()
    own = 8 * (21 + 10 - 1)
    assert sim.computed_tokens <= 300 + own + 8
    assert all(sim.finished[f"r{i}", 0] == alone([*shared, UNIQUE + 50 + i, *range(20)], 10) for i in range(8))


def test_a_kept_prefix_is_found_again() -> None:
    sim = Simulation()
    sim.add("first", prompt(200, 0), 5)
    sim.run()
    before = sim.computed_tokens
    second = sim.add("second", [*prompt(200, 0), 1, 2, 3], 5)
    sim.run()
    assert second.n_cached == 200
    assert sim.computed_tokens - before == 3 + 5 - 1


def test_a_whole_prompt_that_is_cached_still_computes_its_last_tokens() -> None:
    sim = Simulation()
    for name in ("first", "second"):
        s = sim.add(name, prompt(100, 0), 3)
        sim.run()
    assert s.n_cached == 100 - ALWAYS_COMPUTED
    assert sim.finished["first", 0] == sim.finished["second", 0]


def test_one_that_does_not_fit_does_not_hold_up_the_others() -> None:
    sim = Simulation(cells=600, max_sequences=4)
    runner = sim.add("runner", prompt(200, 0), 150)
    sim.step()
    sim.add("huge", prompt(500, 1), 5)
    small = sim.add("small", prompt(20, 2), 5)
    while sim.finished.get(small.key) is None:
        sim.step()
    assert runner.seq is not None, "the small one had to wait for the long one"
    sim.run()
    assert sim.finished["huge", 0] == alone(prompt(500, 1), 5)


def test_one_that_does_not_fit_is_not_passed_over_for_ever() -> None:
    """A stream of small requests that always fit must not starve a large one."""
    sim = Simulation(cells=600, max_sequences=4)
    for i in range(200):
        sim.add(f"small{i}", prompt(60, 10 + i), 40, at=0.05 * i)
    huge = sim.add("huge", prompt(500, 1), 5, at=0.2)
    while sim.finished.get(huge.key) is None:
        sim.step()
    admitted_within = PASSED_OVER_S + 4 * 40 * sim.seconds_per_decode * 4 + 2.0
    assert sim.now - huge.arrived < admitted_within
    assert sum(1 for key in sim.finished if key[0].startswith("small")) < 150


def test_a_long_prefill_does_not_stall_decoding() -> None:
    """Each step with a decoder in it stays within its budget while a neighbour's 3,500 tokens are computed."""
    sim = Simulation(cells=8192, max_batch=512)
    talker = sim.add("talker", prompt(20, 0), 200)
    sim.step()
    sim.add("long", prompt(3500, 1), 5)
    longest, last = 0.0, sim.now
    while sim.finished.get(("long", 0)) is None:
        said = talker.generated
        sim.step()
        if talker.seq is not None:
            assert talker.generated == said + 1
            longest = max(longest, sim.now - last)
        last = sim.now
    assert longest < 0.15


def test_short_prompts_overtake_a_long_one_but_not_for_ever() -> None:
    sim = Simulation(cells=20_000, max_sequences=32, max_batch=128)
    long = sim.add("long", prompt(3000, 0), 1)
    first = sim.add("short", prompt(30, 1), 1)
    for i in range(400):
        sim.add(f"s{i}", prompt(100, 10 + i), 1, at=0.1 + 0.08 * i)
    while sim.finished.get(long.key) is None:
        sim.step()
    assert first.key in sim.finished
    assert sim.now < 0.1 + 0.08 * 400, "the long prompt came last of all"


@pytest.mark.parametrize("when", range(0, 60, 7))
def test_cancelling_frees_what_it_held(when: int) -> None:
    sim = Simulation(cells=2000)
    s = sim.add("gone", prompt(300, 0), 30)
    other = sim.add("other", [*prompt(150, 0), 9, 9], 30)
    for _ in range(when):
        if sim.busy:
            sim.step()
    sim.scheduler.finish(s)
    assert s.seq is None
    sim.run()
    assert sim.finished[other.key] == alone([*prompt(150, 0), 9, 9], 30)


def test_the_waiting_line_is_served_in_order_when_all_fit() -> None:
    sim = Simulation(max_sequences=1)
    order = [sim.add(f"r{i}", prompt(10, i), 3).key for i in range(5)]
    sim.run()
    assert list(sim.finished) == order


def test_a_sequence_of_the_whole_cache_runs_alone() -> None:
    sim = Simulation(cells=256, max_batch=64)
    sim.add("first", prompt(100, 0), 3)
    whole = sim.add("whole", prompt(250, 1), 5)
    sim.run()
    assert sim.finished[whole.key] == alone(prompt(250, 1), 5)


def test_a_newcomer_leaves_room_to_decode() -> None:
    sim = Simulation(cells=200, max_sequences=4)
    sim.add("first", prompt(100, 0), 60)
    sim.step()
    late = sim.add("late", prompt(100 - DECODE_RESERVE + 5, 1), 3)
    sim.step()
    assert late.seq is None


def test_backlog_counts_what_is_still_to_compute() -> None:
    sim = Simulation(max_sequences=1, max_batch=64)
    sim.add("first", prompt(100, 0), 1)
    sim.add("second", prompt(30, 1), 1)
    assert sim.scheduler.backlog_tokens() == 130
    sim.step()
    assert sim.scheduler.backlog_tokens() == 130 - 64
    sim.run()
    assert sim.scheduler.backlog_tokens() == 0


def test_a_steps_figures_stay_while_it_is_carried_out() -> None:
    """The engine reads them again after sampling, when sequences have grown or ended."""
    sim = Simulation()
    for name in ("a", "b"):
        sim.add(name, prompt(20, ord(name)), 2)
    sim.step()
    sim.add("one", prompt(1, 1), 5)
    plan = sim.step()
    assert (plan.n_decode, plan.n_prefill) == (2, 1)


def test_a_decoding_sequence_leaves_no_prompt_to_compute() -> None:
    sim = Simulation()
    sim.add("one", prompt(20, 1), 5)
    sim.step()
    assert sim.scheduler.backlog_tokens() == 0


def test_tokens_that_somebody_before_computes_are_provided_and_nobodys_backlog() -> None:
    sim = Simulation(max_batch=64)
    system = prompt(200, 1)
    sim.add("first", [*system, *prompt(50, 2)], 1)
    own = [*system, *prompt(30, 3)]
    assert sim.scheduler.provided(own) == 200
    sim.step()  # 64 are in the cache, the rest is promised
    sim.add("second", own, 1)
    sim.step()
    assert sim.scheduler.provided(own) == len(own) - ALWAYS_COMPUTED
    assert sim.scheduler.backlog_tokens() == (250 - 128) + 30
    sim.run()
    assert sim.scheduler.provided([*system, 7]) == 199
    assert sim.scheduler.provided([]) == 0


def test_what_is_said_belongs_to_nobody_else() -> None:
    sim = Simulation()
    s = sim.add("one", prompt(20, 1), 50)
    for _ in range(5):
        sim.step()
    assert s.generated == 5
    assert sim.scheduler.provided([*s.tokens, 1, 2]) == 20


def test_a_memory_that_cannot_share_provides_nothing() -> None:
    sim = Simulation(reuse=False)
    sim.add("one", prompt(20, 1), 5)
    assert sim.scheduler.provided(prompt(20, 1)) == 0


def test_the_newest_is_the_one_that_came_last_wherever_it_is() -> None:
    sim = Simulation(max_sequences=1)
    assert sim.scheduler.newest() == ""
    sim.add("first", prompt(20, 1), 50)
    sim.step()
    assert sim.scheduler.newest() == "first"
    sim.now += 1
    sim.add("second", prompt(20, 2), 1)
    assert sim.scheduler.newest() == "second"
