"""CSV: a row a line, with its columns' names. The delimiter is what makes most rows equally long."""

from __future__ import annotations

import csv
import io
from collections import Counter

from rag.extract.errors import invalid
from rag.extract.source import Source
from rag.extract.tables import looks_like_names, row_text
from rag.types import Extracted

_DELIMITERS = ",;\t|"
_SAMPLE_CHARS = 1 << 15
_SAMPLE_ROWS = 200


def warm() -> None:
    """Nothing to load."""


def read(source: Source) -> Extracted:
    """Raises `ExtractionError`."""
    text = source.text().replace("\x00", " ")
    usual = csv.field_size_limit()  # of the whole process
    csv.field_size_limit(max(usual, len(text)))
    try:
        return _read(source, text)
    finally:
        csv.field_size_limit(usual)


def _read(source: Source, text: str) -> Extracted:
    builder = source.builder("csv")
    delimiter, columns = _shape(text)
    names: list[str] | None = None
    seen = False
    try:
        for cells in csv.reader(io.StringIO(text), delimiter=delimiter):
            # What stands before the first whole row is the export's own head, not a row.
            if not seen and len(cells) == columns > 1:
                seen = True
                if looks_like_names(cells):
                    names = cells
                    continue
            line = row_text(cells, names if len(cells) == columns else None)
            if line:
                builder.row(line)
    except csv.Error as error:
        raise invalid(f"{source.name} is no table that can be read: {error}. Save it as CSV anew.") from None
    if names and not builder.length:
        builder.row(row_text(names, None))
    return builder.finish()


def _shape(text: str) -> tuple[str, int]:
    """The delimiter, and how many columns most rows have with it."""
    sample = text[:_SAMPLE_CHARS]
    if len(text) > len(sample):
        sample = sample[: sample.rfind("\n") + 1] or sample
    best, choice = (0.0, 0), (",", 1)
    for delimiter in _DELIMITERS:
        lengths = _lengths(sample, delimiter)
        if not lengths:
            continue
        columns, rows = lengths.most_common(1)[0]
        score = (rows / lengths.total(), columns)
        if columns > 1 and score > best:
            best, choice = score, (delimiter, columns)
    return choice


def _lengths(sample: str, delimiter: str) -> Counter[int]:
    try:
        rows = csv.reader(io.StringIO(sample), delimiter=delimiter)
        return Counter(len(cells) for cells, _ in zip(rows, range(_SAMPLE_ROWS), strict=False) if any(cells))
    except csv.Error:
        return Counter()
