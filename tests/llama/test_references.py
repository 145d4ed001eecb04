"""References that cannot be followed: elsewhere, nowhere, or without end."""

from __future__ import annotations

import pytest

from backends.llama.references import trouble

NODE = {"type": "object", "properties": {"value": {}, "next": {"$ref": "#/$defs/n"}}, "required": ["value"]}
ENDLESS = "leads back to itself without end"


def needs(*names, of=None):
    return {"type": "object", "properties": {name: of or {"$ref": "#/$defs/n"} for name in names}, "required": [*names]}


FINE = [
    {},
    {"$ref": "#/$defs/n", "$defs": {"n": NODE}},
    {"$ref": "#/$defs/n", "$defs": {"n": {"type": "array", "items": {"$ref": "#/$defs/n"}}}},
    {"$ref": "#/$defs/n", "$defs": {"n": needs("a", of={"anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}]})}},
    {"$ref": "#/$defs/n", "$defs": {"n": {**needs("a"), "type": ["object", "null"]}}},
    {"$ref": "#/$defs/n", "$defs": {"n": {**needs("a"), "enum": [1]}}},
    {"$ref": "#/$defs/n/anyOf/1", "$defs": {"n": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}},
    {"$ref": "#/$defs/a~1b~0", "$defs": {"a/b~": {"type": "string"}}},
    {"$ref": "#/$defs/list%20item", "$defs": {"list item": {"type": "string"}}},
    # Nobody comes upon it.
    {"type": "string", "$defs": {"n": {"$ref": "#/$defs/n"}}},
    {"const": {"$ref": "https://elsewhere.example/"}},
    {"properties": {"a": False}, "additionalProperties": False},
]
WRONG = [
    ({"$ref": "#"}, ENDLESS),
    ({"$ref": "#/$defs/n", "$defs": {"n": {"allOf": [{"anyOf": [{"$ref": "#/$defs/n"}]}]}}}, ENDLESS),
    ({"$ref": "#/$defs/n", "$defs": {"n": needs("a", "b")}}, ENDLESS),
    ({"$ref": "#/$defs/n", "$defs": {"n": {"type": "array", "items": {"$ref": "#/$defs/n"}, "minItems": 1}}}, ENDLESS),
    ({"$ref": "#/$defs/n", "$defs": {"n": {"type": "array", "prefixItems": [{"$ref": "#"}], "minItems": 1}}}, ENDLESS),
    # What may be left out may also be begun.
    ({"properties": {"a": {"$ref": "#/$defs/n"}}, "$defs": {"n": {"oneOf": [{"$ref": "#/$defs/n"}]}}}, ENDLESS),
    ({"anyOf": [{"type": "null"}, {"$ref": "#/$defs/n"}], "$defs": {"n": needs("a")}}, ENDLESS),
    ({"items": {"$ref": "https://elsewhere.example/s.json"}}, "elsewhere.example"),
    ({"items": {"$ref": "other.json#/a"}}, "nothing is fetched"),
    ({"items": {"$ref": "#/$defs/gone"}}, "leads nowhere"),
    ({"items": {"$ref": "#/$defs/a/anyOf/7"}, "$defs": {"a": {"anyOf": []}}}, "leads nowhere"),
]


@pytest.mark.parametrize("schema", FINE)
def test_what_can_be_followed(schema):
    assert trouble(schema) == ""


@pytest.mark.parametrize(("schema", "said"), WRONG)
def test_what_cannot(schema, said):
    assert said in trouble(schema)
    assert "`$ref`" in trouble(schema)


def test_a_chain_as_long_as_a_body_may_be_is_looked_through():
    chain = {f"d{n}": needs("a", of={"$ref": f"#/$defs/d{n + 1}"}) for n in range(3000)}
    end = {"d3000": {"type": "string"}}
    assert trouble({"$ref": "#/$defs/d0", "$defs": chain | end}) == ""
    backwards = dict(reversed(list(chain.items())))
    assert trouble({"allOf": [{"$ref": f"#/$defs/d{n}"} for n in range(3000)], "$defs": end | backwards}) == ""
    assert ENDLESS in trouble({"$ref": "#/$defs/d0", "$defs": chain | {"d3000": {"$ref": "#/$defs/d0"}}})
