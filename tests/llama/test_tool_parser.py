"""What a model's text says, thinks and calls, wherever it is cut: the same for every family."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.llama.family import Calls, Family
from backends.llama.talk import Parser, Talk
from tests.llama.listening import BY_NAME, WRITE, Heard, each, heard, talk

NAMES = ("stop_pump", "get", "a.b-c")
OPEN: dict[str, Any] = {"type": "object", "properties": {"note": {"type": "string"}, "n": {"type": "integer"}}}
MAY = Calls.asked([{"function": {"name": name, "parameters": OPEN}} for name in NAMES], "auto", parallel=True)

VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=8)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
ARGUMENTS = st.dictionaries(st.text(max_size=6), VALUES, max_size=3)
CALLS = st.lists(st.tuples(st.sampled_from(NAMES), ARGUMENTS), min_size=1, max_size=3)
CUTS = st.lists(st.integers(0, 500), max_size=30)


def xml_safe(calls: list[Any]) -> list[Any]:
    """XML has no way to write an angle bracket or a line's end in a key; `note` is text."""
    keys = iter("abcdefghi")
    return [
        (name, {"note": "two\nlines"} | {next(keys): value for value in arguments.values()})
        for name, arguments in calls
    ]


@each
@given(calls=CALLS, indent=st.sampled_from([None, 1]), cuts=CUTS)
@settings(max_examples=40)
def test_calls_are_heard_however_they_are_cut(family: Family, calls: Any, indent: int | None, cuts: list[int]) -> None:
    calls = xml_safe(calls) if family.name == "qwen-xml" else calls
    got = heard(Parser(talk(family), MAY), WRITE[family.name](calls, indent), cuts)
    assert got == Heard(calls=calls)


@each
@given(call=st.tuples(st.sampled_from(NAMES), ARGUMENTS), size=st.integers(0, 300), cuts=CUTS)
@settings(max_examples=40)
def test_a_cut_call_is_no_call_however_it_is_cut(family: Family, call: Any, size: int, cuts: list[int]) -> None:
    """Whatever there is of it was passed on, and none of its marks is shown."""
    (call,) = xml_safe([call]) if family.name == "qwen-xml" else [call]
    whole = WRITE[family.name]([call], None)
    end = min(whole.rfind("}") if "}" in whole else whole.rfind("</function>"), len(whole) - 1)
    text = whole[: size % max(end, 1)]
    got = heard(Parser(talk(family), MAY), text, cuts)
    assert got.calls == []
    assert got == heard(Parser(talk(family), MAY), text)


@pytest.mark.parametrize(
    ("family", "text"),
    [
        ("hermes", '<tool_call>\n{"name": "get_w'),
        ("hermes", '```json\n{"name": "get_w'),
        ("generic", '<tool_call>\n{"na'),
        ("granite", '<|tool_call|>[{"name": "get_w'),
        ("llama3", '{"name": "get_w'),
    ],
)
@given(cuts=CUTS)
def test_what_was_cut_before_a_calls_name_is_no_text(family: str, text: str, cuts: list[int]) -> None:
    """A client that required a call would take it for the answer."""
    assert heard(Parser(talk(BY_NAME[family]), MAY), text, cuts) == Heard()


@each
@given(text=st.text(alphabet="abc. ü\n", max_size=40), cuts=CUTS)
@settings(max_examples=40)
def test_text_beside_tools_stays_whole(family: Family, text: str, cuts: list[int]) -> None:
    begin = "<|channel|>final<|message|>" if family.always else ""
    assert heard(Parser(talk(family), MAY), begin + text, cuts) == Heard(said=text)


MARKED = [family for family in BY_NAME.values() if family.open]


@pytest.mark.parametrize("family", MARKED, ids=[family.name for family in MARKED])
@given(calls=CALLS, cuts=CUTS)
def test_text_before_calls(family: Family, calls: Any, cuts: list[int]) -> None:
    calls = xml_safe(calls) if family.name == "qwen-xml" else calls
    text = "Let me see.\n" + WRITE[family.name](calls, None)
    assert heard(Parser(talk(family), MAY), text, cuts) == Heard("Let me see.", "", calls)


@each
@given(
    text=st.text(alphabet='<tool_cal>{}\n x["TOOL_CALLS]', max_size=60), cuts=st.lists(st.integers(0, 60), max_size=8)
)
@settings(max_examples=40)
def test_without_tools_all_of_it_is_text(family: Family, text: str, cuts: list[int]) -> None:
    begin = "<|channel|>final<|message|>" if family.always else ""
    assert heard(Parser(Talk(family)), begin + text, cuts) == Heard(said=text)


# -- thoughts ----------------------------------------------------------------------------------------------------------


@given(cuts=st.lists(st.integers(0, 60), max_size=12))
@pytest.mark.parametrize(
    ("text", "thinking", "said", "thought"),
    [
        ("<think>\nTwo pumps.\n</think>\n\nStop P-2.", False, "Stop P-2.", "Two pumps."),
        ("Two pumps.\n</think>\nStop P-2.", True, "Stop P-2.", "Two pumps."),
        ("No thought <think> at all", False, "No thought <think> at all", ""),
        ("<think>never ends", False, "", "never ends"),
        ("never ends", True, "", "never ends"),
        ("  plain", False, "  plain", ""),
        ("<think>\n\n</think>\n\nNothing to think.", False, "Nothing to think.", ""),
    ],
)
def test_thoughts_are_told_apart(text: str, thinking: bool, said: str, thought: str, cuts: list[int]) -> None:
    parser = Parser(talk(BY_NAME["hermes"]), None, "thinking" if thinking else "may think")
    assert heard(parser, text, cuts) == Heard(said, thought)


def test_a_parser_says_whether_it_is_thinking() -> None:
    for family, begin, end in (
        ("hermes", "<think>\nHm", "</think>\n"),
        ("gpt-oss", "<|channel|>analysis<|message|>Hm", "<|end|>"),
    ):
        parser = Parser(talk(BY_NAME[family]))
        parser.feed(begin)
        assert parser.thinking
        parser.feed(end)
        assert not parser.thinking


@each
@given(cuts=CUTS)
@settings(max_examples=40)
def test_a_thought_and_then_a_call(family: Family, cuts: list[int]) -> None:
    call = [("get", {"note": "x"})]
    thought = "<think>\nHm.\n</think>\n\n"
    if family.always:
        thought = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
    text = thought + WRITE[family.name](call, None)
    assert heard(Parser(talk(family), MAY), text, cuts) == Heard("", "Hm.", call)


@given(cuts=CUTS)
def test_granite_answers_within_tags_after_a_thought(cuts: list[int]) -> None:
    text = "<think>Hm.</think>\n<response>Stop P-2.</response>"
    assert heard(Parser(talk(BY_NAME["granite"])), text, cuts) == Heard("Stop P-2.", "Hm.")


@given(cuts=CUTS)
def test_an_answer_that_goes_on_begins_with_words(cuts: list[int]) -> None:
    for family in BY_NAME.values():
        assert heard(Parser(talk(family), MAY, "answer"), " and so on.", cuts) == Heard(" and so on.")


# -- bits and pieces ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "pieces", "arguments"),
    [
        ("hermes", ['<tool_call>\n{"name": "get", ', '"arguments": {"note": "P', 'is"}}'], ["", '{"note": "P', 'is"}']),
        ("llama3", ['{"name": "get", ', '"parameters": {"n": 1', "}}"], ["", '{"n": 1', "}"]),
        ("mistral", ['[TOOL_CALLS] [{"name": "get", ', '"arguments": {"n": 1', "}}]"], ["", '{"n": 1', "}"]),
        ("mistral-names", ["[TOOL_CALLS]get[ARGS]{", '"n": 1', "}"], ["{", '"n": 1', "}"]),
        ("gpt-oss", ["<|channel|>commentary to=functions.get json<|message|>{", '"n": 1', "}"], ["{", '"n": 1', "}"]),
        ("qwen-xml", ["<tool_call>\n<function=get>\n", "<parameter=note>\nPa", 'r"is'], ["{", '"note": "Pa', 'r\\"is']),
    ],
)  # fmt: skip
def test_arguments_are_passed_on_as_they_are_written(name: str, pieces: list[str], arguments: list[str]) -> None:
    parser = Parser(talk(BY_NAME[name]), MAY)
    got = [parser.feed(piece).tools for piece in pieces]
    assert [piece.name for piece in got[0] if piece.name] == ["get"]
    assert ["".join(piece.arguments for piece in pieces) for pieces in got] == arguments


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ('```json\n{"name": "get", "arguments": {}}\n```', [("get", {})]),
        ('```json\n<tool_call>\n{"name": "get", "arguments": {}}\n</tool_call>\n```', [("get", {})]),
        ('```\n<tool_call>\n{"name": "get", "arguments": {}}\n</tool_call>\n```', [("get", {})]),
        ('<tool_call>{"arguments": {"n": 1}, "name": "get"}</tool_call>', [("get", {"n": 1})]),
        ('<tool_call>\n{"name": "get"}\n</tool_call>', [("get", {})]),
        ('{"name": "get", "arguments": {"n": 1}}\n{"name"', [("get", {"n": 1})]),
        ('<tool_call>{"name": "unheard of", "arguments": {}}', [("unheard of", {})]),
    ],
)
@given(cuts=CUTS)
def test_what_small_models_make_of_hermes_format(text: str, calls: list[Any], cuts: list[int]) -> None:
    got = heard(Parser(talk(BY_NAME["hermes"]), MAY), text, cuts)
    assert got.calls == calls


@given(cuts=CUTS)
def test_an_object_that_is_no_call_is_text(cuts: list[int]) -> None:
    text = '<tool_call>{"message": "Hello"}</tool_call>'
    assert heard(Parser(talk(BY_NAME["hermes"]), MAY), text, cuts) == Heard(said='{"message": "Hello"}')
    assert heard(Parser(talk(BY_NAME["llama3"]), MAY), '{"message": "Hello"}', cuts) == Heard(
        said='{"message": "Hello"}'
    )


def test_ids_are_as_long_as_the_template_wants_them() -> None:
    for family in BY_NAME.values():
        parser = Parser(talk(family), MAY)
        pieces = parser.feed(WRITE[family.name]([("get", {})], None)).tools
        assert len(pieces[0].id) == (9 if family.name.startswith("mistral") else 29)


@given(value=VALUES.filter(lambda value: not isinstance(value, str)), text=st.text(alphabet='ab"\\\n<é', max_size=12))
def test_xml_values_are_what_their_schema_says(value: Any, text: str) -> None:
    values = f"<parameter=note>\n{text}\n</parameter>\n<parameter=n>\n{json.dumps(value)}\n</parameter>\n"
    written = f"<tool_call>\n<function=get>\n{values}</function>\n</tool_call>"
    assert heard(Parser(talk(BY_NAME["qwen-xml"]), MAY), written).calls == [("get", {"note": text, "n": value})]


@pytest.mark.parametrize(("literal", "value"), [("True", True), ("None", None), ("7", 7), ("seven", "seven")])
def test_xml_values_in_pythons_words(literal: str, value: Any) -> None:
    written = f"<tool_call>\n<function=get>\n<parameter=other>\n{literal}\n</parameter>\n</function>"
    assert heard(Parser(talk(BY_NAME["qwen-xml"]), MAY), written).calls == [("get", {"other": value})]


@given(cuts=CUTS)
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<|channel|>analysis<|message|>Hm.<|channel|>final<|message|>Yes.", Heard("Yes.", "Hm.")),
        ("<|channel|>analysis<|mess", Heard()),
        ("<|channel|>final <|constrain|>json<|message|>{}", Heard("{}")),
        (" to=functions.get<|channel|>commentary json<|message|>{}", Heard(calls=[("get", {})])),
        ("Forgot all about it.", Heard("Forgot all about it.")),
        ("<|channel|>commentary<|message|>A.<|end|><|start|>assistant<|channel|>final<|message|>B.", Heard("A.\n\nB.")),
        ("<|channel|>analysis to=python code<|message|>1 + 1<|call|>", Heard()),
    ],
)  # fmt: skip
def test_harmony_as_models_write_it(text: str, expected: Heard, cuts: list[int]) -> None:
    got = heard(Parser(talk(BY_NAME["gpt-oss"]), MAY), text, cuts)
    got.thought = "" if "python" in text else got.thought  # what an own tool wanted is a thought
    assert got == expected
