"""Tables, a row a line: with its columns' names where the table has them, since a chunk may hold one row alone."""

from __future__ import annotations

from collections.abc import Sequence

from rag.extract.builder import Builder, squeeze

MOST_NAME_CHARS = 60


def write_table(builder: Builder, rows: Sequence[Sequence[str]], names: Sequence[str] | None) -> None:
    """`name: value; name: value`, or `value | value` where the columns have no names."""
    builder.gap()
    if names is not None and not rows:
        rows, names = [names], None
    for cells in rows:
        text = row_text(cells, names)
        if text:
            builder.row(text)
    builder.gap()


def row_text(cells: Sequence[str], names: Sequence[str] | None) -> str:
    """One row's line; empty where all cells are."""
    values = [squeeze(cell) for cell in cells]
    if names is None:
        return " | ".join(values).rstrip(" |")
    labels = [squeeze(name)[:MOST_NAME_CHARS] for name in names] + [""] * (len(values) - len(names))
    pairs = zip(labels, values, strict=False)
    return "; ".join(f"{label}: {value}" if label else value for label, value in pairs if value)


def looks_like_names(cells: Sequence[str]) -> bool:
    """Whether a table's first row names its columns: words, each once, none of them a number."""
    values = [squeeze(cell) for cell in cells]
    filled = [value for value in values if value]
    return (
        len(filled) > 1
        and len(filled) >= len(values) - 1
        and len(set(filled)) == len(filled)
        and all(len(value) <= MOST_NAME_CHARS and not _is_number(value) for value in filled)
    )


def _is_number(text: str) -> bool:
    return not any(c.isalpha() for c in text) and any(c.isdigit() for c in text)
