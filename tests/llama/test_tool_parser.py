"""What a model's text says, thinks and calls, wherever it is cut."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.llama.tool_parser import Parser
from backends.llama.tools import FORMATS, GENERIC, format_of, local_messages

BY_NAME = {form.name: form for form in (*FORMATS, GENERIC)}
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=8)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
CALLS = st.lists(
    st.tuples(st.sampled_from(["stop_pump", "get", "a.b-c"]), st.dictionaries(st.text(max_size=6), VALUES, max_size=3)),
    min_size=1,
    max_size=3,
)


def written(form, calls, pretty):
    """As the model writes them."""
    objects = [json.dumps({"name": n, form.arguments: a}, indent=1 if pretty else None) for n, a in calls]
    if form.array:
        return form.open + "[" + ", ".join(objects) + "]" + form.close
    return "\n".join(form.open + one + form.close for one in objects)


def heard(parser, text, cuts):
    """Text, reasoning, and the calls with their arguments put together, fed in pieces."""
    said, thought, calls = "", "", []
    edges = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    parsed = [parser.feed(text[a:b]) for a, b in pairwise(edges)] + [parser.close()]
    for part in parsed:
        said, thought = said + part.text, thought + part.reasoning
        for piece in part.tools:
            if piece.id:
                assert piece.index == len(calls)
                calls.append([piece.id, piece.name, piece.arguments])
            else:
                assert not piece.name
                calls[piece.index][2] += piece.arguments
    return said, thought, [(name, json.loads(arguments)) for _, name, arguments in calls], [call[0] for call in calls]


@pytest.mark.parametrize("form", BY_NAME.values(), ids=BY_NAME)
@given(calls=CALLS, pretty=st.booleans(), cuts=st.lists(st.integers(0, 500), max_size=30))
def test_calls_are_heard_however_they_are_cut(form, calls, pretty, cuts):
    if not form.open:
        calls = calls[:1]
    before = "" if not form.open else "Let me see.\n"
    said, thought, found, ids = heard(Parser(form), before + written(form, calls, pretty), cuts)
    assert said == before.rstrip()
    assert thought == ""
    assert found == calls
    assert len(set(ids)) == len(calls)
    assert all(len(id_) == (form.id_length if form.id_length < 24 else 29) for id_ in ids)


@given(
    text=st.text(alphabet='<tool_cal>{}\n x["TOOL_CALLS]', max_size=60), cuts=st.lists(st.integers(0, 60), max_size=8)
)
def test_without_tools_all_of_it_is_text(text, cuts):
    assert heard(Parser(None), text, cuts)[0] == text


@given(text=st.text(alphabet="abc <\n", max_size=40), cuts=st.lists(st.integers(0, 40), max_size=8))
def test_text_beside_tools_stays_whole(text, cuts):
    assert heard(Parser(BY_NAME["hermes"]), text, cuts)[0] == text


@given(cuts=st.lists(st.integers(0, 60), max_size=12))
@pytest.mark.parametrize(
    ("text", "thinking", "said", "thought"),
    [
        ("<think>\nTwo pumps.\n</think>\n\nStop P-2.", False, "Stop P-2.", "Two pumps."),
        ("Two pumps.\n</think>\nStop P-2.", True, "Stop P-2.", "Two pumps."),
        ("No thought <think> at all", False, "No thought <think> at all", ""),
        ("<think>never ends", False, "", "never ends"),
        ("  plain", False, "  plain", ""),
    ],
)
def test_thoughts_are_told_apart(text, thinking, said, thought, cuts):
    assert heard(Parser(None, thinks=True, thinking=thinking), text, cuts)[:2] == (said, thought)


def test_a_thought_and_then_a_call():
    text = '<think>\nHm.\n</think>\n\n<tool_call>\n{"name": "get", "arguments": {}}\n</tool_call>'
    assert heard(Parser(BY_NAME["hermes"], thinks=True), text, [])[:3] == ("", "Hm.", [("get", {})])


def test_arguments_are_passed_on_as_they_are_written():
    parser = Parser(BY_NAME["hermes"])
    pieces = ['<tool_call>\n{"name": "get", ', '"arguments": {"city": "Par', 'is"}}\n</tool_call>']
    heard_pieces = [parser.feed(piece).tools for piece in pieces]
    assert [[piece.arguments for piece in pieces] for pieces in heard_pieces] == [[""], ['{"city": "Par'], ['is"}']]


def test_a_call_that_is_cut_says_what_there_is():
    parser = Parser(BY_NAME["hermes"])
    (begun, rest) = parser.feed('<tool_call>\n{"name": "get", "arguments": {"a": 1').tools
    assert (begun.name, rest.arguments) == ("get", '{"a": 1')
    assert parser.close().tools == ()
    assert parser.calls == 0, "no call that could be made"


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{% if tools %}<tools>…<tool_call>{% endif %}", "hermes"),
        ("{% if tools %}[AVAILABLE_TOOLS]{% endif %}[TOOL_CALLS]", "mistral"),
        ("{% if tools %}<|tool_call|>{% endif %}", "granite"),
        ('{% if tools %}{"name": …, "parameters": …}<|python_tag|>{% endif %}', "llama3"),
        ("{{ message.content }}", "generic"),
        (None, "generic"),
    ],
)
def test_a_template_tells_the_family(template, name):
    assert format_of(template).name == name


def test_templates_get_objects_where_openai_has_json_in_a_string():
    call = {"id": "c1", "type": "function", "function": {"name": "get", "arguments": '{"a": 1}'}}
    history = [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "7", "tool_call_id": "c1"},
    ]
    messages, variables = local_messages(history, BY_NAME["hermes"], [{"type": "function"}])
    assert messages[0]["tool_calls"][0]["function"]["arguments"] == {"a": 1}
    assert variables == {"tools": [{"type": "function"}]}
    assert call["function"]["arguments"] == '{"a": 1}', "the request itself stays as it is"


def test_a_template_without_tools_is_told_of_them_in_words():
    call = {"id": "c1", "type": "function", "function": {"name": "get", "arguments": '{"a":1}'}}
    history = [
        {"role": "user", "content": "How warm?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "7", "tool_call_id": "c1"},
    ]
    messages, variables = local_messages(history, GENERIC, [{"type": "function", "function": {"name": "get"}}])
    assert variables == {}
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert '"name":"get"' in messages[0]["content"]
    assert messages[2]["content"] == '<tool_call>\n{"name":"get","arguments":{"a":1}}\n</tool_call>'
    assert messages[3]["content"] == "<tool_response>\n7\n</tool_response>"
