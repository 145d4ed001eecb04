"""`oneOf` becomes `anyOf` only where no value satisfies two branches; judged by jsonschema."""

from __future__ import annotations

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.llama.one_of import without_one_of

A = {"type": "object", "properties": {"kind": {"const": "a"}, "x": {"type": "integer"}}, "required": ["kind"]}
B = {"type": "object", "properties": {"kind": {"enum": ["b", "c"]}}, "required": ["kind"]}
CLOSED = {"type": "object", "properties": {"y": {}}, "additionalProperties": False}

DISJOINT = [
    {"oneOf": [{"type": "string"}, {"type": ["integer", "null"]}]},
    {"oneOf": [{"const": 1}, {"const": 2}, {"enum": ["1", None]}]},
    {"oneOf": [A, B]},
    {"oneOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}], "$defs": {"a": A, "b": B}},
    {"oneOf": [{"$ref": "#/$defs/a~1%"}, {"type": "string"}], "$defs": {"a/%": {"type": "number"}}},
    {"oneOf": [{**A, "required": ["kind", "z"]}, CLOSED]},
    {"oneOf": [{"properties": {"k": {"const": 1}}}, {"properties": {"k": {"const": 2}}}],
     "type": "object", "required": ["k"]},
    {"oneOf": [{"allOf": [{"type": "array"}, {"minItems": 1}]}, {"anyOf": [{"type": "string"}, {"const": 3}]}]},
    {"properties": {"p": {"oneOf": [{"type": "null"}, A]}}},
    {"oneOf": [{"minimum": 3}]},
]  # fmt: skip
OVERLAPPING = [
    {"oneOf": [{"type": "integer"}, {"type": "number"}]},
    {"oneOf": [{"const": 1}, {"const": 1.0}]},
    {"oneOf": [{"const": [1]}, {"const": [2]}]},
    {"oneOf": [{"minimum": 3}, {"maximum": 2}]},
    # A number is no object, and has every property that it needs.
    {"oneOf": [{"properties": {"k": {"const": 1}}, "required": ["k"]},
               {"properties": {"k": {"const": 2}}, "required": ["k"]}]},
    # Without `required`, an empty object is both.
    {"oneOf": [{"type": "object", "properties": {"k": {"const": 1}}},
               {"type": "object", "properties": {"k": {"const": 2}}}]},
    {"oneOf": [{"$ref": "#"}, {"$ref": "#"}]},
    {"oneOf": [{"type": "string"}, {"type": "null"}], "anyOf": [{"minLength": 1}]},
    {"const": {"oneOf": [{"type": "string"}, {"type": "null"}]}},
]  # fmt: skip


@pytest.mark.parametrize("schema", DISJOINT)
def test_disjoint_branches_are_said_as_any_of(schema):
    rewritten = without_one_of(schema)
    assert "oneOf" not in str(rewritten)
    assert list(rewritten) == [("anyOf" if key == "oneOf" else key) for key in schema]


@pytest.mark.parametrize("schema", OVERLAPPING)
def test_anything_else_stays(schema):
    assert without_one_of(schema) == schema


def test_a_proof_without_end_is_none():
    deep = {"type": "object", "properties": {"child": {"$ref": "#/$defs/n"}}, "required": ["child"]}
    schema = {"oneOf": [{"$ref": "#/$defs/n"}, {"$ref": "#/$defs/m"}], "$defs": {"n": deep, "m": dict(deep)}}
    assert without_one_of(schema) == schema
    nested = {"oneOf": [{"type": "string"}, {"type": "null"}]}
    for _ in range(900):
        nested = {"items": nested}
    assert without_one_of(nested) == nested


values = st.one_of(st.none(), st.booleans(), st.integers(0, 2), st.sampled_from(["a", "b"]))
instances = st.one_of(values, st.dictionaries(st.sampled_from(["k", "l"]), values, max_size=2), st.just([]))
small = st.one_of(
    st.builds(lambda t: {"type": t}, st.sampled_from(["null", "boolean", "integer", "number", "string", "array"])),
    st.builds(lambda v: {"const": v}, values),
    st.builds(lambda v: {"enum": v}, st.lists(values, min_size=1, max_size=2)),
)


def records(inner):
    names = st.lists(st.sampled_from(["k", "l"]), max_size=2, unique=True)
    properties = st.dictionaries(st.sampled_from(["k", "l"]), inner, max_size=2)

    def record(properties, required, closed, typed):
        made = {"properties": properties, "required": required}
        made |= {"additionalProperties": False} if closed else {}
        return made | ({"type": "object"} if typed else {})

    several = st.lists(inner, min_size=1, max_size=2)
    return st.one_of(
        st.builds(record, properties, names, st.booleans(), st.booleans()),
        st.builds(lambda keyword, some: {keyword: some}, st.sampled_from(["anyOf", "allOf", "oneOf"]), several),
    )


@given(st.lists(st.recursive(small, records, max_leaves=5), min_size=2, max_size=3), st.lists(instances, max_size=20))
@settings(deadline=None)
def test_the_rewritten_schema_says_the_same(branches, given_instances):
    schema = {"oneOf": branches}
    one, other = (jsonschema.Draft202012Validator(s) for s in (schema, without_one_of(schema)))
    for instance in given_instances:
        assert one.is_valid(instance) == other.is_valid(instance), instance
