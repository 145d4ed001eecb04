"""Money: what is settled is counted once, on the day it is settled, whatever else happens in between."""

from __future__ import annotations

from calendar import timegm
from dataclasses import astuple, dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.spending import KEPT_DAYS, Spending, month_began
from policies.base import Spent

DAY = 86_400.0
START = float(timegm((2026, 1, 31, 12, 0, 0)))


@dataclass
class Clock:
    now: float = START

    def __call__(self) -> float:
        return self.now


def test_a_reservation_counts_until_it_is_settled() -> None:
    spending = Spending(Clock())
    spending.reserve("a", "kiosk", 0.5)
    assert spending.spent("kiosk") == Spent(0.5, 0.5, 0.5, 0.5)
    assert spending.spent("van") == Spent(0.0, 0.0, 0.5, 0.5)
    spending.settle("a", 0.2)
    assert spending.spent("kiosk") == Spent(0.2, 0.2, 0.2, 0.2)


def test_settling_twice_charges_once() -> None:
    spending = Spending(Clock())
    spending.reserve("a", "kiosk", 0.5)
    spending.settle("a", 0.2)
    spending.settle("a", 0.2)
    spending.release("a")
    assert spending.spent("kiosk").site_month == 0.2


def test_what_is_released_costs_nothing() -> None:
    spending = Spending(Clock())
    spending.reserve("a", "kiosk", 0.5)
    spending.release("a")
    spending.settle("a", 0.5)
    assert spending.spent("kiosk") == Spent()


def test_a_second_reservation_replaces_the_first() -> None:
    spending = Spending(Clock())
    spending.reserve("a", "kiosk", 0.5)
    spending.reserve("a", "van", 0.7)
    assert spending.spent("kiosk").key_day == 0.0
    assert spending.spent("van") == Spent(0.7, 0.7, 0.7, 0.7)


def test_free_reservations_are_no_trouble() -> None:
    spending = Spending(Clock())
    spending.reserve("a", "kiosk", 0.0)
    spending.reserve("b", "kiosk", 0.0)
    spending.settle("a", 0.0)
    spending.settle("b", 0.0)
    assert spending.spent("kiosk") == Spent()


@pytest.mark.parametrize("usd", [-1.0, float("nan"), float("inf")])
def test_amounts_that_are_none(usd: float) -> None:
    spending = Spending(Clock())
    with pytest.raises(ValueError, match="cannot be spent"):
        spending.reserve("a", "kiosk", usd)
    assert spending.spent("kiosk") == Spent()
    spending.reserve("a", "kiosk", 0.5)
    spending.settle("a", usd)
    assert spending.spent("kiosk").key_day == 0.5, "a provider's nonsense must not make the request free"


def test_days_and_months_begin_anew() -> None:
    clock = Clock()
    spending = Spending(clock)
    spending.reserve("a", "kiosk", 1.0)
    spending.settle("a", 1.0)
    clock.now = float(timegm((2026, 1, 31, 23, 59, 59)))
    assert spending.spent("kiosk").key_day == 1.0
    clock.now += 1
    assert spending.spent("kiosk") == Spent(), "the first of February"
    spending.reserve("b", "kiosk", 2.0)
    spending.settle("b", 2.0)
    clock.now += DAY
    assert spending.spent("kiosk") == Spent(0.0, 2.0, 0.0, 2.0)


def test_a_request_is_charged_on_the_day_it_ends() -> None:
    clock = Clock()
    spending = Spending(clock)
    spending.reserve("a", "kiosk", 1.0)
    clock.now += DAY
    assert spending.spent("kiosk") == Spent(1.0, 1.0, 1.0, 1.0), "what is under way counts today"
    spending.settle("a", 0.4)
    assert spending.spent("kiosk") == Spent(0.4, 0.4, 0.4, 0.4)
    clock.now -= DAY
    assert spending.spent("kiosk") == Spent()


def test_a_clock_that_is_put_back_forgets_nothing() -> None:
    clock = Clock(START - 5 * DAY)
    spending = Spending(clock)
    spending.reserve("a", "kiosk", 1.0)
    spending.settle("a", 1.0)
    clock.now -= 2 * DAY
    assert spending.spent("kiosk") == Spent(0.0, 1.0, 0.0, 1.0)
    clock.now += 20 * 365 * DAY
    assert spending.spent("kiosk") == Spent()
    clock.now -= 20 * 365 * DAY - 2 * DAY
    assert spending.spent("kiosk").key_day == 1.0


def test_earlier_runs_count() -> None:
    spending = Spending(Clock())
    spending.load([("kiosk", 1.0, "2026-01-31"), ("kiosk", 2.0, "2026-01-01"), ("van", 4.0, "2026-01-30")])
    spending.load([("kiosk", 8.0, "2025-12-31")])
    assert spending.spent("kiosk") == Spent(1.0, 3.0, 1.0, 7.0)


def test_old_days_are_forgotten() -> None:
    clock = Clock()
    spending = Spending(clock)
    for day in range(3 * KEPT_DAYS):
        clock.now = START + day * DAY
        spending.reserve("a", "kiosk", 1.0)
        spending.settle("a", 1.0)
        assert spending.spent("kiosk").key_day == 1.0
    assert len(spending._days) <= KEPT_DAYS + 1


def test_the_month_of_a_moment() -> None:
    assert month_began(START) == timegm((2026, 1, 1, 0, 0, 0))
    assert month_began(month_began(START)) == month_began(START)


Step = tuple[str, int, int, float]
steps = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "settle", "release", "tick"]),
        st.integers(0, 4),
        st.integers(0, 2),
        st.floats(0, 1e6, allow_nan=False),
    ),
    max_size=60,
)


@given(steps)
def test_totals_are_the_sums_of_what_was_settled(steps: list[Step]) -> None:
    clock = Clock()
    spending = Spending(clock)
    reserved: dict[str, tuple[str, float]] = {}
    settled: list[tuple[str, float, float]] = []
    for what, request, key, usd in steps:
        name = f"r{request}"
        if what == "reserve":
            spending.reserve(name, f"k{key}", usd)
            reserved[name] = f"k{key}", usd
        elif what == "settle":
            spending.settle(name, usd)
            if name in reserved:
                settled.append((reserved.pop(name)[0], clock.now, usd))
        elif what == "release":
            spending.release(name)
            reserved.pop(name, None)
        else:
            clock.now += DAY * (usd % 3)
        for asked in ("k0", "k1", "k2"):
            found = astuple(spending.spent(asked))
            assert found == pytest.approx(astuple(expected(asked, clock.now, reserved, settled)), abs=1e-9)
            assert min(found) >= 0


def expected(
    key: str, now: float, reserved: dict[str, tuple[str, float]], settled: list[tuple[str, float, float]]
) -> Spent:
    def total(by_key: bool, by_day: bool) -> float:
        held = [usd for name, usd in reserved.values() if name == key or not by_key]
        paid = [
            usd
            for name, at, usd in settled
            if (name == key or not by_key)
            and (at // DAY == now // DAY if by_day else month_began(at) == month_began(now))
        ]
        return sum(held) + sum(paid)

    return Spent(total(True, True), total(True, False), total(False, True), total(False, False))
