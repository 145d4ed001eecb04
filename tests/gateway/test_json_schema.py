"""Schemas that texts are judged by: the same verdict as jsonschema's own, in bounded time, quoting nothing."""

from __future__ import annotations

import json

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.validation.keywords import TooHardError, Work
from gateway.validation.schema import JsonSchema, UnsupportedSchemaError

values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-2, 2), st.sampled_from([0.5, 1.0, "", "a", "ab", "2024-02-30"])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("abc"), inner, max_size=3)),
    max_leaves=6,
)
plain = st.one_of(
    st.sampled_from([True, False, {}]),
    st.builds(lambda t: {"type": t}, st.sampled_from(["null", "integer", "number", "string", "object", ["array"]])),
    st.builds(lambda v: {"const": v}, values),
    st.builds(lambda v: {"enum": v}, st.lists(values, min_size=1, max_size=3)),
    st.builds(lambda n: {"minimum": n, "maxLength": abs(n)}, st.integers(-2, 2)),
    st.sampled_from([{"pattern": "^a"}, {"uniqueItems": True}, {"minItems": 1}, {"required": ["a"]}]),
)
schemas = st.recursive(
    plain,
    lambda inner: st.one_of(
        st.builds(
            lambda p, more: {"properties": p, **({} if more is None else {"additionalProperties": more})},
            st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
            st.none() | inner,
        ),
        st.builds(lambda s, more: {"patternProperties": {"^a": s}, "additionalProperties": more}, inner, inner),
        st.builds(lambda s: {"items": s, "contains": s}, inner),
        st.builds(lambda a, b: {"prefixItems": [a], "items": b}, inner, inner),
        st.builds(lambda k, some: {k: some}, st.sampled_from(["allOf", "anyOf", "oneOf"]), st.lists(inner, min_size=1)),
        st.builds(lambda s: {"not": s, "propertyNames": {"maxLength": 1}}, inner),
        st.builds(lambda a, b, c: {"if": a, "then": b, "else": c}, inner, inner, inner),
        st.builds(lambda s: {"$ref": "#/$defs/s"}, inner),
    ),
    max_leaves=6,
)


@given(schemas, plain, st.lists(values, max_size=8))
@settings(deadline=None)
def test_the_verdict_is_jsonschemas(schema, target, instances):
    whole = {"allOf": [schema], "$defs": {"s": target}}
    judge, judged = JsonSchema(json.dumps(whole)), jsonschema.Draft202012Validator(whole)
    for instance in instances:
        assert (judge.problem(json.dumps(instance)) == "") == judged.is_valid(instance), instance


@pytest.mark.parametrize(
    ("schema", "text", "problem"),
    [
        ({"type": "object"}, "", "it is empty"),
        ({"type": "object"}, '```json\n{"a":1}\n```', "it is no JSON (character 1)"),
        ({"type": "object"}, '{"a":1', "it is no JSON"),
        ({"type": "object"}, "NaN", "it is no JSON"),
        ({"type": "object"}, "[]", '$ breaks `type`: "object"'),
        ({"properties": {"a": {"items": {"minLength": 2}}}}, '{"a":["xy","z"]}', "$.a[1] breaks `minLength`: 2"),
        ({"additionalProperties": {"type": "null"}}, '{"Anna":1}', '$.* breaks `type`: "null"'),
        ({"additionalProperties": False}, '{"Anna":1}', "$ breaks `additionalProperties`"),
        ({"const": "Anna"}, '"Bert"', "$ breaks `const`"),
        ({"anyOf": [{"type": "null"}, {"properties": {"a": {"const": 1}}}]}, '{"a":2}', "$.a breaks `const`"),
        (False, '{"a":1}', "$ must not be there"),
        ({"required": ["a", "b", "c"]}, '{"b":1}', '$ breaks `required`: ["a","c"]'),
        ({"items": {"type": "null"}}, json.dumps([1] * 100), "$[4]"),
    ],
)
def test_a_problem_is_told_with_nothing_of_the_text(schema, text, problem):
    found = JsonSchema(json.dumps(schema)).problem(text)
    assert problem in found
    assert "Anna" not in found
    assert "Bert" not in found
    assert "$[5]" not in found


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("date", "2024-02-29", ["2023-02-29", "20240229", "2024-W01-1"]),
        ("date-time", "2024-01-01T23:59:59.5+02:00", ["2024-01-01", "2024-01-01T24:00:00Z", "2024-01-01 00:00:00Z"]),
        ("email", "a@b", ["ab"]),
        ("ipv4", "10.0.0.1", ["10.0.0", "010.0.0.1"]),
        ("ipv6", "::1", ["1"]),
        ("uuid", "123E4567-e89b-12d3-a456-426614174000", ["123e4567e89b12d3a456426614174000", "x"]),
        ("whatever", "x", []),
    ],
)
def test_formats(name, right, wrong):
    judge = JsonSchema(json.dumps({"format": name}))
    assert judge.problem(json.dumps(right)) == ""
    assert judge.problem("5") == ""
    assert all(judge.problem(json.dumps(text)) for text in wrong)


@pytest.mark.parametrize("pattern", ["(a+)+$", "(.*)*x", "(a|aa)+$"])
def test_no_regular_expression_takes_more_than_linear_time(pattern):
    """Python's own would not come back."""
    judge = JsonSchema(json.dumps({"pattern": pattern, "patternProperties": {pattern: True}}))
    assert judge.problem(json.dumps("a" * 50_000 + "!")) == f'$ breaks `pattern`: "{pattern}"'
    assert (
        JsonSchema(json.dumps({"patternProperties": {pattern: False}})).problem(json.dumps({"a" * 5000 + "!": 1})) == ""
    )


def test_what_takes_too_long_is_not_judged():
    deep = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(10)} | {"d10": {"type": "null"}}
    judge = JsonSchema(json.dumps({"items": {"$ref": "#/$defs/d0"}, "$defs": deep}))
    with pytest.raises(TooHardError):
        judge.problem(json.dumps([None] * 10_000))
    with pytest.raises(TooHardError):
        JsonSchema('{"pattern": "x"}').problem(json.dumps("y" * 200_000))
    with pytest.raises(TooHardError):
        Work(-1.0).step()


def test_what_is_nested_too_deeply_or_too_long_is_wrong():
    tree = JsonSchema('{"$defs": {"n": {"items": {"$ref": "#/$defs/n"}}}, "$ref": "#/$defs/n"}')
    assert tree.problem("[" * 400 + "]" * 400) == "it is nested too deeply"
    assert tree.problem("[]" + " " * (5 << 20)) == "it is longer than 4 MB"


@pytest.mark.parametrize("place", ["properties", "$defs"])
def test_no_schema_within_brings_a_validator_of_its_own(place):
    """jsonschema changes to another draft's, which is not bounded, where `$schema` says so."""
    inner = {"$schema": "http://json-schema.org/draft-07/schema#", "pattern": "(a+)+$"}
    with pytest.raises(UnsupportedSchemaError, match=r"\$schema"):
        JsonSchema(json.dumps({place: {"a": inner}}))
    outer = JsonSchema(json.dumps({**inner, "properties": {"c": {"$ref": "#"}}}))
    assert outer.problem(json.dumps({"c": "a" * 5000 + "!"})) == '$.c breaks `pattern`: "(a+)+$"'
