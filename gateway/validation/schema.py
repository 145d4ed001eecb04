"""A JSON schema that texts are judged by, in bounded time; nothing is ever fetched for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import orjson

from backends.errors import InvalidRequest
from gateway.validation.keywords import PatternError, TooHardError, Work, bounded_validator, compiled

MOST_SCHEMA_BYTES = 256 * 1024
MOST_TEXT_BYTES = 4 * 1024 * 1024
SECONDS = 1.0  # of computing
MOST_PROBLEMS = 5

OBJECT, LIST, NUMBER, COUNT = "an object", "a list", "a number", "a count"
SHAPES: Mapping[str, str] = (
    dict.fromkeys(("properties", "patternProperties", "$defs", "definitions", "dependentSchemas"), OBJECT)
    | dict.fromkeys(("required", "enum", "allOf", "anyOf", "oneOf", "prefixItems"), LIST)
    | dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"), NUMBER)
    | dict.fromkeys(
        "minLength maxLength minItems maxItems minProperties maxProperties minContains maxContains".split(), COUNT
    )
)
"""What a keyword's value must be."""
SCHEMAS = frozenset(
    "items additionalProperties propertyNames contains not if then else contentSchema unevaluatedItems".split()
)
"""Keywords whose value is one schema."""
NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
LISTED = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
NOT_HERE = frozenset(
    "unevaluatedProperties unevaluatedItems $dynamicRef $recursiveRef additionalItems dependencies".split()
)
"""Keywords that cannot be judged by in bounded time, or that say something else in each draft."""
TYPES = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})
TELLING = frozenset("type required pattern format multipleOf minimum maximum exclusiveMinimum exclusiveMaximum".split())
TELLING |= frozenset(name for name, shape in SHAPES.items() if shape == COUNT)
"""Keywords whose value is told with the problem: such a value says nothing private."""


class UnsupportedSchemaError(ValueError):
    """It cannot be judged by; the text names the keyword."""


class JsonSchema:
    """One schema, looked through. Thread-safe; everything takes at most `SECONDS` of computing."""

    def __init__(self, source: str) -> None:
        """Raises `UnsupportedSchemaError`."""
        if len(source) > MOST_SCHEMA_BYTES:
            raise UnsupportedSchemaError(f"it is longer than {MOST_SCHEMA_BYTES >> 10} KB")
        schema = orjson.loads(source)
        # Where it stands, jsonschema would go on with a validator of its own.
        self._schema = {k: v for k, v in schema.items() if k != "$schema"} if isinstance(schema, dict) else schema
        self._names: set[str] = set()
        try:
            self._look_through()
        except RecursionError:
            raise UnsupportedSchemaError("`$ref`: it leads back to itself without end") from None
        except TooHardError:
            raise UnsupportedSchemaError(f"it takes more than {SECONDS:g} s of computing") from None
        except PatternError as error:
            raise UnsupportedSchemaError(str(error)) from None

    def problem(self, text: str) -> str:
        """Why the text is not what the schema asks for, in a few words that quote none of it; empty: it is.

        Raises:
            TooHardError: it cannot be told in time.
        """
        if len(text) > MOST_TEXT_BYTES:
            return f"it is longer than {MOST_TEXT_BYTES >> 20} MB"
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            return f"it is no JSON (character {error.pos + 1})" if text.strip() else "it is empty"
        try:
            errors = islice(self._errors(self._schema, value, Work(SECONDS)), MOST_PROBLEMS)
            return "; ".join(dict.fromkeys(map(self._told, errors)))
        except RecursionError:
            return "it is nested too deeply"

    def _errors(self, schema: Any, value: Any, work: Work) -> Iterator[Any]:
        from referencing import Registry

        validator = bounded_validator()(self._schema, format_checker=work, registry=Registry())
        found: Iterator[Any] = (validator if schema is self._schema else validator.evolve(schema=schema)).iter_errors(
            value
        )
        return found

    def _told(self, error: Any) -> str:
        """Only names and numbers of the schema: the text's own may be private, and this goes back to the provider."""
        from jsonschema.exceptions import best_match

        deepest = best_match([error]) if error.context else error
        place = "$"
        for step in deepest.absolute_path:
            place += f"[{step}]" if isinstance(step, int) else f".{step if step in self._names else '*'}"
        keyword, wanted = deepest.validator, deepest.validator_value
        if keyword == "required":
            wanted = [name for name in wanted if name not in deepest.instance]
        if keyword is None:
            return f"{place} must not be there"  # the schema is `false`
        return f"{place} breaks `{keyword}`" + (
            f": {orjson.dumps(wanted).decode()[:200]}" if keyword in TELLING else ""
        )

    def _look_through(self) -> None:
        """Every schema within it once, and what each reference leads to."""
        work, references = Work(SECONDS), set()
        waiting = [("the schema", self._schema)]
        while waiting:
            work.step()
            where, schema = waiting.pop()
            if isinstance(schema, bool):
                continue
            if not isinstance(schema, dict):
                raise UnsupportedSchemaError(f"{where}: {type(schema).__name__} where a schema is wanted")
            for keyword, value in schema.items():
                _check(keyword, value)
                if keyword == "$ref":
                    references.add(value)
                elif keyword in ("$schema", "$id") and schema is not self._schema:
                    raise UnsupportedSchemaError(f"`{keyword}` may only stand at its top")
                elif keyword in SCHEMAS:
                    waiting.append((f"`{keyword}`", value))
                elif keyword in LISTED:
                    waiting += [(f"`{keyword}`", one) for one in value]
                elif keyword in NAMED:
                    waiting += [(f"`{keyword}`", one) for one in value.values()]
                    self._names.update(value)
                for pattern in _patterns(keyword, value):
                    compiled(pattern)
                    work.step()
        self._follow(references, work)

    def _follow(self, references: set[str], work: Work) -> None:
        """Each must lead somewhere, and from there not only back: told by judging a value that has no parts."""
        from referencing import Registry
        from referencing.exceptions import Unresolvable
        from referencing.jsonschema import DRAFT202012

        resolver = Registry().with_resource("", DRAFT202012.create_resource(self._schema)).resolver()
        targets = [self._schema]
        for reference in sorted(references):
            try:
                targets.append(resolver.lookup(reference).contents)
            except Unresolvable:
                raise UnsupportedSchemaError(f"`$ref`: {reference[:80]!r} leads nowhere") from None
        for target in targets:
            for _ in self._errors(target, None, work):
                pass


def _check(keyword: str, value: Any) -> None:
    """Raises `UnsupportedSchemaError` for what no judgement can be made by."""
    if keyword in NOT_HERE:
        raise UnsupportedSchemaError(f"`{keyword}` is not supported")
    if keyword == "$ref" and not (isinstance(value, str) and value.startswith("#")):
        raise UnsupportedSchemaError(f"`$ref`: {str(value)[:80]!r} is not within the schema, and nothing is fetched")
    if keyword == "type" and not set(value if isinstance(value, list) else [value]) <= TYPES:
        raise UnsupportedSchemaError(f"`type`: {str(value)[:80]!r} is none")
    if shape := SHAPES.get(keyword):
        if not _is(shape, value):
            raise UnsupportedSchemaError(f"`{keyword}` must be {shape}")
    elif keyword == "pattern" and not isinstance(value, str):
        raise UnsupportedSchemaError("`pattern` must be a text")


def _is(shape: str, value: Any) -> bool:
    if shape in (NUMBER, COUNT):
        return isinstance(value, int | float) and not isinstance(value, bool) and (shape == NUMBER or value >= 0)
    return isinstance(value, dict if shape == OBJECT else list)


def _patterns(keyword: str, value: Any) -> Iterator[str]:
    if keyword == "pattern":
        yield value
    elif keyword == "patternProperties":
        yield from value


def refused(what: str, error: UnsupportedSchemaError, param: str) -> InvalidRequest:
    """What the client is told."""
    return InvalidRequest(f"{what} cannot be enforced: {error}.", param=param, code="unsupported_schema")
