"""RESULTS.md: each bench's own part of it, and what its figures were taken on."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True)
class Part:
    """What one bench writes, between two markers.

    Attributes:
        heading: what comes before them where the file has no such part yet; empty: then it is refused.
    """

    begin: str
    end: str
    heading: str = ""

    def keep(self, path: Path, text: str) -> None:
        """Puts `text` between the markers; what people wrote around them stays.

        Raises:
            ValueError: a marker is missing.
        """
        old = path.read_text() if path.exists() else "# Results\n"
        if self.begin not in old and self.heading:
            old = f"{old.rstrip()}\n{self.heading}{self.begin}\n{self.end}\n"
        before, found, rest = old.partition(self.begin)
        _, closed, after = rest.partition(self.end)
        if not (found and closed):
            raise ValueError(f"{path} has lost its markers: put {self.begin!r} and {self.end!r} around the part")
        path.write_text(f"{before}{self.begin}\n\n{text}\n{self.end}{after}")


def machine(*own: str, beside: str = "", rounds: int | None = None) -> str:
    """A list of what figures were taken on; `own`: further lines, `beside`: what else is to be said of the cores."""
    memory = psutil.virtual_memory().total / 2**30
    taken = f"Taken on {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}"
    lines = [
        f"CPU: {cpu()}, {psutil.cpu_count()} cores, {memory:.0f} GiB of memory" + (f"; {beside}" if beside else ""),
        f"System: {platform.system()} {platform.release()}, Python {platform.python_version()}",
        *own,
        taken if rounds is None else f"{taken}; {rounds} interleaved rounds",
        f"Load average when it began: {os.getloadavg()[0]:.2f}",
    ]
    return "\n".join(f"- {line}" for line in lines)


def cpu() -> str:
    """The processor's name, as the system has it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
