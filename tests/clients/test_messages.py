"""The official `anthropic` SDK against a real gateway with the real models."""

from __future__ import annotations

import anthropic
import pytest
from pydantic import BaseModel

from tests.conftest import find_model

WEATHER = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
PARIS = [{"role": "user", "content": "What is the weather in Paris?"}]
TOOLS = {"tools": [WEATHER], "tool_choice": {"type": "any", "disable_parallel_tool_use": True}}
COUNT = [{"role": "user", "content": "Count from one to ten: one, two, three,"}]


class Part(BaseModel):
    id: str
    spare: bool


@pytest.fixture(scope="module")
def sdk(start_gateway):
    qwen = find_model("qwen2.5-coder-0.5b-instruct", "OUTSTATION_TEST_REMOTE_MODEL")
    config = f'[[models]]\nname = "qwen"\nfile = "{qwen}"\nload = "start"\n[routing]\ndefault = "qwen"\n'
    config += '[[keys]]\nname = "van"\nenv = "VAN"\n'
    gateway = start_gateway(config, env={"VAN": "van-secret"}, wait_for=None)
    gateway.wait("/readyz")
    with anthropic.Anthropic(base_url=gateway.url, api_key="van-secret", max_retries=0) as client:
        yield client


GREEDY = {"model": "auto", "max_tokens": 100, "extra_body": {"temperature": 0}}


def ask(sdk, messages=PARIS, **fields):
    return sdk.messages.create(**{**GREEDY, **fields, "messages": messages})


def test_a_message(sdk):
    message = ask(sdk, COUNT, system="Answer in English.", max_tokens=30)
    assert (message.type, message.role, message.model) == ("message", "assistant", "qwen")
    (block,) = message.content
    assert block.type == "text"
    assert block.text
    assert message.stop_reason in ("end_turn", "max_tokens")
    assert message.usage.input_tokens + message.usage.cache_read_input_tokens > 10
    assert 0 < message.usage.output_tokens <= 30
    assert message._request_id.startswith("req_")


def test_a_streamed_message_is_the_same(sdk):
    whole = ask(sdk, COUNT, max_tokens=30)
    with sdk.messages.stream(**{**GREEDY, "max_tokens": 30}, messages=COUNT) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    assert final.content[0].text == whole.content[0].text
    assert (final.stop_reason, final.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)
    read = final.usage.input_tokens + final.usage.cache_read_input_tokens
    assert read == whole.usage.input_tokens + whole.usage.cache_read_input_tokens
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"
    assert "text" in kinds


def test_max_tokens_and_stop_sequences(sdk):
    cut = ask(sdk, COUNT, max_tokens=2)
    assert (cut.stop_reason, cut.usage.output_tokens) == ("max_tokens", 2)
    words = ask(sdk, COUNT, max_tokens=60).content[0].text
    stop = words.split()[3]
    stopped = ask(sdk, COUNT, max_tokens=60, stop_sequences=["never said", stop])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", stop)
    assert stop not in stopped.content[0].text
    with sdk.messages.stream(**GREEDY, messages=COUNT, stop_sequences=[stop]) as stream:
        final = stream.get_final_message()
    assert (final.stop_reason, final.stop_sequence) == ("stop_sequence", stop)


def test_a_tool_call_whole_and_streamed(sdk):
    whole = ask(sdk, **TOOLS)
    assert whole.stop_reason == "tool_use"
    (call,) = whole.content
    assert (call.type, call.name, call.input) == ("tool_use", "get_weather", {"city": "Paris"})

    with sdk.messages.stream(**GREEDY, messages=PARIS, **TOOLS) as stream:
        events = list(stream)
        final = stream.get_final_message()
    assert final.stop_reason == "tool_use"
    assert [(block.name, block.input) for block in final.content] == [("get_weather", {"city": "Paris"})]
    pieces = [event.partial_json for event in events if event.type == "input_json"]
    assert len(pieces) > 1
    assert "".join(pieces).replace(" ", "") == '{"city":"Paris"}'


def test_a_result_goes_back_in(sdk):
    called = ask(sdk, **TOOLS)
    result = {"type": "tool_result", "tool_use_id": called.content[0].id, "content": "Rain, 12 degrees."}
    messages = [
        *PARIS,
        called.to_param(),
        {"role": "user", "content": [result, {"type": "text", "text": "In one sentence: how many degrees?"}]},
    ]
    answer = ask(sdk, messages, tools=[WEATHER], tool_choice={"type": "none"})
    assert "12" in answer.content[0].text
    assert answer.stop_reason == "end_turn"


def test_the_tool_runner_goes_round(sdk):
    asked = []

    @anthropic.beta_tool
    def get_weather(city: str) -> str:
        """The weather of a city.

        Args:
            city: its name.
        """
        asked.append(city)
        return "Rain, 12 degrees."

    runner = sdk.beta.messages.tool_runner(**GREEDY, messages=PARIS, tools=[get_weather], max_iterations=2)
    rounds = list(runner)
    assert len(rounds) == 2
    assert asked[0] == "Paris"


def test_parse_gives_an_object(sdk):
    messages = [{"role": "user", "content": "Part S-1 is a spare part. Report it as JSON."}]
    message = sdk.messages.parse(**GREEDY, messages=messages, output_format=Part)
    assert isinstance(message.parsed_output, Part)


def test_an_answer_goes_on_from_its_beginning(sdk):
    messages = [{"role": "user", "content": "Write the numbers from 1 to 9, separated by spaces."}]
    message = ask(sdk, [*messages, {"role": "assistant", "content": "1 2 3 4"}], max_tokens=20)
    assert message.content[0].text.startswith(" 5 6")


def test_count_tokens_is_what_a_message_uses(sdk):
    counted = sdk.messages.count_tokens(model="auto", messages=PARIS, tools=[WEATHER], system="Be brief.")
    used = ask(sdk, tools=[WEATHER], system="Be brief.", max_tokens=1).usage
    assert counted.input_tokens == used.input_tokens + used.cache_read_input_tokens
    fewer = sdk.messages.count_tokens(model="auto", messages=PARIS)
    assert fewer.input_tokens < counted.input_tokens


def test_who_answered_is_in_the_headers(sdk):
    raw = sdk.messages.with_raw_response.create(model="auto", max_tokens=1, messages=PARIS)
    assert raw.headers["x-outstation-route"] == "local/qwen"
    counted = sdk.messages.with_raw_response.count_tokens(model="auto", messages=PARIS)
    assert counted.headers["x-outstation-route"] == "local/qwen"


PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"model": "nobody"}, anthropic.NotFoundError),
        ({"messages": [{"role": "user", "content": [PICTURE]}]}, anthropic.BadRequestError),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "other"}}, anthropic.BadRequestError),
        ({"tools": [{**WEATHER, "input_schema": {"type": "objct"}}]}, anthropic.BadRequestError),
        ({"messages": [{"role": "user", "content": "word " * 20_000}]}, anthropic.BadRequestError),
    ],
    ids=["model", "picture", "tool", "schema", "length"],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_are_the_sdks_own(sdk, fields, wanted, stream):
    with pytest.raises(wanted) as caught:
        sdk.messages.create(**{"model": "auto", "max_tokens": 10, "messages": PARIS, "stream": stream, **fields})
    assert caught.value.body["type"] == "error"
    assert caught.value.body["error"]["message"]
    assert caught.value.request_id.startswith("req_")


@pytest.mark.parametrize("credentials", [{"api_key": "wrong"}, {"auth_token": "wrong"}])
def test_a_wrong_key(sdk, credentials):
    with (
        anthropic.Anthropic(base_url=str(sdk.base_url), max_retries=0, **credentials) as stranger,
        pytest.raises(anthropic.AuthenticationError),
    ):
        ask(stranger)


def test_a_key_as_a_bearer(sdk):
    with anthropic.Anthropic(base_url=str(sdk.base_url), max_retries=0, auth_token="van-secret") as client:
        assert client.messages.count_tokens(model="auto", messages=PARIS).input_tokens > 5
