"""The keywords of JSON Schema as jsonschema has them, each step bounded, and regular expressions in linear time.

A request brings the schema, a provider the JSON: either may be made to be hard.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date, datetime
from functools import cache
from ipaddress import IPv4Address, IPv6Address
from typing import Any
from uuid import UUID

LONGEST_MATCHED = 100_000
"""Characters of one text that a regular expression is tried on."""
DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
DATE_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)

Check = Callable[[Any, Any, Any, Any], Iterable[Any] | None]


class TooHardError(Exception):
    """It would take longer than may be."""


class PatternError(ValueError):
    """A regular expression that needs more than linear time (look-around, back-references), or none at all."""


class Work:
    """One judgement's bound, and what it has compiled.

    It rides in the validator's field for formats, the one place that each step of jsonschema's sees.

    Args:
        seconds: of computing, by this thread.
    """

    def __init__(self, seconds: float) -> None:
        self._until = time.thread_time() + seconds
        self._patterns: dict[str, Any] = {}

    def step(self) -> None:
        """Raises `TooHardError` once the time is used up."""
        if time.thread_time() > self._until:
            raise TooHardError

    def matches(self, pattern: str, text: str) -> bool:
        """Whether it is found anywhere in the text. Raises `PatternError`, `TooHardError`."""
        from pydantic_core import ValidationError

        if len(text) > LONGEST_MATCHED:
            raise TooHardError
        if pattern not in self._patterns:
            self._patterns[pattern] = compiled(pattern)
            self.step()
        try:
            self._patterns[pattern].validate_python(text)
        except ValidationError:
            return False
        return True


def compiled(pattern: str) -> Any:
    """By Rust's `regex`, which pydantic brings along: its time is linear in the text. Raises `PatternError`."""
    from pydantic_core import SchemaError, SchemaValidator, core_schema

    try:
        return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))
    except SchemaError:
        raise PatternError(f"`pattern`: {pattern[:80]!r} cannot be matched in bounded time") from None


@cache
def bounded_validator() -> Any:
    """jsonschema's validator of Draft 2020-12 with these keywords. Takes 0.1 s when it is first asked for."""
    from jsonschema import Draft202012Validator, validators

    own: dict[str, Check] = {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
        "uniqueItems": _unique_items,
        "format": _format,
    }
    every = {**Draft202012Validator.VALIDATORS, **own}
    return validators.extend(Draft202012Validator, {name: _bounded(check) for name, check in every.items()})


def _bounded(check: Check) -> Check:
    def bounded(validator: Any, wanted: Any, instance: Any, schema: Any) -> Iterable[Any] | None:
        validator.format_checker.step()
        return check(validator, wanted, instance, schema)

    return bounded


def _wrong(message: str) -> Any:
    from jsonschema import ValidationError

    return ValidationError(message)


def _pattern(validator: Any, pattern: str, instance: Any, _: Any) -> Iterator[Any]:
    if isinstance(instance, str) and not validator.format_checker.matches(pattern, instance):
        yield _wrong("no match")


def _pattern_properties(validator: Any, patterns: Mapping[str, Any], instance: Any, _: Any) -> Iterator[Any]:
    for pattern, schema in patterns.items() if isinstance(instance, dict) else ():
        for name, value in instance.items():
            if validator.format_checker.matches(pattern, name):
                yield from validator.descend(value, schema, path=name, schema_path=pattern)


def _additional_properties(validator: Any, wanted: Any, instance: Any, schema: Mapping[str, Any]) -> Iterator[Any]:
    if not isinstance(instance, dict):
        return
    known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    for name, value in instance.items():
        if name in known or any(validator.format_checker.matches(pattern, name) for pattern in patterns):
            continue
        if wanted is False:
            yield _wrong("a further property")
        else:
            yield from validator.descend(value, wanted, path=name)


def _unique_items(_: Any, wanted: Any, instance: Any, __: Any) -> Iterator[Any]:
    if wanted and isinstance(instance, list) and len({_same(item) for item in instance}) < len(instance):
        yield _wrong("the same item twice")


def _same(value: Any) -> Any:
    """Equal for what is the same in JSON: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, dict):
        return frozenset((name, _same(item)) for name, item in value.items())
    if isinstance(value, list):
        return tuple(_same(item) for item in value)
    return (isinstance(value, bool), value)


def _format(_: Any, name: Any, instance: Any, __: Any) -> Iterator[Any]:
    if isinstance(instance, str) and (reads := FORMATS.get(name) if isinstance(name, str) else None):
        try:
            reads(instance)
        except ValueError:
            yield _wrong("another format")


def _date_time(text: str) -> None:
    if not DATE_TIME.fullmatch(text):
        raise ValueError(text)
    datetime.fromisoformat(text[:19].upper())


def _date(text: str) -> None:
    if not DATE.fullmatch(text):
        raise ValueError(text)
    date.fromisoformat(text)


def _email(text: str) -> None:
    if "@" not in text:
        raise ValueError(text)


def _uuid(text: str) -> None:
    if str(UUID(text)) != text.lower():
        raise ValueError(text)


FORMATS: Mapping[str, Callable[[str], object]] = {
    "date": _date,
    "date-time": _date_time,
    "email": _email,
    "ipv4": IPv4Address,
    "ipv6": IPv6Address,
    "uuid": _uuid,
}
"""Those that are held to; any other is a remark, as the standard has it."""
