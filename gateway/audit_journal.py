"""Where a departure is written before the send: two files of lines, used in turns.

The event loop appends to one of them while the writer empties the other, once all of its lines are in the database: no
file is ever appended to and emptied at the same time. A line that the kernel has taken survives the end of the process.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from gateway.audit_rows import Departure, Row, departure_row, to_departure

NAMES: Final = ("egress.journal", "egress.journal.2")
FULL_BYTES: Final = 1 << 20


class Journal:
    """The two files. `append` belongs to the event loop, all else to the writer."""

    def __init__(self, folder: Path, full_bytes: int = FULL_BYTES) -> None:
        """Opens them, for this process alone.

        Raises:
            OSError: they cannot be opened; `BlockingIOError`: another process has them.
        """
        self._full_bytes = full_bytes
        self._files: list[int] = []
        try:
            for name in NAMES:
                self._files.append(os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600))
                os.fchmod(self._files[-1], 0o600)
            fcntl.flock(self._files[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.close()
            raise
        self._active = 0
        self._size = 0
        self._torn = False
        self._empty = [False, False]

    def append(self, line: bytes) -> int | None:
        """Adds a line, with its end. Returns the number of a file that is full now: once all lines so far are in the
        database, `clear` it.

        Raises:
            OSError: it is not, or not wholly, in the file.
        """
        if self._torn:
            line = b"\n" + line  # so that what is left of the last line spoils none but itself
        self._torn = True
        if os.write(self._files[self._active], line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._torn = False
        self._size += len(line)
        other = 1 - self._active
        if self._size < self._full_bytes or not self._empty[other]:
            return None
        full, self._active, self._size = self._active, other, 0
        self._empty[other] = False
        return full

    def rows(self) -> tuple[list[tuple[Departure, Row]], int]:
        """What is in both files, in order, and how many lines could not be read."""
        found: dict[int, tuple[Departure, Row]] = {}
        torn = 0
        for line in self._lines():
            try:
                departure = to_departure(line)
                found[departure.number] = departure, departure_row(departure, line.rstrip(b"\n") + b"\n")
            except (ValueError, TypeError, KeyError):
                torn += 1
        return [found[number] for number in sorted(found)], torn

    def _lines(self) -> Iterator[bytes]:
        for file in self._files:
            with os.fdopen(os.dup(file), "rb") as lines:
                lines.seek(0)
                yield from (line for line in lines if line != b"\n")

    def clear(self, number: int) -> None:
        """Empties a file whose lines are all in the database, and which is not appended to."""
        os.ftruncate(self._files[number], 0)
        self._empty[number] = True

    def clear_all(self) -> None:
        """Empties both, while nobody appends."""
        for number in range(len(self._files)):
            self.clear(number)
        self._empty[self._active] = False
        self._size = 0

    def close(self) -> None:
        """Lets go of the files."""
        while self._files:
            os.close(self._files.pop())
