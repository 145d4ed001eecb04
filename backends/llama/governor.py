"""How many threads to compute with, measured rather than guessed.

llama.cpp's workers spin at barriers: with as many threads as cores, one other busy process makes every barrier wait for
a descheduled worker. Measured on 2 cores with one busy neighbour: 2 threads 39 tokens/s, 1 thread 78. So the engine
asks the operating system what the rest of the box uses, and takes what is left.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence

WINDOW_S = 0.25
# Parts of a core that others may use before a thread is given up. The gateway and its clients need up to half a core
# at eight streams; a busy neighbour of two spinning workers on two cores is given two thirds.
TOLERANCE = 0.6


def candidates(cores: int) -> list[int]:
    """Thread counts worth measuring at load: more than the physical cores seldom helps, so the middle is tried too."""
    return sorted({cores, max(1, cores - 1), max(1, cores * 3 // 4), max(1, cores // 2)}, reverse=True)


class Governor:
    """Follows the load of the box; `threads` is what to compute with now."""

    def __init__(self, most: int, cores: int, usage: Callable[[], tuple[float, float]] | None = None) -> None:
        """`usage` returns (busy core-seconds of the whole box, of this process); psutil's by default."""
        self.threads = most
        self.most = most
        self._cores = cores
        self._usage = usage or _psutil_usage()
        self._at = -math.inf
        self._last = (0.0, 0.0)
        self._freer = 0

    def calibrate(self, measure: Callable[[], int], clock: Callable[[], float]) -> None:
        """Let `measure` find the fastest thread count, and believe it only if the box was free meanwhile: beside a
        busy neighbour few threads win, and would be all there ever are."""
        self._others(clock())
        fastest = measure()
        others = self._others(clock())
        self.most = fastest if others <= TOLERANCE else self._cores
        self.threads = min(self.most, self._free(others))

    def update(self, now: float) -> bool:
        """Look again if a window has passed; True if `threads` changed."""
        span = now - self._at
        if span < WINDOW_S:
            return False
        others = self._others(now)
        if span == math.inf:
            return False
        wanted = min(self.most, self._free(others))
        # Down at once, up only when two windows agree: a wrong 'up' costs far more than a late one.
        self._freer = self._freer + 1 if wanted > self.threads else 0
        if wanted == self.threads or self._freer == 1:
            return False
        self.threads = wanted
        self._freer = 0
        return True

    def _others(self, now: float) -> float:
        """Cores that others have used on average since the last look."""
        box, own = self._usage()
        others = ((box - self._last[0]) - (own - self._last[1])) / max(now - self._at, 1e-3)
        self._at, self._last = now, (box, own)
        return others

    def _free(self, others: float) -> int:
        return max(1, math.floor(self._cores - others + TOLERANCE))


def _psutil_usage() -> Callable[[], tuple[float, float]]:
    import psutil

    own = psutil.Process()
    mine: Sequence[int] = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else ()

    def usage() -> tuple[float, float]:
        each = psutil.cpu_times(percpu=True)
        cores = [each[i] for i in mine if i < len(each)] or each
        busy = sum(sum(c) - c.idle - getattr(c, "iowait", 0.0) - getattr(c, "guest", 0.0) for c in cores)
        times = own.cpu_times()
        return float(busy), float(times.user + times.system)

    return usage
