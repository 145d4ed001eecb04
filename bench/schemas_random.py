"""Random JSON schemas: of every keyword that the decoder enforces, and some of those that it refuses."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

Schema = dict[str, Any]

NAMES = ("id", "name", "größe", "a b", "x-1", 'q"', "type", "items", "$ref", "const")
PATTERNS = ("^[a-f0-9]{8}$", "^(up|down)-[0-9]+$", "^P-[1-9]$", '^[^"]{1,6}$', r"^\w+@\w+\.de$", "^[^a-z]?$", "valve")
FORMATS = ("date", "date-time", "time", "uuid", "ipv4", "ipv6", "email", "duration", "hostname")
VALUES: tuple[Any, ...] = ("on", "off", "standby", "zurück", 'a "b"', 1, 2, -7, 0.5, None, True, {"k": [1, 2]}, [], "")
DEEPEST = 3
REFUSED: tuple[Schema, ...] = (
    {"type": "array", "items": {"type": "integer"}, "uniqueItems": True},
    {"type": "array", "contains": {"const": 1}},
    {"not": {"type": "null"}},
    {"if": {"type": "string"}, "then": {"maxLength": 3}},
    {"type": "object", "propertyNames": {"maxLength": 3}},
    {"type": "object", "dependentRequired": {"a": ["b"]}},
    {"type": "object", "minProperties": 3},
    {"type": "string", "pattern": "(?=a)ab"},
    {"oneOf": [{"type": "string", "maxLength": 3}, {"type": "string", "minLength": 2}]},
)
"""Each has a keyword that cannot be enforced, or a use of one."""


def random_schema(rng: random.Random) -> Schema:
    """One that is enforced; bounded in most places, so that most answers of a small model come to an end."""
    defs: dict[str, Schema] = {}
    if rng.random() < 0.4:
        for name in ("part", "list item"):
            defs[name] = _any(rng, 2, tuple(defs))  # it may lead to those before it
        if rng.random() < 0.3:
            defs["node"] = _recursive(rng)
    schema = _any(rng, 0, tuple(defs))
    return {**schema, "$defs": defs} if defs else schema


def refused_schema(rng: random.Random) -> Schema:
    """One with a keyword that is not enforced somewhere in it."""
    inner = rng.choice(REFUSED)
    for _ in range(rng.randint(0, 2)):
        inner = rng.choice(
            (
                {"type": "object", "properties": {"a": inner}, "required": ["a"]},
                {"type": "array", "items": inner, "minItems": 1},
                {"anyOf": [{"type": "boolean"}, inner]},
            )
        )
    return inner


def _any(rng: random.Random, depth: int, defs: tuple[str, ...]) -> Schema:
    """A schema of any kind; `defs` are the names that may be referred to."""
    if defs and rng.random() < 0.25:
        return {"$ref": f"#/$defs/{rng.choice(defs).replace(' ', '%20')}"}
    if depth < DEEPEST and rng.random() < (0.8 if depth == 0 else 0.5):
        return rng.choice(NESTED)(rng, depth + 1, defs)
    return rng.choice(PLAIN)(rng)


def _object(rng: random.Random, depth: int, defs: tuple[str, ...]) -> Schema:
    names = rng.sample(NAMES, rng.randint(1, 4))
    required = [name for name in names if rng.random() < 0.7]
    schema: Schema = {"type": "object", "properties": {name: _any(rng, depth, defs) for name in names}}
    if required:
        schema["required"] = required
    closed = rng.random()
    if closed < 0.85:
        schema["additionalProperties"] = False
    elif closed < 0.95:
        schema["additionalProperties"] = _scalar(rng)
    return schema


def _map(rng: random.Random, depth: int, defs: tuple[str, ...]) -> Schema:
    """Properties by the pattern of their names."""
    schema = {
        "type": "object",
        "patternProperties": {"^[a-z]{1,8}$": _any(rng, depth, defs)},
        "additionalProperties": False,
        "maxProperties": rng.randint(1, 3),
    }
    return schema | ({"minProperties": 1} if rng.random() < 0.5 else {})


def _array(rng: random.Random, depth: int, defs: tuple[str, ...]) -> Schema:
    least = rng.randint(0, 2)
    return {"type": "array", "items": _any(rng, depth, defs), "minItems": least, "maxItems": least + rng.randint(0, 2)}


def _tuple(rng: random.Random, depth: int, defs: tuple[str, ...]) -> Schema:
    first = [_any(rng, depth, defs) for _ in range(rng.randint(1, 3))]
    return {"type": "array", "prefixItems": first, "items": False, "minItems": rng.randint(0, len(first))}


def _any_of(rng: random.Random, depth: int, defs: tuple[str, ...]) -> Schema:
    return {"anyOf": [_any(rng, depth, defs) for _ in range(rng.randint(1, 3))]}


def _one_of(rng: random.Random, depth: int, defs: tuple[str, ...]) -> Schema:
    """Branches that a property tells apart."""

    def branch(kind: str) -> Schema:
        properties = {"kind": {"const": kind}, "value": _any(rng, depth, defs)}
        return {"type": "object", "properties": properties, "required": ["kind"], "additionalProperties": False}

    return {"oneOf": [branch(kind) for kind in ("pump", "valve", "motor")[: rng.randint(1, 3)]]}


def _all_of(rng: random.Random, depth: int, defs: tuple[str, ...]) -> Schema:
    one, other = ({"properties": {name: _any(rng, depth, defs)}, "required": [name]} for name in ("left", "right"))
    return {"type": "object", "allOf": [one, other], "maxProperties": rng.randint(2, 3)}


def _recursive(rng: random.Random) -> Schema:
    following = {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}
    return {
        "type": "object",
        "properties": {"value": _scalar(rng), "next": following},
        "required": ["value", "next"],
        "additionalProperties": False,
    }


def _string(rng: random.Random) -> Schema:
    return {"type": "string", "minLength": rng.randint(0, 2), "maxLength": rng.randint(3, 12)}


def _pattern(rng: random.Random) -> Schema:
    return {"type": "string", "pattern": rng.choice(PATTERNS), "maxLength": 24}


def _format(rng: random.Random) -> Schema:
    return {"type": "string", "format": rng.choice(FORMATS), "maxLength": 36}


def _integer(rng: random.Random) -> Schema:
    least = rng.randint(-50, 50)
    if rng.random() < 0.3:
        return {"type": "integer", "exclusiveMinimum": least, "exclusiveMaximum": least + rng.randint(2, 3000)}
    return {"type": "integer", "minimum": least, "maximum": least + rng.randint(0, 99)}


def _multiple(rng: random.Random) -> Schema:
    return {"type": "integer", "multipleOf": rng.choice((2, 5, 7, 100)), "minimum": 0, "maximum": 1000}


def _number(rng: random.Random) -> Schema:
    least = round(rng.uniform(-2, 2), 3)
    most = round(least + rng.choice((0.5, 10, 1000)), 3)
    kind = rng.random()
    if kind < 0.5:
        return {"type": "number", "multipleOf": rng.choice((0.5, 0.25)), "minimum": 0, "maximum": max(1, most)}
    if kind < 0.75:
        return {"type": "number", "minimum": least, "maximum": most}
    return {"type": "number", "exclusiveMinimum": rng.choice((0, least)), "exclusiveMaximum": max(1, most)}


def _several(rng: random.Random) -> Schema:
    return {"type": rng.choice((["boolean", "null"], ["integer", "null"], ["string", "boolean"])), "maxLength": 9}


def _enum(rng: random.Random) -> Schema:
    return {"enum": rng.sample(VALUES, rng.randint(1, 4))}


def _const(rng: random.Random) -> Schema:
    return {"const": rng.choice(VALUES)}


def _scalar(rng: random.Random) -> Schema:
    return rng.choice(PLAIN)(rng)


PLAIN: tuple[Callable[[random.Random], Schema], ...] = (
    _string, _pattern, _format, _integer, _multiple, _number, _several, _enum, _const
)  # fmt: skip
NESTED: tuple[Callable[[random.Random, int, tuple[str, ...]], Schema], ...] = (
    _object, _object, _object, _map, _array, _array, _tuple, _any_of, _one_of, _all_of
)  # fmt: skip
