"""What a grammar may ask for, told from its text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.llama.bounds import MOST_DEPTH, MOST_OPERATORS, MOST_PATTERNS, excess, harmless
from backends.llama.grammar import canonical
from backends.types import Grammar

OBJECT = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}


def schema(value: Any) -> Grammar:
    return Grammar("json_schema", canonical(value))


def why(grammar: Grammar) -> str:
    return " ".join(why for _, why in excess(grammar))


def chain(links: int, link: Any) -> dict[str, Any]:
    """A schema of references, each of which leads to the next."""
    steps = {f"d{i}": link({"$ref": f"#/$defs/d{i + 1}"}) for i in range(links)}
    return {"$ref": "#/$defs/d0", "$defs": {**steps, f"d{links}": {"type": "string"}}}


LINKS = {
    "ref": lambda to: to,
    "property": lambda to: {"type": "object", "properties": {"a": to}},
    "choice": lambda to: {"anyOf": [{"type": "null"}, to]},
    "both": lambda to: {"allOf": [to, {"maxLength": 9}]},
    "item": lambda to: {"type": "array", "items": to},
}


@pytest.mark.parametrize("link", LINKS.values(), ids=LINKS)
def test_chains_of_schemas(link: Any) -> None:
    assert not why(schema(chain(MOST_DEPTH // 2 - 5, link)))
    assert why(schema(chain(MOST_DEPTH + 1, link))).startswith("`")
    assert "deep" in why(schema(chain(MOST_DEPTH + 1, link)))


def test_what_leads_back_to_itself_is_no_deeper_than_it_is_long() -> None:
    tree = {"type": "object", "properties": {"l": {"$ref": "#"}, "r": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}}}
    assert not why(schema(tree))
    names = [f"t{i}" for i in range(300)]
    wide = {name: {"type": "array", "items": {"$ref": "#/$defs/all"}} for name in names}
    assert not why(schema({"$defs": {"all": {"anyOf": [{"$ref": f"#/$defs/{n}"} for n in names]}, **wide}} | tree))


@pytest.mark.parametrize(
    "holds",
    [
        lambda all_: {"allOf": all_},
        lambda all_: {"allOf": [{"allOf": all_[:4]}, {"allOf": all_[4:]}]},
        lambda all_: {"allOf": [{"$ref": "#/$defs/rest"}, *all_[:4]], "$defs": {"rest": {"allOf": all_[4:]}}},
        lambda all_: {**all_[0], "allOf": [{"anyOf": [{"type": "null"}, {"allOf": all_[1:]}]}]},
        lambda all_: {"type": "array", "items": {"allOf": all_}},
        lambda all_: {"type": "object", "properties": {"a": {"allOf": all_}}},
    ],
)
def test_patterns_that_hold_for_one_value(holds: Any) -> None:
    patterns = [{"pattern": f"a{i}"} for i in range(MOST_PATTERNS + 1)]
    assert not why(schema(holds(patterns[:-1])))
    assert f"more than {MOST_PATTERNS} patterns" in why(schema(holds(patterns)))


def test_patterns_for_values_of_their_own_are_as_many_as_one_likes() -> None:
    each = {f"p{i}": {"type": "string", "pattern": f"a{i}"} for i in range(50)}
    assert not why(schema({"type": "object", "properties": each}))
    assert not why(schema({"anyOf": list(each.values())}))


def test_the_function_is_named() -> None:
    wrong = {"allOf": [{"pattern": str(i)} for i in range(50)]}
    source = {"functions": [["fine", OBJECT, True], ["f", wrong, False]], "required": 1, "parallel": 1}
    asked = Grammar("tools", canonical({**source, "otherwise": None}), "tools")
    assert [name for name, _ in excess(asked)] == ["f"]
    assert not harmless(asked)


def test_operators_of_a_lark_grammar() -> None:
    def terms(n: int) -> Grammar:
        return Grammar("lark", "start: X\nX: " + " & ".join(f"/(.|\\n)*a{i}(.|\\n)*/" for i in range(n)))

    assert not why(terms(MOST_OPERATORS + 1))
    assert "`&`" in why(terms(MOST_OPERATORS + 2))
    assert "`~`" in why(Grammar("lark", "start: X\nX: " + "~(" * 9 + "/a/" + ")" * 9))
    assert not why(Grammar("lark", "start: x\n" + "".join(f'x{i}: "a&~&b" /[&~]/ x{i}~3 // & ~\n' for i in range(20))))


@pytest.mark.parametrize(
    ("kind", "first", "rule"),
    [
        ("lark", "start: r0", 'r{}: "a" r{} | "b"'),
        ("lark", "start: R0", "R{}: /a/ R{}"),
        ("gbnf", "root ::= r0", 'r{} ::= [^"] r{}'),
    ],
)
def test_chains_of_rules(kind: Any, first: str, rule: str) -> None:
    def rules(n: int) -> Grammar:
        name = rule[0]
        lines = [first, *(rule.format(i, i + 1) for i in range(n)), rule.format(n, n).replace(f" {name}{n}", ' "c"', 2)]
        return Grammar(kind, "\n".join(lines))

    assert not why(rules(MOST_DEPTH - 5))
    assert "deep" in why(rules(MOST_DEPTH + 1))
    assert "deep" in why(rules(8000))


def test_rules_may_use_each_other() -> None:
    assert not why(Grammar("lark", 'start: a\na: "(" b ")" | b\nb: a "+" a | c\nc: /[0-9]+/ | a'))
    assert not why(Grammar("gbnf", 'root ::= a\na ::= "(" a ")" | b\nb ::= a "+" | [0-9]+'))


@given(st.text(alphabet='ab:=|&~/"\\[](){}<>#\n .%-1', max_size=200), st.sampled_from(["lark", "gbnf"]))
def test_any_text_can_be_read(text: str, kind: Any) -> None:
    assert why(Grammar(kind, text)) in ("", "it has more than 8 of the operators `&` and `~`")


values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.text(max_size=5)
    | st.sampled_from(["#", "#/$defs/a", "#/allOf/0"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["$ref", "$defs", "a", "allOf", "anyOf", "properties", "items", "pattern", "enum", "type"]),
            inner,
            max_size=4,
        )
    ),
)


@given(values)
def test_any_value_can_be_read(value: Any) -> None:
    assert not why(schema(value)), "so small a schema is within the bounds"
    assert harmless(schema(value)) in (True, False)


@pytest.mark.parametrize(
    ("plain", "value"),
    [
        (True, OBJECT),
        (True, chain(3, LINKS["property"])),
        (True, {"anyOf": [OBJECT, {"type": "integer", "minimum": 0}, {"enum": ["a", 1]}]}),
        (False, {"type": "object", "properties": {"a": {"type": "string", "pattern": "a"}}}),
        (False, {"$defs": {"a": {"format": "date"}}, "$ref": "#/$defs/a"}),
        (False, {"allOf": [OBJECT]}),
        (False, {"$ref": "#/$defs/a", "anyOf": [OBJECT, OBJECT], "$defs": {"a": OBJECT}}),
        (False, {"type": "string", "maxLength": 10**6}),
        (False, {"minimum": 1e300}),
        (False, {"enum": ["x" * 10_000]}),
        (False, {"patternProperties": {"a": {}}}),
    ],
)
def test_what_needs_no_trial(plain: bool, value: Any) -> None:
    assert harmless(schema(value)) is plain


def test_other_notations_are_tried() -> None:
    assert not harmless(Grammar("regex", "a"))
    assert not harmless(Grammar("lark", 'start: "a"'))
