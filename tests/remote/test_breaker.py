"""The circuit breaker, under a clock that the test moves."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from backends.remote.breaker import FAILURES, FIRST_PAUSE_S, LONGEST_PAUSE_S, TRIAL_S, Breaker


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(clock)


def test_failures_in_a_row_open_it(breaker: Breaker) -> None:
    for _ in range(FAILURES - 1):
        breaker.failed("bad")
    breaker.succeeded()
    for _ in range(FAILURES - 1):
        breaker.failed("bad")
        assert breaker.state == "closed"
    breaker.failed("worse")
    assert (breaker.state, breaker.reason, breaker.retry_after) == ("open", "worse", FIRST_PAUSE_S)
    assert not breaker.begin()


def test_no_connection_opens_it_at_once_and_a_knock_heals_only_that(breaker: Breaker) -> None:
    breaker.unreachable("no route")
    assert breaker.state == "open"
    breaker.reached()
    assert breaker.state == "closed"
    for _ in range(FAILURES):
        breaker.failed("500")
    breaker.reached()
    assert breaker.state == "open"


def test_a_pause_that_it_asked_for_is_kept_within_bounds(breaker: Breaker, clock: Clock) -> None:
    breaker.failed("busy", 40)
    assert breaker.retry_after == 40
    clock.now = 39.9
    assert not breaker.available
    clock.now = 40
    assert breaker.available
    breaker.failed("busy", 1e9)
    assert breaker.retry_after == LONGEST_PAUSE_S


def test_each_failed_trial_doubles_the_pause_and_late_failures_do_not(breaker: Breaker, clock: Clock) -> None:
    for _ in range(FAILURES):
        breaker.failed("500")
    pauses = []
    for _ in range(9):
        for _ in range(5):
            breaker.failed("sent before it opened")
        clock.now += breaker.retry_after
        assert breaker.begin()
        assert not breaker.begin()
        breaker.failed("again")
        pauses.append(breaker.retry_after)
    assert pauses == [min(FIRST_PAUSE_S * 2**n, LONGEST_PAUSE_S) for n in range(1, 10)]


def test_a_trial_that_is_lost_or_given_up_lets_another_be_made(breaker: Breaker, clock: Clock) -> None:
    breaker.failed("busy", 1)
    clock.now = 1
    assert breaker.begin()
    assert breaker.retry_after == TRIAL_S
    breaker.abandoned()
    assert breaker.begin()
    clock.now += TRIAL_S
    assert breaker.begin()


class Life(RuleBasedStateMachine):
    """Whatever happens in whatever order."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.breaker = Breaker(self.clock)
        self.trials = 0
        self.row = 0

    @rule(seconds=st.sampled_from([0.0, 0.5, 2.0, 31.0, 200.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds
        if seconds >= TRIAL_S:
            self.trials = 0

    @rule()
    def begin(self) -> None:
        state, available = self.breaker.state, self.breaker.available
        began = self.breaker.begin()
        assert began == available
        assert began or state != "closed"
        assert not (began and state == "open")
        if state == "half_open" and began:
            self.trials += 1

    @rule()
    def succeeds(self) -> None:
        self.breaker.succeeded()
        self.trials = self.row = 0
        assert self.breaker.state == "closed"
        assert self.breaker.reason == ""

    @rule(pause=st.none() | st.floats(0, 1e6))
    def fails(self, pause: float | None) -> None:
        self.breaker.failed("bad", pause)
        self.trials, self.row = 0, self.row + 1
        assert self.breaker.reason == "bad"

    @rule()
    def cannot_be_reached(self) -> None:
        self.breaker.unreachable("gone")
        self.trials, self.row = 0, self.row + 1
        assert self.breaker.state == "open"

    @precondition(lambda self: self.trials)
    @rule()
    def gives_up(self) -> None:
        self.breaker.abandoned()
        self.trials = 0

    @invariant()
    def one_trial_at_a_time(self) -> None:
        assert self.trials <= 1

    @invariant()
    def it_is_never_shut_for_good(self) -> None:
        assert 0 <= self.breaker.retry_after <= LONGEST_PAUSE_S
        assert self.breaker.available == (self.breaker.retry_after == 0)
        if self.row >= FAILURES:
            assert self.breaker.state != "closed"


Life.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestLife = Life.TestCase
