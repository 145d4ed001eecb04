"""What must not be allowed although llguidance alone would, and what beside it must be; the real model's vocabulary."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from backends.errors import InvalidRequest
from backends.llama.bindings import Model
from backends.llama.family import Calls, Function
from backends.llama.grammar import Constraint, Grammars, canonical
from backends.llama.narrowing import ESCAPES, narrowed
from backends.types import Grammar


@pytest.fixture(scope="module")
def model(model_file):
    return Model(model_file, vocab_only=True)


@pytest.fixture(scope="module")
def grammars(model):
    return Grammars(model.grammar_tokenizer, model.n_vocab)


def allowed(model: Model, grammars: Grammars, schema: Any, text: str) -> bool:
    """Whether a completion may be this text."""
    return follows(model, grammars.compile(Grammar("json_schema", canonical(schema))), text)


def follows(model: Model, constraint: Constraint, text: str) -> bool:
    for token in model.tokenize(text, special=False, begin=False):
        if constraint.blocked()[token]:
            return False
        constraint.take([token])
    return constraint.done or not all(constraint.blocked()[list(model.eog)])


def valid(schema: Any, text: str) -> bool:
    validator = jsonschema.Draft202012Validator
    return validator(schema, format_checker=validator.FORMAT_CHECKER).is_valid(json.loads(text))


OPEN = {"type": "object", "properties": {"größe": {"type": "integer"}, "a": {"type": "integer"}}}


def text(pattern: str) -> dict[str, Any]:
    return {"type": "string", "pattern": pattern}


def date(kind: str = "date") -> dict[str, Any]:
    return {"type": "string", "format": kind}


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        (OPEN, ['{"größe": 1, "b": "x"}'], [r'{"gr\u00f6\u00dfe": "x"}', r'{"a": 1, "\u0061": "x"}']),
        (text('^[^"]$'), ['"a"', r'"\\"', r'"\n"'], [r'"\""']),
        (text(r"^[^\\/:*?<>|]+$"), ['"a b"', r'"\""'], [r'"\\"', '"a:"']),
        (text(r"^[^\\x00-\\x1f]$".replace("\\\\", "\\")), ['"a"', r'"\\"', r'"\""'], [r'"\n"']),
        (text(r"^[\x00-!]$"), ['" "', r'"\n"'], [r'"\""', r'"\\"']),
        (text(r"^[^]a]$"), ['"b"'], ['"a"', '"]"']),
        (text(r"^[^-a]$"), ['"b"', '"."'], ['"a"', '"-"']),
        (text(r"^\[[^]]+\]$"), ['"[x]"'], ['"x"']),
        (text(r"^\W\D$"), ['"-x"', '".é"'], ['"é-"', '"-٣"', '"-3"']),
        (text(r"^[\W_][^\w\s\d]$"), ['"-!"', '"_."'], ['"é-"', '"-é"', '"-1"', '"- "']),
        (text(r"^[^\W]\w\d$"), ['"ab1"'], ['"é11"', '"-a1"']),
        ({"type": "number", "exclusiveMinimum": 1}, ["1.5", "2"], ["1", "1.00000000000000000000001"]),
        ({"type": "number", "exclusiveMaximum": 0.1}, ["0", "0.05", "0.0999", "-7"], ["0.1", "0.099999999999999999"]),
        ({"type": ["number", "string"], "exclusiveMaximum": 0.1}, ["0.09", '"a"'], ["0.1"]),
        ({"type": "number", "minimum": 0.95, "exclusiveMaximum": 1}, ["0.99", "0.95", "0.9501"], ["0.9", "1", "1.0"]),
        ({"type": "number", "exclusiveMinimum": -1, "exclusiveMaximum": 1}, ["-0.9", "0.9", "0", "0.5"], ["-1", "1"]),
        ({"type": "number", "exclusiveMaximum": 1e6}, ["999999.5", "999998", "5"], ["1000000"]),
        ({"type": "number", "exclusiveMinimum": 1, "multipleOf": 0.5}, ["1.5"], ["1", "1.0"]),
        ({"type": "number", "exclusiveMinimum": 0}, ["0.001", "12"], ["0", "0.0"]),
        ({"type": "number", "exclusiveMinimum": 0, "minimum": 5}, ["5", "6.5"], ["4", "0"]),
        ({"type": "number", "exclusiveMaximum": -2e6}, ["-2000001"], ["-2000000", "-2000000.00000000000000001"]),
        ({"type": "integer", "exclusiveMinimum": 10**15}, ["1000000000000001"], ["1000000000000000"]),
        (date(), ['"2024-02-29"', '"2023-02-28"', '"2000-02-29"', '"2023-12-31"'], ['"2023-02-29"', '"1900-02-29"']),
        (date(), ['"0004-02-29"'], ['"0000-01-01"', '"2023-04-31"']),
        (date("date-time"), ['"2024-02-29T01:00:00Z"'], ['"2023-02-29T01:00:00Z"']),
        ({**date(), "allOf": [{"pattern": "^2024"}]}, ['"2024-02-29"'], ['"2023-02-28"']),
        (date("hostname"), ['"pump.example"'], ['"' + "a." * 140 + 'b"']),
        ({"type": "object", "required": ["a"], "minProperties": 2}, ['{"a": 1, "b": 2}'], ['{"a": 1}']),
        # A property may be called as a keyword is.
        ({"type": "object", "properties": {"pattern": text("^[^\"]$")}}, ['{"pattern": "x"}'], [r'{"pattern": "\""}']),
        ({"type": "object", "properties": {"const": text("^[^\"]$")}}, ['{"const": "x"}'], [r'{"const": "\""}']),
        ({"$ref": "#/x/y", "x": {"y": text("^[^\"]$")}}, ['"x"'], [r'"\""']),
        ({"type": "object", "patternProperties": {'^[^"]$': {"const": 1}}}, ['{"a": 1}', r'{"\"": 2}'], ['{"a": 2}']),
        ({"const": {"pattern": '[^"]', "exclusiveMinimum": 5}}, ['{"pattern": "[^\\"]", "exclusiveMinimum": 5}'], []),
    ],
)  # fmt: skip
def test_what_may_be_written_is_what_validates(model, grammars, schema, right, wrong):
    for said in right:
        assert valid(schema, said), "the example itself"
        assert allowed(model, grammars, schema, said), said
    for said in wrong:
        assert not allowed(model, grammars, schema, said), said


def test_a_class_by_its_unicode_name_has_no_more_than_its_own(model, grammars):
    """Python's regular expressions have no such classes."""
    schema = text(r"^\PL\P{P}$")
    assert allowed(model, grammars, schema, '"-1"')
    assert not any(allowed(model, grammars, schema, said) for said in ('"a1"', '"1-"', r'"1\""', r'"1\\"'))


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"type": "object", "minProperties": 2}, "minProperties"),
        ({"type": "object", "minProperties": 4, "required": ["a", "b"]}, "minProperties"),
        ({"properties": {"a": {"const": "a\x01"}}, "type": "object"}, "const"),
        ({"enum": ["b", {"k\x7f": 1}]}, "enum"),
        (text(r"^a\x01b$"), "pattern"),
        (text("^a[\\v]b$"), "pattern"),
        ({"type": "object", "patternProperties": {"^\x1b": {}}}, "pattern"),
    ],
)
def test_what_would_not_be_enforced_is_refused_by_name(grammars, schema, keyword):
    with pytest.raises(InvalidRequest, match=f"cannot be enforced: `{keyword}`"):
        grammars.compile(Grammar("json_schema", canonical(schema)))


def test_a_schema_that_needs_nothing_stays_as_it_is():
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer", "exclusiveMinimum": 3}, "b": {"pattern": r"^\w+\.[a-z]\\$"}},
        "minProperties": 1,
        "enum": [{"exclusiveMinimum": 3}, 'a"\\x01'],
        "x-own": [1, {"format": "ours"}],
    }
    wrong: list[str] = []
    assert narrowed(schema, wrong) == schema
    assert list(narrowed(schema, wrong)) == list(schema)
    assert not wrong


def test_the_callers_schema_is_not_changed():
    schema = {"format": "date", "allOf": [{"exclusiveMaximum": 2.5}], "x-guidance": {"lenient": True}}
    before = json.dumps(schema)
    assert "x-guidance" not in narrowed(schema, [])
    assert json.dumps(schema) == before


def test_functions_are_held_to_the_same_as_far_as_can_be(model, grammars):
    """One that is `strict` is refused by name; of another the rest is enforced."""
    parameters = {"type": "object", "properties": {"a": text('^[^"]$'), "b": {"const": "\x01"}}, "required": ["a"]}
    for strict in (True, False):
        function = Function("f", parameters, strict)
        asked = Calls((function,), required=True, parallel=False).grammar()
        if strict:
            with pytest.raises(InvalidRequest, match="function 'f' cannot be enforced: `const`"):
                grammars.compile(asked)
            continue
        for said, right in ((r"\\", True), (r"\"", False)):
            call = f'<tool_call>\n{{"name": "f", "arguments": {{"a": "{said}"}}}}\n</tool_call>'
            assert follows(model, grammars.compile(asked), call) is right


def test_a_schema_nested_without_end_is_refused(grammars):
    deep = '{"items":' * 900 + "{}" + "}" * 900
    with pytest.raises(InvalidRequest, match="cannot be enforced"):
        grammars.compile(Grammar("json_schema", deep))


def test_the_escapes_are_all_that_json_has_for_single_characters():
    assert all(len(json.loads(f'"\\{letter}"')) == 1 for letter in ESCAPES)


@pytest.mark.parametrize("bound", [-1e-300, -1.5e-7, -0.1, -3.25, -1e9, -1e300])
def test_a_bound_far_from_one_takes_no_more_numbers_than_any(bound: float) -> None:
    (both,) = narrowed({"type": "number", "exclusiveMinimum": bound}, [])["allOf"]
    (least,) = [choice["minimum"] for choice in both["anyOf"] if "minimum" in choice]
    (listed,) = [choice["enum"] for choice in both["anyOf"] if "enum" in choice]
    assert bound < least < 0
    assert 1 <= len(listed) <= 12
    assert all(number > bound for number in listed)
