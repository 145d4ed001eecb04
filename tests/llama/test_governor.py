"""The governor on scripted boxes: figures of CPU use go in, a number of threads comes out."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from backends.llama.governor import WINDOW_S, Governor, candidates


class Box:
    """A box whose use the test decides; `others` and `own` are cores kept busy."""

    def __init__(self, cores: int, most: int) -> None:
        self.busy = self.mine = self.now = 0.0
        self.governor = Governor(most, cores, self.usage)
        self.governor.update(self.now)

    def usage(self) -> tuple[float, float]:
        return self.busy, self.mine

    def window(self, others: float, own: float | None = None) -> int:
        """One window passes; by default the engine keeps all its threads busy. Returns the threads."""
        own = self.governor.threads if own is None else own
        self.now += WINDOW_S
        self.busy += (others + own) * WINDOW_S
        self.mine += own * WINDOW_S
        self.governor.update(self.now)
        return self.governor.threads


def test_an_idle_box_keeps_all_threads() -> None:
    box = Box(cores=4, most=4)
    assert [box.window(0.0) for _ in range(5)] == [4] * 5


def test_one_busy_neighbour_takes_one_thread_at_once() -> None:
    box = Box(cores=2, most=2)
    assert box.window(1.0) == 1


def test_the_gateways_own_half_core_takes_none() -> None:
    box = Box(cores=2, most=2)
    assert [box.window(0.5) for _ in range(4)] == [2] * 4


def test_own_spinning_is_not_the_neighbours() -> None:
    """Two spinning workers keep two cores full: that is the engine itself, so nothing is given up."""
    box = Box(cores=2, most=2)
    assert [box.window(0.0, own=2.0) for _ in range(4)] == [2] * 4


def test_a_neighbour_squeezed_by_own_threads_is_seen() -> None:
    """On two full cores a busy neighbour gets two thirds of one; the engine has the rest."""
    box = Box(cores=2, most=2)
    assert box.window(0.67, own=1.33) == 1


def test_it_recovers_when_two_windows_agree() -> None:
    box = Box(cores=4, most=4)
    assert box.window(3.0) == 1
    assert [box.window(0.0) for _ in range(3)] == [1, 4, 4]


def test_one_quiet_window_is_not_enough() -> None:
    box = Box(cores=2, most=2)
    box.window(1.0)
    assert [box.window(others) for others in (0.0, 1.0, 0.0, 1.0, 0.0, 1.0)] == [1] * 6


def test_there_is_always_one_thread() -> None:
    box = Box(cores=2, most=2)
    assert box.window(2.0, own=0.1) == 1
    assert box.window(9.0, own=0.1) == 1


def test_never_more_than_the_measured_best() -> None:
    box = Box(cores=8, most=5)
    assert [box.window(0.0) for _ in range(4)] == [5] * 4


def test_it_looks_once_a_window() -> None:
    looks = []

    def usage() -> tuple[float, float]:
        looks.append(1)
        return 0.0, 0.0

    governor = Governor(2, 2, usage)
    for i in range(100):
        governor.update(i * WINDOW_S / 50)
    assert len(looks) == 2


@pytest.mark.parametrize("cores", [1, 2, 3, 4, 6, 8, 16, 64])
def test_candidates_are_sane(cores: int) -> None:
    tried = candidates(cores)
    assert tried == sorted(set(tried), reverse=True)
    assert tried[0] == cores
    assert min(tried) >= 1
    assert len(tried) <= 4


def test_the_real_figures_can_be_had() -> None:
    usage: Callable[[], tuple[float, float]] = Governor(1, 1)._usage
    (box, own), (box2, own2) = usage(), usage()
    assert 0 < own <= own2
    assert 0 < box <= box2


def calibrated(others: float, fastest: int) -> tuple[int, int]:
    """(threads now, most threads ever) of a 4-core governor that measured beside a neighbour of `others` cores."""
    busy = mine = now = 0.0

    def measure() -> int:
        nonlocal busy, mine, now
        now, busy, mine = now + 0.2, busy + 0.2 * (4.0), mine + 0.2 * (4.0 - others)
        return fastest

    governor = Governor(4, 4, lambda: (busy, mine))
    governor.calibrate(measure, lambda: now)
    return governor.threads, governor.most


def test_what_is_measured_on_a_free_box_is_believed() -> None:
    assert calibrated(others=0.1, fastest=3) == (3, 3)


def test_what_is_measured_beside_a_neighbour_is_not_kept_for_ever() -> None:
    assert calibrated(others=2.0, fastest=1) == (2, 4)
