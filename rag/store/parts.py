"""What the rooms of the store share: ids, pages of lists, embedders by number."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import orjson

from backends.errors import InvalidRequest
from rag.store.engine import Cursor, Row
from rag.store.errors import NotThere
from rag.store.records import Cut, Page
from rag.types import Embedder

T = TypeVar("T")

MOST_LISTED = 100


def new_id(prefix: str) -> str:
    """An id that nobody can guess."""
    return prefix + secrets.token_hex(16)


def kept(text: str) -> str:
    """The same, at the same places, without what a database cannot keep: NUL and halves of surrogate pairs."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


def dump(value: Mapping[str, Any] | Sequence[Any]) -> str:
    """As JSON that is equal for equal values."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def classes_of(text: str) -> frozenset[str]:
    """Data classes, as they are kept."""
    return frozenset(one for one in text.split(",") if one)


def classes_text(classes: frozenset[str]) -> str:
    """The reverse."""
    return ",".join(sorted(classes))


def number(cursor: Cursor, table: str, what: str, id_: str, param: str | None = None) -> int:
    """The number of the row with that id. Raises `NotThere`."""
    row = cursor.one(f"SELECT n FROM {table} WHERE id = ?", (id_,))  # noqa: S608
    if row is None:
        raise NotThere(what, id_, param)
    return int(row[0])


def embedder_number(cursor: Cursor, embedder: Embedder) -> int | None:
    """Of an embedder that is known."""
    asked = "SELECT n FROM embedders WHERE name = ? AND sha256 = ? AND dimensions = ?"
    row = cursor.one(asked, (embedder.name, embedder.sha256, embedder.dimensions))
    return int(row[0]) if row else None


def embedder_of(cursor: Cursor, n: int) -> Embedder:
    """The embedder of that number."""
    row = cursor.one("SELECT name, sha256, dimensions FROM embedders WHERE n = ?", (n,))
    assert row is not None
    return Embedder(*row)


def page(
    cursor: Cursor,
    select: tuple[str, str],
    conditions: Sequence[tuple[str, Any]],
    cut: Cut,
    place_of: Callable[[str, str], int],
    read: Callable[[Row], T],
    most: int = MOST_LISTED,
) -> Page[T]:
    """A part of a list.

    Args:
        select: the SELECT without conditions, and the column of the numbers that it is ordered by.
        conditions: SQL with one parameter each.
        place_of: the number of the row that an id (and the parameter's name) stands for. Raises `NotThere`.
        most: the largest limit.
    """
    if not 1 <= cut.limit <= most:
        raise InvalidRequest(f"`limit` must be from 1 to {most}.", param="limit")
    sql, column = select
    tests, values = [test for test, _ in conditions], [value for _, value in conditions]
    up = cut.order == "asc"
    for name, id_ in (("after", cut.after), ("before", cut.before)):
        if id_ is not None:
            tests.append(f"{column} {'>' if (name == 'after') == up else '<'} ?")
            values.append(place_of(id_, name))
    # Behind `before` alone the ones right before it are meant, so they are looked for from there.
    backwards = cut.before is not None and cut.after is None
    where = f" WHERE {' AND '.join(tests)}" if tests else ""
    direction = "ASC" if up != backwards else "DESC"
    rows = cursor.all(f"{sql}{where} ORDER BY {column} {direction} LIMIT ?", [*values, cut.limit + 1])
    kept = rows[: cut.limit]
    return Page([read(row) for row in (reversed(kept) if backwards else kept)], len(rows) > cut.limit)
