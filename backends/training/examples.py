"""Labelled texts from a CSV file: each text once, and every fault of the file named with its line."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from backends.training.common import TrainingError

FEWEST = 8
"""Different texts that a label needs: enough to learn from, to calibrate on and to be measured with."""
_DELIMITERS = ",;\t|"


@dataclass(frozen=True, slots=True)
class Limits:
    """Of what a file may hold, so that memory is bounded.

    Attributes:
        characters: of all texts together.
    """

    rows: int = 100_000
    characters: int = 200_000_000
    labels: int = 500


LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Examples:
    """Different texts with their labels, in the file's order.

    Attributes:
        rows: of the file, duplicates included.
        duplicates: rows that said again what another had said, capitals and spaces apart.
        contradictions: texts that are left out, since the file puts them under more than one label.
    """

    texts: tuple[str, ...]
    labels: tuple[str, ...]
    rows: int
    duplicates: int = 0
    contradictions: int = 0


def read_examples(path: Path, text: str = "text", label: str = "label", limits: Limits = LIMITS) -> Examples:
    """The examples in a CSV file whose first line names its columns; commas, semicolons or tabs between them.

    Raises:
        TrainingError: it cannot be read, is not UTF-8, lacks a column, has a row without a text or label, or fewer than
            two labels or `FEWEST` texts of one, or is over a limit.
    """
    rows = list(_rows(path, text, label, limits))
    if not rows:
        raise TrainingError(f"{path} has no rows below its first line.")
    examples = _each_once(rows)
    _check_labels(path, examples, label, limits.labels)
    return examples


def key_of(text: str) -> str:
    """Equal for texts that differ in capitals, spaces or Unicode's ways of writing the same only."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _rows(path: Path, text: str, label: str, limits: Limits) -> Iterator[tuple[str, str]]:
    total, empty = 0, []
    for count, (line, row) in enumerate(table(path, (text, label), "--text and --label"), 1):
        if count > limits.rows:
            raise TrainingError(f"{path} has more than {limits.rows:,} rows. A random part of them teaches as much.")
        content, name = (row[text] or "").strip(), (row[label] or "").strip()
        total += len(content)
        if total > limits.characters:
            raise TrainingError(f"{path} has more than {limits.characters:,} characters of text. Take fewer rows.")
        if content and name:
            yield content, name
        else:
            empty.append(line)
    if empty:
        lines = ", ".join(str(line) for line in empty[:5]) + (", …" if len(empty) > 5 else "")
        raise TrainingError(f"{path}: {len(empty)} rows have no text or no label (line {lines}). Fill or delete them.")


def table(path: Path, columns: Sequence[str], options: str) -> Iterator[tuple[int, Mapping[str, str | None]]]:
    """Each row of a CSV file that is not blank, with its line.

    Args:
        columns: that must be there.
        options: of the command, which name them; told where one is missing.

    Raises:
        TrainingError: it cannot be read, is not UTF-8, or lacks a column.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = _decoded(path, file)
            first = next(lines, "")
            delimiter = max(_DELIMITERS, key=first.count)
            reader = csv.DictReader(_chain(first, lines), delimiter=delimiter)
            names = [name for name in reader.fieldnames or () if name]
            if missing := [column for column in columns if column not in names]:
                there = ", ".join(repr(name) for name in names) or "none"
                raise TrainingError(
                    f"{path} has no column {missing[0]!r}. Its columns: {there}. Name yours with {options}."
                )
            for row in reader:
                if any(row.values()):
                    yield reader.line_num, row
    except OSError as error:
        raise TrainingError(f"{path} cannot be read: {error.strerror or error}.") from None
    except csv.Error as error:
        raise TrainingError(f"{path}, line {reader.line_num + 1}: {error}.") from None


def _decoded(path: Path, file: io.TextIOBase) -> Iterator[str]:
    try:
        yield from file
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise TrainingError(
            f"{path} is not UTF-8{_where(path)} (byte 0x{byte:02x}). Save it as 'CSV UTF-8', or convert it: "
            f"iconv -f WINDOWS-1252 -t UTF-8 {path.name} > utf8.csv"
        ) from None


def _where(path: Path) -> str:
    """In which line of the file: the decoder only knows its own buffer."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return f", line {number}"
    return ""


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _each_once(rows: Sequence[tuple[str, str]]) -> Examples:
    seen: dict[str, tuple[str, set[str]]] = {}
    for text, label in rows:
        seen.setdefault(key_of(text), (text, set()))[1].add(label)
    whole = [(text, next(iter(labels))) for text, labels in seen.values() if len(labels) == 1]
    return Examples(
        texts=tuple(text for text, _ in whole),
        labels=tuple(label for _, label in whole),
        rows=len(rows),
        duplicates=len(rows) - len(seen),
        contradictions=len(seen) - len(whole),
    )


def _check_labels(path: Path, examples: Examples, column: str, most: int) -> None:
    counts = Counter(examples.labels)
    if len(counts) < 2:
        only = f"only the label {next(iter(counts))!r}" if counts else "no label that is sure"
        raise TrainingError(f"{path}: {only} in the column {column!r}. At least two are needed to tell them apart.")
    if len(counts) > most:
        raise TrainingError(
            f"{path}: {len(counts):,} labels in the column {column!r}, at most {most}. Is it the right column?"
        )
    if few := sorted((count, name) for name, count in counts.items() if count < FEWEST):
        named = ", ".join(f"{name!r} has {count}" for count, name in few[:5]) + (", …" if len(few) > 5 else "")
        raise TrainingError(
            f"{path}: each label needs at least {FEWEST} different texts: {named}. "
            "Add some, or put rare labels together as one ('other')."
        )
