"""A response by a provider, which is asked in the words of a chat: what leaves, and how its answer is read."""

from __future__ import annotations

import pytest

from backends.fake import FakeBackend
from backends.remote.choices import Choices
from backends.types import Chunk, Usage
from gateway.schemas.response_objects import ResponseObject
from tests.gateway.conftest import living
from tests.gateway.test_responses import PATH, WEATHER, events_of
from tests.gateway.test_routing import Remote

pytestmark = pytest.mark.anyio
USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 9,
    "total_tokens": 16,
    "completion_tokens_details": {"reasoning_tokens": 4},
}
REDACT = """
[[providers]]
name = "acme"
base_url = "https://acme.example/v1"
data = { email = "redact" }
[[providers.models]]
name = "large"
context_length = 1000
input_price = 1
output_price = 2
"""


def streamed(*deltas, finish="stop"):
    """What a provider's stream says."""
    reader = Choices("chat", "acme")
    events = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    return [chunk for event in events for chunk in reader.deltas(event)]


def whole(message, finish="stop"):
    """What a provider's body says."""
    return Choices("chat", "acme").whole({"choices": [{"message": message, "finish_reason": finish}]})


def acme(*steps):
    usage = Usage(7, 9, wire={"usage": USAGE, "system_fingerprint": "fp"})
    return Remote(script=lambda _: [*steps, usage], capabilities=frozenset({"tools", "structured_output"}))


async def ask(make_app, exchange, remote, config="", local=None, **fields):
    app = make_app(*([local] if local else []), config=config, remote=[remote.pair])
    async with living(app):
        asked = exchange(app, {"model": "acme/large", "input": "Hi", **fields}, PATH)
        await asked.end()
    return asked


CALL = {"index": 0, "id": "call_7", "type": "function", "function": {"name": "get_weather", "arguments": ""}}
MORE = {"index": 0, "function": {"arguments": '{"city":"Paris"}'}}
DELTAS = [{"reasoning_content": "Hm."}, {"content": "Let me"}, {"content": " see."}, {"tool_calls": [CALL]}]
MESSAGE = {
    "role": "assistant",
    "content": "Let me see.",
    "reasoning_content": "Hm.",
    "tool_calls": [{**CALL, "function": {"name": "get_weather", "arguments": '{"city":"Paris"}'}}],
}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_providers_answer_is_told_apart(make_app, exchange, stream):
    steps = streamed(*DELTAS, {"tool_calls": [MORE]}, finish="tool_calls") if stream else whole(MESSAGE, "tool_calls")
    asked = await ask(make_app, exchange, acme(*steps), tools=[WEATHER], stream=stream)
    response = events_of(asked.body)[-1]["response"] if stream else asked.json
    ResponseObject.model_validate(response)
    assert asked.headers["x-outstation-route"] == "acme/large"
    assert response["model"] == "acme/large"
    thought, message, call = response["output"]
    assert thought["content"] == [{"type": "reasoning_text", "text": "Hm."}]
    assert message["content"][0]["text"] == "Let me see."
    assert (call["call_id"], call["name"], call["arguments"]) == ("call_7", "get_weather", '{"city":"Paris"}')
    assert response["usage"]["output_tokens_details"] == {"reasoning_tokens": 4}
    assert response["usage"]["input_tokens"] == 7
    assert response["tools"][0]["strict"] is False  # nobody here can promise it


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_is_a_part_of_its_own(make_app, exchange, stream):
    steps = streamed({"refusal": "I"}, {"refusal": " won't."}) if stream else whole({"refusal": "I won't."})
    asked = await ask(make_app, exchange, acme(*steps), stream=stream)
    response = events_of(asked.body)[-1]["response"] if stream else asked.json
    assert response["output"][0]["content"] == [{"type": "refusal", "refusal": "I won't."}]
    ResponseObject.model_validate(response)


async def test_a_filtered_answer_is_incomplete(make_app, exchange):
    asked = await ask(make_app, exchange, acme(*whole({"content": "I"}, "content_filter")))
    assert asked.json["incomplete_details"] == {"reason": "content_filter"}


async def test_a_call_without_an_id_gets_one(make_app, exchange):
    call = {"index": 0, "function": {"name": "get_weather", "arguments": "{}"}}
    asked = await ask(
        make_app, exchange, acme(*streamed({"tool_calls": [call]}, finish="tool_calls")), stream=True, tools=[WEATHER]
    )
    (item,) = events_of(asked.body)[-1]["response"]["output"]
    assert item["call_id"].startswith("call_")
    assert item["arguments"] == "{}"


@pytest.mark.parametrize("stream", [False, True])
async def test_what_the_provider_must_not_see_is_replaced_and_put_back(make_app, exchange, stream):
    steps = streamed({"content": "Wrote to [EMA"}, {"content": "IL_1]."}) if stream else whole(
        {"content": "Wrote to [EMAIL_1]."}
    )  # fmt: skip
    remote = acme(*steps)
    asked = await ask(
        make_app, exchange, remote, REDACT, stream=stream,
        instructions="Boss: boss@example.org", input=[{"role": "user", "content": "Write to jo@example.org"}],
    )  # fmt: skip
    (request,) = remote.backend.requests
    assert "example.org" not in str(request)
    assert request.messages == ()
    assert [m["content"] for m in request.raw["messages"]] == ["Boss: [EMAIL_1]", "Write to [EMAIL_2]"]
    response = events_of(asked.body)[-1]["response"] if stream else asked.json
    assert response["output"][0]["content"][0]["text"] == "Wrote to boss@example.org."


async def test_what_stays_here_stays_here(make_app, exchange):
    remote = acme(*whole({"content": "x"}))
    asked = await ask(make_app, exchange, remote, outstation={"locality": "only_local"}, local=FakeBackend("m"))
    assert asked.status == 400
    assert remote.backend.requests == []


async def test_a_local_model_goes_on_where_the_provider_broke_off(make_app, exchange):
    from backends.errors import EngineFailed

    remote = acme(Chunk(0, "Hel"), EngineFailed("Broke.", code="provider_broke"))
    local = FakeBackend("m", lambda _: [Chunk(0, "lo"), Chunk(0, finish_reason="stop"), Usage(4, 1)])
    asked = await ask(
        make_app, exchange, remote, local=local, model="auto", stream=True,
        outstation={"locality": "prefer_remote", "continue_on_break": True},
    )  # fmt: skip
    assert b": outstation: acme/large broke off" in asked.body
    response = events_of(asked.body)[-1]["response"]
    assert response["output"][0]["content"][0]["text"] == "Hello"
