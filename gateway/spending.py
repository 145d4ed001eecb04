"""Money: what each key and the site have spent today and this month, with what requests under way may still cost."""

from __future__ import annotations

import math
import time
from calendar import timegm
from collections.abc import Callable, Iterable
from typing import Final

from policies.base import Spent

DAY_S: Final = 86_400
KEPT_DAYS: Final = 62
_UNIT: Final = 1e12  # sums of whole picodollars are exact, in whatever order; one token costs at least thousands


def month_began(unix: float) -> float:
    """Unix time (s) at which the UTC month of `unix` began."""
    now = time.gmtime(unix)
    return float(timegm((now.tm_year, now.tm_mon, 1, 0, 0, 0)))


class Spending:
    """Totals in US dollars, by UTC day and month. Belongs to the event loop.

    A request is charged once, on the day on which it is settled, whenever it began; until then its reservation counts
    against the current day and month.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """`clock`: Unix time (s)."""
        self._clock = clock
        self._days: dict[int, dict[str, int]] = {}
        self._reserved: dict[str, tuple[str, int]] = {}
        self._held: dict[str, int] = {}
        self._held_in_all = 0
        self._today = -1
        self._month: dict[str, int] = {}
        self._day: dict[str, int] = {}
        self._site_month = self._site_day = 0

    def load(self, rows: Iterable[tuple[str, float, str]]) -> None:
        """Adds what earlier runs spent: (key, US dollars, UTC day as `2026-01-31`)."""
        for key, usd, day in rows:
            number = timegm(time.strptime(day, "%Y-%m-%d")) // DAY_S
            totals = self._days.setdefault(number, {})
            totals[key] = totals.get(key, 0) + _units(usd)
        self._today = -1

    def spent(self, key: str) -> Spent:
        """By that key and by the site: settled and reserved."""
        self._turn()
        held = self._held.get(key, 0)
        return Spent(
            (self._day.get(key, 0) + held) / _UNIT,
            (self._month.get(key, 0) + held) / _UNIT,
            (self._site_day + self._held_in_all) / _UNIT,
            (self._site_month + self._held_in_all) / _UNIT,
        )

    def reserve(self, request_id: str, key: str, usd: float) -> None:
        """Sets aside all that the request may have cost in the end. A second call replaces the first.

        Raises:
            ValueError: not a finite amount of 0 or more.
        """
        amount = _units(usd)
        self.release(request_id)
        self._reserved[request_id] = key, amount
        self._held[key] = self._held.get(key, 0) + amount
        self._held_in_all += amount

    def settle(self, request_id: str, usd: float) -> None:
        """Charges what the request did cost, in place of what was set aside.

        A second call changes nothing; nor does one for a request that reserved nothing. An amount that is none (below
        0, not finite) charges the reservation.
        """
        held = self._take(request_id)
        if held is None:
            return
        key, amount = held
        if math.isfinite(usd) and usd >= 0:
            amount = _units(usd)
        if not amount:
            return
        self._turn()
        self._day[key] = self._day.get(key, 0) + amount
        self._month[key] = self._month.get(key, 0) + amount
        self._site_day += amount
        self._site_month += amount

    def release(self, request_id: str) -> None:
        """Lets go of what was set aside; nothing is charged."""
        self._take(request_id)

    def _take(self, request_id: str) -> tuple[str, int] | None:
        held = self._reserved.pop(request_id, None)
        if held is not None:
            key, amount = held
            self._held_in_all -= amount
            self._held[key] -= amount
        return held

    def _turn(self) -> None:
        """Adds the totals up again on another day: the next, or an earlier one as the clock is put right."""
        today = int(self._clock() // DAY_S)
        if today == self._today:
            return
        self._today = today
        self._day = self._days.setdefault(today, {})
        while len(self._days) > KEPT_DAYS:
            del self._days[min(self._days)]
        month = month_began(today * DAY_S)
        self._month = {}
        for number, totals in self._days.items():
            if month_began(number * DAY_S) == month:
                for key, amount in totals.items():
                    self._month[key] = self._month.get(key, 0) + amount
        self._site_day, self._site_month = sum(self._day.values()), sum(self._month.values())


def _units(usd: float) -> int:
    if not (math.isfinite(usd) and usd >= 0):
        raise ValueError(f"{usd} US dollars cannot be spent")
    return round(usd * _UNIT)
