"""JSON: a value a line, with the path to it; a list of plain records a record a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from rag.extract.builder import Builder
from rag.extract.errors import ExtractionError, invalid
from rag.extract.source import Source
from rag.extract.tables import row_text
from rag.types import Extracted

_MOST_FIELDS = 60
_LINED = (".jsonl", ".ndjson")


def warm() -> None:
    """Nothing to load."""


def read(source: Source) -> Extracted:
    """Raises `ExtractionError`."""
    text = source.text()
    builder = source.builder("json")
    if source.name.lower().endswith(_LINED):
        _read_lines(builder, text, source.name)
        return builder.finish()
    try:
        value = _parse(text)
    except ValueError as error:
        if _whole_lines(builder, text, source.name):
            return builder.finish()
        raise _broken(source.name, error) from None
    _write(builder, value)
    return builder.finish()


def _parse(text: str) -> Any:
    # Numbers stay as they are written: 4.20 is not 4.2, and no digit of a long one is lost.
    return json.loads(text, parse_int=str, parse_float=str, parse_constant=str)


def _broken(name: str, error: ValueError) -> ExtractionError:
    where = f" (line {error.lineno}, column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
    return invalid(f"{name} is not valid JSON{where}. Mend it, or send it as .txt.")


def _read_lines(builder: Builder, text: str, name: str) -> None:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = _parse(line)
        except ValueError:
            raise invalid(f"Line {number} of {name} is not valid JSON. Mend it, or send it as .txt.") from None
        record = _record(value)
        if record is None:
            _write(builder, value, f"[{number - 1}]")
        else:
            builder.row(record)


def _whole_lines(builder: Builder, text: str, name: str) -> bool:
    """Many write records a line and call it .json."""
    first, _, rest = text.strip().partition("\n")
    if not (first.startswith("{") and first.rstrip().endswith("}") and rest.lstrip().startswith("{")):
        return False
    try:
        _read_lines(builder, text, name)
    except ExtractionError:
        return False
    return True


def _write(builder: Builder, value: Any, path: str = "") -> None:
    """With a stack of its own: a value may be nested as deep as the parser takes it."""
    stack: list[tuple[str, Iterator[tuple[str, Any]]]] = [("", iter([(path, value)]))]
    while stack:
        below, items = stack[-1]
        step = next(items, None)
        if step is None:
            stack.pop()
            continue
        key, item = step
        here = f"{below}{key}" if key.startswith("[") or not below else f"{below}.{key}"
        record = _record(item) if key.startswith("[") else None
        if record is not None:
            builder.row(f"{here}: {record}")
        elif isinstance(item, dict) and item:
            stack.append((here, iter([(str(k), v) for k, v in item.items()])))
        elif isinstance(item, list) and item:
            stack.append((here, iter([(f"[{i}]", v) for i, v in enumerate(item)])))
        else:
            builder.row(f"{here}: {_plain(item)}" if here else _plain(item))


def _record(value: Any) -> str | None:
    """An object of plain values, as one line."""
    if not isinstance(value, dict) or not 0 < len(value) <= _MOST_FIELDS:
        return None
    if any(isinstance(item, dict | list) for item in value.values()):
        return None
    return row_text([_plain(item) for item in value.values()], list(value)) or None


def _plain(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list):
        return "{}" if isinstance(value, dict) else "[]"
    return " ".join(str(value).split())
