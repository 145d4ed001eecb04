"""The file that is read, and what its reading may cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rag.extract.builder import Builder
from rag.extract.decoding import decode
from rag.extract.limits import Limits


@dataclass(frozen=True, slots=True)
class Source:
    """One file.

    Attributes:
        name: as its sender calls it; the path's own may be another.
        progress: told (page, pages) where pages are read one by one, and whether this one is scanned.
    """

    path: Path
    name: str
    limits: Limits
    progress: Callable[[int, int, bool], None]

    def data(self) -> bytes:
        """All of it."""
        return self.path.read_bytes()

    def text(self) -> str:
        """All of it, decoded, with `\\n` at the ends of lines."""
        return decode(self.data())

    def builder(self, kind: str) -> Builder:
        """Empty."""
        return Builder(kind, self.limits.text_chars)
