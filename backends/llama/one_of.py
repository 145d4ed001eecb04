"""`oneOf` as `anyOf`, where that is provably the same: no value can satisfy two of its branches. Pure.

llguidance can follow `anyOf` alone. It proves some cases itself; here are those that it leaves out: branches behind
a `$ref`, as pydantic writes unions with a discriminator, numbers as constants, and what stands beside the `oneOf`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

MOST_STEPS = 5_000
"""Of one schema's proofs; what takes more is not proven."""
MOST_BRANCHES = 64
TYPES = frozenset({"null", "boolean", "string", "number", "array", "object"})
LITERAL = frozenset({"const", "enum", "default", "examples"})
"""Keywords that hold values, not schemas."""

Parts = tuple[Mapping[str, Any], ...]
"""Schemas that hold together."""


def without_one_of(schema: Any) -> Any:
    """The schema with `anyOf` in place of each `oneOf` whose branches are provably disjoint; the others stay."""
    try:
        return _Proofs(schema).rewritten(schema) if _mentions(schema) else schema
    except RecursionError:
        return schema


def _mentions(schema: Any) -> bool:
    if isinstance(schema, Mapping):
        return "oneOf" in schema or any(_mentions(value) for value in schema.values())
    return isinstance(schema, list) and any(map(_mentions, schema))


class _TooLongError(Exception):
    """The proof takes too many steps."""


class _Proofs:
    """Of one schema, whose references begin at `root`."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._steps = 0

    def rewritten(self, schema: Any) -> Any:
        if isinstance(schema, list):
            return [self.rewritten(item) for item in schema]
        if not isinstance(schema, Mapping):
            return schema
        new = {key: value if key in LITERAL else self.rewritten(value) for key, value in schema.items()}
        branches = schema.get("oneOf")
        if isinstance(branches, list) and "anyOf" not in schema and self._apart(schema, branches):
            # In its place: properties are written in the order of the schema's text.
            new = {("anyOf" if key == "oneOf" else key): value for key, value in new.items()}
        return new

    def _apart(self, schema: Mapping[str, Any], branches: Sequence[Any]) -> bool:
        if len(branches) > MOST_BRANCHES or not all(isinstance(branch, Mapping) for branch in branches):
            return False
        beside = {key: value for key, value in schema.items() if key != "oneOf"}
        try:
            parts = [self._parts((beside, branch)) for branch in branches]
            return all(self._disjoint(a, b) for at, a in enumerate(parts) for b in parts[:at])
        except (_TooLongError, RecursionError):
            return False

    def _step(self) -> None:
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise _TooLongError

    def _parts(self, schemas: Sequence[Any]) -> Parts:
        """All that holds together with these: behind references, and in `allOf`."""
        found: list[Mapping[str, Any]] = []
        waiting = [schema for schema in schemas if isinstance(schema, Mapping)]
        while waiting:
            self._step()
            schema = waiting.pop()
            if any(schema is known for known in found):
                continue
            found.append(schema)
            if isinstance(target := self._target(schema.get("$ref")), Mapping):
                waiting.append(target)
            several = schema.get("allOf")
            waiting += [one for one in several if isinstance(one, Mapping)] if isinstance(several, list) else []
        return tuple(found)

    def _target(self, reference: Any) -> Any:
        """What a reference within the schema leads to; None: it leads nowhere, or elsewhere."""
        if not isinstance(reference, str) or not reference.startswith("#"):
            return None
        place = self._root
        for key in reference[1:].split("/")[1:]:
            name = unquote(key).replace("~1", "/").replace("~0", "~")
            place = place.get(name) if isinstance(place, Mapping) else None
        return place

    def _disjoint(self, a: Parts, b: Parts) -> bool:
        """Whether it is proven that nothing satisfies both."""
        self._step()
        common = _types(a) & _types(b)
        if not common or _no_common_value(a, b):
            return True
        if common == {"object"} and self._objects(a, b):
            return True
        return self._each(a, b) or self._each(b, a)

    def _objects(self, a: Parts, b: Parts) -> bool:
        """A property that both need and that cannot be right for both, or that one needs and the other forbids."""
        needed_a, needed_b = _required(a), _required(b)
        if any(_forbids(b, name) for name in needed_a) or any(_forbids(a, name) for name in needed_b):
            return True
        return any(
            self._disjoint(self._parts([*_named(a, name)]), self._parts([*_named(b, name)]))
            for name in sorted(needed_a & needed_b)
        )

    def _each(self, a: Parts, b: Parts) -> bool:
        """One of its parts is a choice, and each of the choices is disjoint from the other side."""
        for part in a:
            for keyword in ("anyOf", "oneOf"):
                choices = part.get(keyword)
                if not isinstance(choices, list) or not choices:
                    continue
                rest = tuple(other for other in a if other is not part)
                if all(self._disjoint((*rest, *self._parts((choice,))), b) for choice in choices):
                    return True
        return False


def _types(parts: Parts) -> frozenset[str]:
    """JSON types that a value may have. Every integer is a number."""
    types = TYPES
    for part in parts:
        if (said := part.get("type")) is not None:
            names = [said] if isinstance(said, str) else said if isinstance(said, list) else TYPES
            types &= {"number" if name == "integer" else name for name in names if isinstance(name, str)}
        if (values := _values(part)) is not None:
            types &= {_type(value) for value in values}
    return types


def _type(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return "string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"


def _values(part: Mapping[str, Any]) -> list[Any] | None:
    """All that it may be; None: not said."""
    if "const" in part:
        return [part["const"]]
    values = part.get("enum")
    return values if isinstance(values, list) else None


def _no_common_value(a: Parts, b: Parts) -> bool:
    """Only of values that are no containers: whether two of those are the same is not asked here."""
    mine, others = ([v for part in side if (v := _values(part)) is not None] for side in (a, b))
    for one in mine:
        for other in others:
            if len(one) * len(other) <= MOST_STEPS and not _share(one, other):
                return True
    return False


def _share(one: Sequence[Any], other: Sequence[Any]) -> bool:
    return any(_type(x) == _type(y) and (_type(x) in ("array", "object") or x == y) for x in one for y in other)


def _required(parts: Parts) -> frozenset[str]:
    return frozenset(
        name
        for part in parts
        if isinstance(names := part.get("required"), list)
        for name in names
        if isinstance(name, str)
    )


def _forbids(parts: Parts, name: str) -> bool:
    return any(
        part.get("additionalProperties") is False
        and not part.get("patternProperties")
        and name not in (part.get("properties") or {})
        for part in parts
    )


def _named(parts: Parts, name: str) -> Iterator[Any]:
    for part in parts:
        properties = part.get("properties")
        if isinstance(properties, Mapping) and name in properties:
            yield properties[name]
