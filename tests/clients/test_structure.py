"""The official SDK's helpers for structured output and tools, against a real gateway with the real models."""

from __future__ import annotations

import json
from typing import Literal

import pytest
from openai import BadRequestError, OpenAI
from pydantic import BaseModel

from tests.conftest import find_model


class Part(BaseModel):
    id: str
    spare: bool


class Finding(BaseModel):
    machine: str
    severity: Literal["low", "medium", "high"]
    parts: list[Part]


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
ASK = [{"role": "user", "content": "Pump P-7 leaks at its seal: severity high, one spare part S-1. Report it as JSON."}]


@pytest.fixture(scope="module")
def sdk(start_gateway):
    qwen = find_model("qwen2.5-coder-0.5b-instruct", "OUTSTATION_TEST_REMOTE_MODEL")
    config = f'[[models]]\nname = "qwen"\nfile = "{qwen}"\nload = "start"\n[routing]\ndefault = "qwen"\n'
    gateway = start_gateway(config, wait_for="/readyz")
    with OpenAI(base_url=gateway.base_url, api_key="none", max_retries=0) as client:
        yield client


def test_parse_gives_an_object(sdk):
    answer = sdk.chat.completions.parse(
        model="auto", messages=ASK, response_format=Finding, temperature=0, max_tokens=300
    )
    finding = answer.choices[0].message.parsed
    assert isinstance(finding, Finding)
    assert finding.severity in ("low", "medium", "high")


def test_a_stream_helper_gives_the_same_object(sdk):
    with sdk.chat.completions.stream(
        model="auto", messages=ASK, response_format=Finding, temperature=0, max_tokens=300
    ) as stream:
        kinds = [event.type for event in stream]
        whole = stream.get_final_completion()
    assert isinstance(whole.choices[0].message.parsed, Finding)
    assert "content.delta" in kinds
    assert kinds[-1] == "content.done"


def test_json_mode(sdk):
    answer = sdk.chat.completions.create(
        model="auto", messages=ASK, response_format={"type": "json_object"}, temperature=0, max_tokens=300
    )
    assert isinstance(json.loads(answer.choices[0].message.content), dict)


def test_a_grammar_in_the_extra_body(sdk):
    answer = sdk.chat.completions.create(
        model="auto",
        messages=[{"role": "user", "content": "Is the sky blue?"}],
        extra_body={"grammar": 'root ::= "yes" | "no"'},
    )
    assert answer.choices[0].message.content in ("yes", "no")
    answer = sdk.chat.completions.create(
        model="auto",
        messages=[{"role": "user", "content": "A part number?"}],
        extra_body={"grammar": {"syntax": "regex", "definition": "[A-Z]{2}-[0-9]{3}"}},
    )
    assert len(answer.choices[0].message.content) == 6


def test_a_tool_call_streamed_and_whole(sdk):
    asked = {
        "model": "auto",
        "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
        "tools": [WEATHER],
        "parallel_tool_calls": False,
        "tool_choice": "required",
        "temperature": 0,
        "max_tokens": 100,
    }
    whole = sdk.chat.completions.create(**asked).choices[0]
    assert whole.finish_reason == "tool_calls"
    assert whole.message.content is None
    (call,) = whole.message.tool_calls
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Paris"}

    chunks = [chunk.choices[0] for chunk in sdk.chat.completions.create(stream=True, **asked)]
    pieces = [piece for chunk in chunks for piece in chunk.delta.tool_calls or ()]
    assert [piece.index for piece in pieces] == [0] * len(pieces)
    assert [piece.function.name for piece in pieces if piece.id] == ["get_weather"]
    assert json.loads("".join(piece.function.arguments for piece in pieces)) == {"city": "Paris"}
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["tool_calls"]
    assert [chunk.delta.role for chunk in chunks if chunk.delta.role] == ["assistant"]

    with sdk.chat.completions.stream(**asked) as stream:
        kinds = {event.type for event in stream}
    assert {"tool_calls.function.arguments.delta", "tool_calls.function.arguments.done"} <= kinds


def test_calls_that_are_required_come_to_an_end(sdk):
    """A model ends its line behind a call before it ends its turn; it must not be held to another call then."""
    answer = sdk.chat.completions.create(
        model="auto",
        messages=[{"role": "user", "content": "What is the weather in Paris? Use the tool."}],
        tools=[WEATHER],
        tool_choice="required",
        temperature=0,
        max_tokens=200,
    ).choices[0]
    assert answer.finish_reason == "tool_calls"
    (call,) = answer.message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Paris"}


def test_a_result_goes_back_in(sdk):
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    messages = [
        {"role": "user", "content": "What is the weather in Paris?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "Rain, 12 degrees."},
        {"role": "user", "content": "In one sentence: how many degrees?"},
    ]
    answer = sdk.chat.completions.create(
        model="auto", messages=messages, tools=[WEATHER], tool_choice="none", temperature=0, max_tokens=40
    )
    assert "12" in answer.choices[0].message.content


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [WEATHER, WEATHER]}, "tools"),
        ({"messages": [*ASK, {"role": "tool", "tool_call_id": "x", "content": "1"}]}, "messages[1].tool_call_id"),
        (
            {
                "messages": [
                    *ASK,
                    {
                        "role": "assistant",
                        "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
                    },
                    {"role": "user", "content": "And?"},
                ]
            },
            "messages[1].tool_calls",
        ),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}},
            "response_format",
        ),
        ({"extra_body": {"grammar": "root ::= ("}}, "grammar"),
        ({"response_format": {"type": "json_object"}, "extra_body": {"grammar": 'root ::= "a"'}}, "grammar"),
        ({"response_format": {"type": "json_object"}, "extra_body": {"ignore_eos": True}}, "ignore_eos"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_makes_no_sense_is_refused_at_its_place(sdk, fields, param, stream):
    with pytest.raises(BadRequestError) as caught:
        sdk.chat.completions.create(**{"model": "auto", "messages": ASK, "stream": stream, **fields})
    assert caught.value.param == param


def test_raw_completions_are_held_to_it_as_well(sdk):
    answer = sdk.completions.create(
        model="auto",
        prompt=["The sky is", "Grass is"],
        max_tokens=20,
        extra_body={"grammar": 'root ::= " blue" | " green"'},
    )
    assert {choice.text for choice in answer.choices} <= {" blue", " green"}
    assert [choice.finish_reason for choice in answer.choices] == ["stop", "stop"]
