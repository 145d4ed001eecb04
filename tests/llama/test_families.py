"""What each family's models really wrote, its templates' marks, and conversations as its templates want them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.errors import InvalidRequest
from backends.llama.dialogue import Dialogue
from backends.llama.families import FAMILIES, family_of
from backends.llama.family import Calls, Family
from backends.llama.history import cleaned
from backends.llama.talk import Parser, Talk
from backends.types import Request
from tests.llama.listening import BY_NAME, RECORDED, heard, recordings, talk


def parser_of(family: Family, one: dict[str, Any]) -> Parser:
    calls = Calls.asked(one["tools"], "auto", parallel=True) if one["tools"] else None
    return Parser(talk(family), calls)


@pytest.mark.parametrize(("family", "one"), recordings())
def test_what_models_wrote_is_understood(family: Family, one: dict[str, Any]) -> None:
    assert one["source"], "where it was found"
    assert one["model"], "who wrote it"
    got = heard(parser_of(family, one), one["text"])
    assert got.calls == [(name, arguments) for name, arguments in one.get("calls", ())]
    assert (got.said, got.thought) == (one.get("says", ""), one.get("thinks", ""))


@pytest.mark.parametrize(("family", "one"), recordings())
@given(cuts=st.lists(st.integers(0, 3000), max_size=20))
@settings(max_examples=30)
def test_however_it_is_cut(family: Family, one: dict[str, Any], cuts: list[int]) -> None:
    whole, pieces = (heard(parser_of(family, one), one["text"], at) for at in ([], cuts))
    assert pieces == whole


def test_each_family_has_recordings() -> None:
    assert {path.stem for path in RECORDED.glob("*.json")} == set(BY_NAME)


# -- told by the template ----------------------------------------------------------------------------------------------

HERMES = r"<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}"
LLAMA = """{{- 'Respond in the format {"name": function name, "parameters": dictionary of argument name' }}"""
MARKS = [
    # What tells them apart, in the words of the templates that their authors publish.
    ("hermes", "Qwen 2.5, Qwen 3", "{%- if tools %}" + HERMES),
    ("hermes", "Granite 4", "{%- if tools %}<|start_of_role|>" + HERMES),
    ("hermes", "Hermes 2 Pro", """{%- for tool in tools %}<tool_call>
" }}{{- '{"name": <function-name>, "arguments": <args-dict>}' }}"""),
    ("qwen-xml", "Qwen3-Coder", r"{%- for tool in tools %}<tool_call>\n<function=a_name>\n<parameter=parameter_1>"),
    ("llama3", "Llama 3.1", "{%- if tools %}Environment: ipython" + LLAMA + "<|python_tag|>"),
    ("llama3", "Llama 3.2", "{%- if tools %}" + LLAMA),
    ("mistral", "Mistral Nemo", """{%- for tool in tools %}{{- "[AVAILABLE_TOOLS][" }}{{- "[TOOL_CALLS][" }}"""),
    ("mistral", "Mistral 7B v0.3", """{%- for tool in tools %}{{- "[AVAILABLE_TOOLS] [" }}{{- "[TOOL_CALLS] [" }}"""),
    ("mistral-names", "Mistral Small 3.2", """{{- tools }}{{- '[TOOL_CALLS]' + name }}
        {{- '[CALL_ID]' + tool_call.id }}{{- '[ARGS]' + arguments }}"""),
    ("mistral-names", "Devstral", """{{- tools }}{{- '[TOOL_CALLS]' }}{{- name + '[ARGS]' + arguments }}"""),
    ("granite", "Granite 3.3", """{%- if tools %}{%- set system_message = "respond only with <|tool_call|> followed by
        a JSON list of tools used." %}{{- '<|start_of_role|>system<|end_of_role|>' + system_message }}"""),
    ("gpt-oss", "gpt-oss", """{{- tools }}{{- "<|start|>assistant<|channel|>analysis<|message|>" + thinking }}"""),
    # Tools in ways that nobody here knows: asked for in words.
    ("generic", "GLM 4.6", "{% for tool in tools %}<tool_call>{function-name}\n<arg_key>{arg-key-1}</arg_key>"),
    ("generic", "Phi-4-mini", "{% if tools %}{{ '<|tool|>' + tools }}<|tool_call|>{% endif %}"),
    ("generic", "Command R7B", """{% for tool in tools %}{"tool_name": "", "parameters": {}}<|START_ACTION|>"""),
    ("generic", "Functionary 3.1", "{% for tool in tools %}<function={name}>{}</function><|python_tag|>"),
    ("generic", "Llama in Python's words", "{{ tools }}[func_name1(params_name1=params_value1), func_name2(params)]"),
    ("generic", "SmolLM2", "{{ message['content'] }}"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "model", "template"), MARKS, ids=[model for _, model, _ in MARKS])
def test_a_template_tells_the_family(name: str, model: str, template: str) -> None:
    assert family_of(template).name == name
    assert sum(family.speaks(template) for family in FAMILIES) == (name != "generic"), "no two claim it"


def test_real_templates(model_file: Path, qwen_file: Path) -> None:
    from backends.models.gguf import read_gguf

    names = [Talk.of(read_gguf(file).chat_template).family.name for file in (qwen_file, model_file)]
    assert names == ["hermes", "generic"]


@pytest.mark.parametrize(
    ("template", "thoughts"),
    [
        ("…<think>…", "<think>"),
        ("…[THINK]…", "[THINK]"),
        ("plain", None),
        ("<|start|>assistant<|channel|>analysis", None),
    ],
)
def test_a_template_tells_whether_it_thinks(template: str, thoughts: str | None) -> None:
    marks = Talk.of(template).thoughts
    assert (marks.open if marks else None) == thoughts


def test_where_a_completion_begins() -> None:
    thinks = Talk.of("<think>")
    assert thinks.opening("user: ?\nassistant:\n", "")[0] == "may think"
    assert thinks.opening("assistant:\n<think>\n", "")[0] == "thinking"
    assert thinks.opening("assistant:\n<think>\n\n</think>\n\n", "")[0] == "answer", "it was told not to"
    assert Talk.of("").opening("assistant: <think>", "")[0] == "may think", "it knows nothing of thoughts"


# -- the conversation --------------------------------------------------------------------------------------------------


def call(id_: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}


def result(id_: str, content: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id_, "content": content}


ASKS = {"role": "user", "content": "How warm?"}
HISTORY = (
    ASKS,
    {
        "role": "assistant",
        "content": "I look.",
        "refusal": None,
        "tool_calls": [call("call_a", "get", '{"a": 1}'), call("call_b", "stop", "")],
    },
    result("call_a", "81 degrees"),
    result("call_b", "stopped"),
)
TOOL = {"type": "function", "function": {"name": "get"}}


def asked(template: str, *messages: Any, tools: Any = (TOOL,)) -> Request:
    """As `Dialogue` hands it to the template."""
    request = Request("r", "m", "chat", messages=messages, tools=tools, needs=frozenset({"tools"} if tools else ()))
    return Dialogue(template).asked(request)


def template_of(name: str) -> str:
    return next(template for found, _, template in MARKS if found == name)


def test_templates_get_objects_and_no_empty_fields() -> None:
    request = asked(template_of("hermes"), *HISTORY)
    turn = request.messages[1]
    assert [one["function"]["arguments"] for one in turn["tool_calls"]] == [{"a": 1}, {}]
    assert "refusal" not in turn
    assert [message["name"] for message in request.messages[2:]] == ["get", "stop"]
    (tool,) = request.template_kwargs["tools"]
    assert tool["function"] == {"name": "get", "description": "", "parameters": {"type": "object", "properties": {}}}
    assert HISTORY[1]["tool_calls"][0]["function"]["arguments"] == '{"a": 1}', "the request itself stays as it is"


def test_a_turn_of_an_sdk_is_no_call() -> None:
    said = {"role": "assistant", "content": "Hot.", "tool_calls": None, "function_call": None, "audio": None}
    (_, turn) = asked(template_of("llama3"), ASKS, said, tools=()).messages
    assert turn == {"role": "assistant", "content": "Hot."}


@pytest.mark.parametrize("name", ["llama3", "gpt-oss"])
def test_calls_come_one_by_one_where_the_template_knows_only_that(name: str) -> None:
    messages = asked(template_of(name), *HISTORY).messages
    order = [
        message["tool_calls"][0]["function"]["name"] if "tool_calls" in message else message["content"]
        for message in messages
    ]
    assert order[-4:] == ["get", "81 degrees", "stop", "stopped"]
    assert "I look." in str(messages)


@pytest.mark.parametrize("name", ["llama3", "gpt-oss", "hermes"])
def test_each_turn_may_count_its_calls_anew(name: str) -> None:
    turns = [
        turn
        for nth, tool in enumerate(("get", "stop"))
        for turn in (
            {"role": "assistant", "content": "", "tool_calls": [call("call_0", tool, "{}")]},
            result("call_0", f"result {nth}"),
        )
    ]
    messages = asked(template_of(name), ASKS, *turns).messages
    told = [(message.get("name"), message["content"]) for message in messages if message["role"] == "tool"]
    assert told == [("get", "result 0"), ("stop", "result 1")]


def test_gpt_oss_thinks_or_says_beside_a_call() -> None:
    turn = {**HISTORY[1], "reasoning_content": "Hm."}
    system = [{"role": "system", "content": text} for text in ("Be brief.", "Be kind.")]
    messages = asked(template_of("gpt-oss"), *system, ASKS, turn, *HISTORY[2:]).messages
    assert messages[0] == {"role": "system", "content": "Be brief.\n\nBe kind."}
    assert messages[2]["thinking"] == "Hm.\n\nI look."
    assert messages[2]["content"] == ""


def test_gpt_oss_knows_three_efforts() -> None:
    for said, told in (("none", "low"), ("high", "high"), ("xhigh", "high")):
        request = Request("r", "m", "chat", messages=(ASKS,), template_kwargs={"reasoning_effort": said, "x": 1})
        kwargs = Dialogue(template_of("gpt-oss")).asked(request).template_kwargs
        assert kwargs == {"reasoning_effort": told, "x": 1}


def test_mistral_wants_ids_of_nine_letters() -> None:
    messages = asked(template_of("mistral"), *HISTORY).messages
    ids = [one["id"] for one in messages[1]["tool_calls"]]
    assert all(len(id_) == 9 and id_.isalnum() for id_ in ids)
    assert [message["tool_call_id"] for message in messages[2:]] == ids
    kept = [ASKS, {**HISTORY[1], "tool_calls": [call("abcDEF123", "get", "{}")]}, result("abcDEF123", "7")]
    assert asked(template_of("mistral"), *kept).messages[2]["tool_call_id"] == "abcDEF123"


def test_granite_3_does_not_know_of_its_calls() -> None:
    turn = asked(template_of("granite"), *HISTORY).messages[1]
    assert turn["content"] == 'I look.<|tool_call|>[{"name":"get","arguments":{"a":1}},{"name":"stop","arguments":{}}]'
    assert "tool_calls" not in turn


def test_a_template_without_tools_is_told_of_them_in_words() -> None:
    more = {"role": "user", "content": "In one sentence."}
    request = asked("{{ messages }} system", *HISTORY, more)
    assert request.template_kwargs == {}
    assert [message["role"] for message in request.messages] == ["system", "user", "assistant", "user"]
    assert '"name":"get"' in request.messages[0]["content"]
    assert request.messages[2]["content"].startswith('I look.\n<tool_call>\n{"name":"get","arguments":{"a":1}}')
    assert request.messages[3]["content"] == (
        "<tool_response>\n81 degrees\n</tool_response>\n\n"
        "<tool_response>\nstopped\n</tool_response>\n\nIn one sentence."
    )


def test_a_template_that_refuses_a_system_message_gets_none() -> None:
    refuses = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    (turn,) = asked(refuses, {"role": "system", "content": "Be brief."}, ASKS).messages
    assert turn["role"] == "user"
    assert [turn["content"].index(part) for part in ("# Tools", "Be brief.", "How warm?")] == sorted(
        turn["content"].index(part) for part in ("# Tools", "Be brief.", "How warm?")
    )


@pytest.mark.parametrize("arguments", ["{", "[1]", "7", "null"])
def test_arguments_that_are_none_are_refused_with_their_place(arguments: str) -> None:
    turn = {"role": "assistant", "content": "", "tool_calls": [call("a", "get", "{}"), call("b", "get", arguments)]}
    with pytest.raises(InvalidRequest, match="no JSON object") as caught:
        cleaned([ASKS, turn])
    assert caught.value.param == "messages[1].tool_calls[1].function.arguments"


def test_arguments_that_could_not_be_passed_on_are_refused() -> None:
    deep = '{"a": ' * 300 + "1" + "}" * 300
    turn = {"role": "assistant", "content": "", "tool_calls": [call("a", "get", deep)]}
    with pytest.raises(InvalidRequest, match="nested too deeply") as caught:
        cleaned([ASKS, turn])
    assert caught.value.param == "messages[1].tool_calls[0].function.arguments"
