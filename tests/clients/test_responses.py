"""The official SDK's Responses API against a real gateway with the real models."""

from __future__ import annotations

import json
import signal
import time
from typing import Literal

import pytest
from openai import BadRequestError, NotFoundError, OpenAI, pydantic_function_tool
from pydantic import BaseModel

from tests.conftest import find_model


class Finding(BaseModel):
    machine: str
    severity: Literal["low", "medium", "high"]


class Weather(BaseModel):
    """The weather of a city."""

    city: str


WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": True,
}
REPORT = "Pump P-7 leaks at its seal: severity high. Report it as JSON."


def config() -> str:
    qwen = find_model("qwen2.5-coder-0.5b-instruct", "OUTSTATION_TEST_REMOTE_MODEL")
    return f'[[models]]\nname = "qwen"\nfile = "{qwen}"\nload = "start"\n[routing]\ndefault = "qwen"\n'


@pytest.fixture(scope="module")
def sdk(start_gateway):
    gateway = start_gateway(config(), wait_for="/readyz")
    with OpenAI(base_url=gateway.base_url, api_key="none", max_retries=0) as client:
        yield client


def test_a_text_plain_and_streamed(sdk):
    asked = {"model": "auto", "input": "Say hello.", "temperature": 0, "max_output_tokens": 16}
    plain = sdk.responses.create(**asked)
    events = list(sdk.responses.create(stream=True, **asked))
    assert plain.output_text
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == events[-1].response.output_text == plain.output_text
    assert len(deltas) > 1
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].response.usage.output_tokens == plain.usage.output_tokens > 0


def test_a_cut_answer(sdk):
    response = sdk.responses.create(model="auto", input="Count to a hundred.", max_output_tokens=5)
    assert response.status == "incomplete"
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.usage.output_tokens == 5


def test_parse_and_the_stream_helper_give_the_same_object(sdk):
    asked = {"model": "auto", "input": REPORT, "text_format": Finding, "temperature": 0}
    finding = sdk.responses.parse(**asked).output_parsed
    assert isinstance(finding, Finding)
    with sdk.responses.stream(**asked) as stream:
        kinds = [event.type for event in stream]
        whole = stream.get_final_response()
    assert whole.output_parsed == finding
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"


def test_a_functions_call_and_what_it_gave(sdk):
    asked = {"model": "auto", "input": "What is the weather in Paris?", "tools": [WEATHER], "temperature": 0}
    first = sdk.responses.create(tool_choice="required", parallel_tool_calls=False, **asked)
    (call,) = [item for item in first.output if item.type == "function_call"]
    assert json.loads(call.arguments) == {"city": "Paris"}

    events = list(sdk.responses.create(tool_choice="required", parallel_tool_calls=False, stream=True, **asked))
    pieces = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert json.loads("".join(pieces)) == {"city": "Paris"}

    output = {"type": "function_call_output", "call_id": call.call_id, "output": "Rain, 12 degrees."}
    second = sdk.responses.create(
        model="auto", input=[output], previous_response_id=first.id, tools=[WEATHER], tool_choice="none", temperature=0
    )
    assert "12" in second.output_text
    # The same without what is kept: the client sends all of it.
    history = [{"role": "user", "content": asked["input"]}, *(item.to_dict() for item in first.output), output]
    third = sdk.responses.create(
        model="auto", input=history, tools=[WEATHER], tool_choice="none", temperature=0, store=False
    )
    assert third.output_text == second.output_text


def test_arguments_are_parsed(sdk):
    tool = pydantic_function_tool(Weather, name="get_weather")["function"]
    response = sdk.responses.parse(
        model="auto",
        input="What is the weather in Rome?",
        tools=[{"type": "function", **tool}],
        tool_choice={"type": "function", "name": "get_weather"},
        temperature=0,
    )
    (call,) = response.output
    assert call.parsed_arguments["city"] == "Rome"


def test_the_conversation_goes_on(sdk):
    first = sdk.responses.create(model="auto", input="My name is Ada. Remember it.", temperature=0)
    second = sdk.responses.create(
        model="auto", input="What is my name?", previous_response_id=first.id, temperature=0, max_output_tokens=30
    )
    assert "Ada" in second.output_text
    assert second.usage.input_tokens > first.usage.input_tokens
    items = list(sdk.responses.input_items.list(second.id))
    assert items[0].content[0].text == "What is my name?"
    sdk.responses.delete(first.id)
    with pytest.raises(NotFoundError):
        sdk.responses.create(model="auto", input="And now?", previous_response_id=second.id)


def test_a_conversation_of_its_own(sdk):
    conversation = sdk.conversations.create(
        items=[
            {"role": "user", "content": "My name is Ada. Remember it."},
            {"role": "assistant", "content": "I will."},
        ],
        metadata={"site": "pump 7"},
    )
    asked = {"model": "auto", "conversation": conversation.id, "temperature": 0, "max_output_tokens": 30}
    first = sdk.responses.create(input="What is my name?", **asked)
    assert "Ada" in first.output_text
    with sdk.responses.stream(input="Say it once more.", **asked) as stream:
        second = stream.get_final_response()
    assert second.conversation.id == conversation.id
    items = list(sdk.conversations.items.list(conversation.id, order="asc"))
    assert [item.role for item in items] == ["user", "assistant"] * 3
    assert [item.id for item in items[3::2]] == [first.output[0].id, second.output[0].id]
    sdk.conversations.items.delete(items[0].id, conversation_id=conversation.id)
    assert len(list(sdk.conversations.items.list(conversation.id))) == 5
    sdk.conversations.delete(conversation.id)
    with pytest.raises(NotFoundError):
        sdk.responses.create(input="And now?", **asked)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"text": {"format": {"type": "json_schema", "name": "x", "schema": {"not": {}}}}}, "text.format"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "name": "other"}}, "tool_choice"),
        ({"extra_body": {"grammar": "root ::= ("}}, "grammar"),
        ({"input": "word " * 20_000}, "input"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_makes_no_sense_is_refused_at_its_place(sdk, fields, param, stream):
    with pytest.raises(BadRequestError) as caught:
        sdk.responses.create(**{"model": "auto", "input": "Hi", "stream": stream, **fields})
    assert caught.value.param == param


def test_a_grammar_in_the_extra_body(sdk):
    response = sdk.responses.create(
        model="auto", input="Is the sky blue?", extra_body={"grammar": 'root ::= "yes" | "no"'}
    )
    assert response.output_text in ("yes", "no")


def test_the_background_survives_a_kill(start_gateway, tmp_path):
    """What was acknowledged is made, by the next process if need be."""
    home = {"OUTSTATION_HOME": str(tmp_path)}
    first = start_gateway(config(), env=home, wait_for="/readyz")
    with OpenAI(base_url=first.base_url, api_key="none", max_retries=0) as client:
        made = [
            client.responses.create(model="auto", input="Count to 300.", background=True, max_output_tokens=200)
            for _ in range(3)
        ]
        assert {response.status for response in made} == {"queued"}
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
    second = start_gateway(config(), env=home, wait_for="/readyz")
    with OpenAI(base_url=second.base_url, api_key="none", max_retries=0) as client:
        for response in made:
            end = time.monotonic() + 60
            while (now := client.responses.retrieve(response.id)).status in ("queued", "in_progress"):
                assert time.monotonic() < end
                time.sleep(0.1)
            assert now.status in ("completed", "incomplete")
            assert now.output_text
