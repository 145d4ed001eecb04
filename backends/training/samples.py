"""An operator's own texts: on which a model is measured, and by which it is calibrated."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.training.common import TrainingError
from backends.training.examples import key_of, table

FEWEST_SAMPLES = 5
MOST_SAMPLES = 1000
FEWEST_CALIBRATION = 10
MOST_CALIBRATION = 128
"""Texts by which scales are chosen; twice as many chose the same, and each is computed several times over."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A text; for a reranker with its query."""

    text: str
    query: str | None = None


def read_samples(path: Path, task: str, column: str = "text", fewest: int = FEWEST_SAMPLES) -> list[Sample]:
    """All samples of a file: `.csv` with a column of texts, `.jsonl` with objects that have such a field, of any other
    name a sample a line. A reranker's have a `query` too; a line is then a query, a tab and a document.

    Raises:
        TrainingError: it cannot be read, or holds too few.
    """
    pair = task == "rerank"
    kind = path.suffix.lower()
    if kind == ".csv":
        samples = list(_from_table(path, column, pair=pair))
    elif kind == ".jsonl":
        samples = [_from_object(path, number, line, column, pair=pair) for number, line in _lines(path)]
    else:
        samples = [_from_line(path, line, pair=pair) for _, line in _lines(path)]
    if len(samples) < fewest:
        raise TrainingError(f"{path} has {len(samples)} samples; at least {fewest} are needed, a hundred tell more.")
    return samples


def held_apart(calibration: Sequence[Sample], samples: Sequence[Sample]) -> list[Sample]:
    """Of those by which it is calibrated, each once, without what it is measured on.

    Raises:
        TrainingError: too few are left.
    """
    taken = {_key(sample) for sample in samples}
    left: dict[tuple[str, str], Sample] = {}
    for sample in calibration:
        if (key := _key(sample)) not in taken:
            left.setdefault(key, sample)
    if len(left) < FEWEST_CALIBRATION:
        raise TrainingError(
            f"Only {len(left)} different texts to calibrate by are not among the samples; at least "
            f"{FEWEST_CALIBRATION} are needed. Give other texts than those that measure."
        )
    return list(left.values())


def spread(samples: Sequence[Sample], most: int) -> list[Sample]:
    """At most so many, from everywhere in the file."""
    step = max(1.0, len(samples) / most)
    return [samples[int(at * step)] for at in range(min(most, len(samples)))]


def _key(sample: Sample) -> tuple[str, str]:
    return key_of(sample.query or ""), key_of(sample.text)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Those that are not blank, with their numbers."""
    try:
        content = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise TrainingError(f"{path} cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError:
        raise TrainingError(f"{path} is not UTF-8.") from None
    # Only what ends a line in a file: `splitlines` would cut a text at a form feed.
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip():
            yield number, line.strip()


def _from_line(path: Path, line: str, *, pair: bool) -> Sample:
    if not pair:
        return Sample(line)
    query, tab, text = line.partition("\t")
    if not tab:
        raise TrainingError(f"{path}: a reranker's sample is a query, a tab and a document; not so: {line[:60]!r}.")
    return Sample(text, query)


def _from_object(path: Path, number: int, line: str, column: str, *, pair: bool) -> Sample:
    try:
        said: Any = json.loads(line)
    except ValueError:
        raise TrainingError(f"{path}, line {number}: no JSON.") from None
    fields: dict[str, Any] = said if isinstance(said, dict) else {}
    text, query = fields.get(column), fields.get("query") if pair else None
    if isinstance(text, str) and text.strip() and (not pair or (isinstance(query, str) and query.strip())):
        return Sample(text, query)
    wanted = f"{column!r} and 'query'" if pair else f"{column!r}"
    raise TrainingError(f"{path}, line {number}: it should be an object with the text {wanted}.")


def _from_table(path: Path, column: str, *, pair: bool) -> Iterator[Sample]:
    for line, row in table(path, (column, *(["query"] if pair else [])), "--text"):
        text, query = (row[column] or "").strip(), (row["query"] or "").strip() if pair else None
        if not text or query == "":
            raise TrainingError(f"{path}, line {line}: the text is empty, or the query.")
        yield Sample(text, query)
