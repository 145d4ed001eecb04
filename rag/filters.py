"""OpenAI's attribute filters: from JSON, in Python, in SQL. All three agree on every attribute and filter.

Comparisons are typed: the number 1 is neither the string "1" nor `true`. A comparison with an attribute that a file
lacks or has in another type is false; `ne` and `nin` are true there, since they are the negations of `eq` and `in`.
Strings are ordered by code points.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from backends.errors import InvalidRequest
from rag.types import AttributeValue, Comparison, Compound, Filter

MOST_DEEP: Final = 10
MOST_NODES: Final = 100
MOST_VALUES: Final = 1_000
MOST_KEY: Final = 64
MOST_TEXT: Final = 512
MOST_ATTRIBUTES: Final = 16
_ORDERED: Final = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_SEVERAL: Final = ("in", "nin")
NEGATIONS: Final = ("ne", "nin")
_COMPARISONS: Final = ("eq", "ne", *_ORDERED, *_SEVERAL)
_COMPOUNDS: Final = ("and", "or")
_ORDERS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "gt": lambda one, other: one > other,
    "gte": lambda one, other: one >= other,
    "lt": lambda one, other: one < other,
    "lte": lambda one, other: one <= other,
}


def parse(raw: Any, place: str = "filters") -> Filter:
    """The filter that the JSON says. Raises `InvalidRequest`, which names the place at fault."""
    return _Parser().filter(raw, place, 1)


def attributes(raw: Any, place: str = "attributes") -> dict[str, AttributeValue]:
    """A file's attributes: at most 16; keys of 64 and strings of 512 characters. Raises `InvalidRequest`."""
    if not isinstance(raw, Mapping):
        raise _wrong(place, "must be an object")
    if len(raw) > MOST_ATTRIBUTES:
        raise _wrong(place, f"has {len(raw)} attributes; {MOST_ATTRIBUTES} is the most")
    return {_key(key, place): _value(value, f"{place}.{str(key)[:MOST_KEY]}") for key, value in raw.items()}


class _Parser:
    def __init__(self) -> None:
        self._nodes = 0
        self._values = 0

    def filter(self, raw: Any, place: str, depth: int) -> Filter:
        self._nodes += 1
        if depth > MOST_DEEP:
            raise _wrong(place, f"is nested deeper than {MOST_DEEP}")
        if self._nodes > MOST_NODES:
            raise _wrong("filters", f"has more than {MOST_NODES} parts")
        if not isinstance(raw, Mapping):
            raise _wrong(place, "must be an object")
        op = raw.get("type")
        if op in _COMPOUNDS:
            return self._compound(op, raw, place, depth)
        if op in _COMPARISONS:
            return self._comparison(op, raw, place)
        raise _wrong(f"{place}.type", f"must be one of {', '.join((*_COMPARISONS, *_COMPOUNDS))}")

    def _compound(self, op: str, raw: Mapping[Any, Any], place: str, depth: int) -> Compound:
        _only(raw, ("type", "filters"), place)
        parts = raw.get("filters")
        if not isinstance(parts, list | tuple) or not parts:
            raise _wrong(f"{place}.filters", "must be a list of at least one filter")
        return Compound(
            op, tuple(self.filter(part, f"{place}.filters[{n}]", depth + 1) for n, part in enumerate(parts))
        )

    def _comparison(self, op: str, raw: Mapping[Any, Any], place: str) -> Comparison:
        _only(raw, ("type", "key", "value"), place)
        key = _key(raw.get("key"), f"{place}.key")
        if "value" not in raw:
            raise _wrong(f"{place}.value", "is missing")
        value, where = raw["value"], f"{place}.value"
        if op in _SEVERAL:
            return Comparison(op, key, self._several(value, where))
        one = _value(value, where)
        if op in _ORDERED and isinstance(one, bool):
            raise _wrong(where, f"must be a number or a string: `{op}` has no meaning for true and false")
        return Comparison(op, key, one)

    def _several(self, value: Any, place: str) -> tuple[AttributeValue, ...]:
        if not isinstance(value, list | tuple):
            raise _wrong(place, "must be a list")
        self._values += len(value)
        if self._values > MOST_VALUES:
            raise _wrong(place, f"brings the values to more than {MOST_VALUES}")
        return tuple(_value(one, f"{place}[{n}]") for n, one in enumerate(value))


def matches(wanted: Filter | None, have: Mapping[str, AttributeValue]) -> bool:
    """Whether a file with these attributes passes."""
    if wanted is None:
        return True
    if isinstance(wanted, Compound):
        return (all if wanted.op == "and" else any)(matches(one, have) for one in wanted.filters)
    value, got = wanted.value, have.get(wanted.key)
    if wanted.op in NEGATIONS:
        return not matches(Comparison("eq" if wanted.op == "ne" else "in", wanted.key, value), have)
    if got is None:
        return False
    if isinstance(value, tuple):
        return any(_same(got, one) for one in value)
    if wanted.op == "eq":
        return _same(got, value)
    return _kind(got) == _kind(value) != "flag" and _ORDERS[wanted.op](got, value)


def to_sql(wanted: Filter | None, store: Any, member: str) -> tuple[str, list[Any]]:
    """A condition on files in a store and its parameters, for SQLite and PostgreSQL alike.

    Args:
        store: the key of the store in `attributes`.
        member: the column that says which file in a store a row is, as `attributes.member` does.
    """
    if wanted is None:
        return "1 = 1", []
    if isinstance(wanted, Compound):
        parts = [to_sql(one, store, member) for one in wanted.filters]
        return "(" + f" {wanted.op} ".join(sql for sql, _ in parts) + ")", [
            value for _, some in parts for value in some
        ]
    negated = "NOT " if wanted.op in NEGATIONS else ""
    inner, values = having(wanted, store)
    return f"{member} {negated}IN ({inner})", values


def having(wanted: Comparison, store: Any) -> tuple[str, list[Any]]:
    """The files of which the comparison is true, or of `NEGATIONS` false, as `to_sql` has them: SQL and parameters."""
    test, values = _test(wanted)
    # The names are ours; what clients say goes in as parameters only.
    sql = f"SELECT a.member FROM attributes a WHERE a.store = ? AND a.name = ? AND {test}"  # noqa: S608
    return sql, [store, wanted.key, *values]


def _test(wanted: Comparison) -> tuple[str, list[Any]]:
    value = wanted.value
    if isinstance(value, tuple):
        tests, values = [], []
        for kind in ("number", "text", "flag"):
            if some := [_plain(one) for one in value if _kind(one) == kind]:
                tests.append(f"a.{kind} IN ({','.join('?' * len(some))})")
                values += some
        return "(" + " OR ".join(tests or ["1 = 0"]) + ")", values
    return f"a.{_kind(value)} {_ORDERED.get(wanted.op, '=')} ?", [_plain(value)]


def columns(value: AttributeValue) -> tuple[float | None, str | None, int | None]:
    """The value in the columns `number`, `text`, `flag`, all but one of which are NULL."""
    if isinstance(value, bool):
        return None, None, int(value)
    return (None, value, None) if isinstance(value, str) else (float(value), None, None)


def _kind(value: AttributeValue) -> str:
    return "flag" if isinstance(value, bool) else "text" if isinstance(value, str) else "number"


def _plain(value: AttributeValue) -> float | str | int:
    return int(value) if isinstance(value, bool) else value


def _same(one: AttributeValue, other: AttributeValue) -> bool:
    return _kind(one) == _kind(other) and one == other


def _value(raw: Any, place: str) -> AttributeValue:
    if isinstance(raw, bool):
        return raw
    if isinstance(raw, str):
        return _text(raw, place, MOST_TEXT)
    if isinstance(raw, int | float):
        try:
            number = float(raw)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    raise _wrong(place, "must be a string, a finite number, true or false")


def _key(raw: Any, place: str) -> str:
    if not isinstance(raw, str) or not raw:
        raise _wrong(place, "must be a string of at least one character")
    return _text(raw, place, MOST_KEY)


def _text(raw: str, place: str, most: int) -> str:
    if len(raw) > most:
        raise _wrong(place, f"has {len(raw)} characters; {most} is the most")
    # PostgreSQL keeps no NUL, and no database a half of a surrogate pair.
    if "\0" in raw or any("\ud800" <= one <= "\udfff" for one in raw):
        raise _wrong(place, "has a character that cannot be kept")
    return raw


def _only(raw: Mapping[Any, Any], known: Sequence[str], place: str) -> None:
    for key in raw:
        if key not in known:
            raise _wrong(place, f"has an unknown member {str(key)[:MOST_KEY]!r}; known: {', '.join(known)}")


def _wrong(place: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"`{place}` {what}.", param=place)
