"""Plain text: as it is. A form feed begins a page, as printers have it."""

from __future__ import annotations

from rag.extract.source import Source
from rag.types import Extracted


def warm() -> None:
    """Nothing to load: the guess of an encoding is rare."""


def read(source: Source) -> Extracted:
    """Raises `ExtractionError`."""
    builder = source.builder("text")
    pages = source.text().split("\f")
    for number, page in enumerate(pages, 1):
        if len(pages) > 1:
            builder.page(number)
        builder.add(page)
    return builder.finish()
