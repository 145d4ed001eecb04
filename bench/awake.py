"""Cores that never halt while something is measured: what a machine without sleeping cores would show.

A virtual machine gives a core back to its host whenever nothing runs on it; each message between processes then waits
for it to come again, and finds its caches cold. Processes of the idle class (they run only where nobody else would)
keep the cores.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

SPIN = """
import os
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(1_000_000):
        pass
"""


@contextlib.contextmanager
def awake() -> Iterator[None]:
    """Linux only. Raises OSError elsewhere."""
    if not hasattr(os, "SCHED_IDLE"):
        raise OSError("this system has no idle class of processes")
    spinners = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()
