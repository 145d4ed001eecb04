"""`POST /v1/responses` by the official SDK and over bare ASGI, with scripted backends."""

from __future__ import annotations

import openai
import orjson
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from backends.errors import EngineFailed, InvalidRequest, Overloaded
from backends.fake import FakeBackend, say
from backends.types import Chunk, NamedTool, TokenLogprob, ToolDelta, Usage
from gateway.schemas.response_objects import ResponseObject

pytestmark = pytest.mark.anyio
ABLE = frozenset({"logprobs", "tools", "structured_output", "vision", "grammar"})
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
CALL = {"type": "function_call", "call_id": "call_1", "name": "get_weather", "arguments": '{"city":"Paris"}'}
OUTPUT = {"type": "function_call_output", "call_id": "call_1", "output": "Rain."}
PATH = "/v1/responses"


def scripted(*steps, **fields):
    return FakeBackend("m", lambda _: steps, capabilities=ABLE, **fields)


@pytest.fixture
def sdk(connect):
    """An SDK client of an app."""
    return lambda app: openai.AsyncOpenAI(
        base_url="http://localhost:8484/v1", api_key="none", http_client=connect(app), max_retries=0
    )


def events_of(body: bytes) -> list[dict]:
    """The events of a stream, each with its name in front."""
    found = []
    for frame in body.decode().split("\n\n")[:-1]:
        lines = [line for line in frame.split("\n") if not line.startswith(":")]
        if not lines:
            continue
        name, data = lines
        event = orjson.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        found.append(event)
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


async def test_a_plain_response(make_app, sdk):
    backend = FakeBackend("m", say("Hello", " wörld", cached_tokens=2))
    answer = await sdk(make_app(backend)).responses.with_raw_response.create(model="auto", input="Hi", store=False)
    ResponseObject.model_validate_json(answer.content)
    response = answer.parse()
    assert response.output_text == "Hello wörld"
    assert response.status == "completed"
    assert response.model == "m"
    assert response.completed_at >= response.created_at
    assert response.usage.input_tokens_details.cached_tokens == 2
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens == 5
    assert answer.headers["x-outstation-route"] == "local/m"
    assert answer.headers["x-outstation-reason"] == "auto"
    assert answer.headers["x-outstation-attempts"] == "1"
    (item,) = response.output
    assert item.id.startswith("msg_")
    assert item.content[0].annotations == []
    assert item.content[0].logprobs == []


async def test_each_field_has_the_value_that_holds(make_app, exchange):
    asked = exchange(make_app(), {"model": "auto", "input": "Hi", "store": False}, PATH)
    await asked.end()
    response = asked.json
    ResponseObject.model_validate_json(asked.body)
    said = {key: response[key] for key in ("temperature", "top_p", "presence_penalty", "frequency_penalty")}
    assert said == {"temperature": 1.0, "top_p": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
    assert response["tool_choice"] == "auto"
    assert response["truncation"] == "disabled"
    assert response["text"] == {"format": {"type": "text"}, "verbosity": "medium"}
    assert response["parallel_tool_calls"] is True
    assert (response["store"], response["background"]) == (False, False)
    assert (response["metadata"], response["tools"], response["output"][0]["status"]) == ({}, [], "completed")
    assert response["error"] is response["incomplete_details"] is response["previous_response_id"] is None


async def test_what_is_asked_comes_back(make_app, sdk):
    schema = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "string"}}}
    backend = scripted(Chunk(0, "{}"), Chunk(0, finish_reason="stop"), Usage(1, 1))
    response = await sdk(make_app(backend)).responses.create(
        model="auto", input="Hi", instructions="Be brief.", temperature=0.5, top_p=0.9, max_output_tokens=7,
        metadata={"a": "b"}, tools=[WEATHER], tool_choice="auto", parallel_tool_calls=False,
        reasoning={"effort": "low"},
        text={"format": {"type": "json_schema", "name": "x", "schema": schema}, "verbosity": "low"}, user="u",
        truncation="disabled", top_logprobs=3, store=False, max_tool_calls=2,
    )  # fmt: skip
    assert (response.instructions, response.temperature, response.top_p) == ("Be brief.", 0.5, 0.9)
    assert (response.max_output_tokens, response.metadata, response.parallel_tool_calls) == (7, {"a": "b"}, False)
    assert (response.reasoning.effort, response.user, response.top_logprobs) == ("low", "u", 3)
    assert response.text.format.schema_ == schema
    assert list(response.text.format.schema_["properties"]) == ["b", "a"]
    assert response.text.format.strict is True
    assert response.text.verbosity == "low"
    assert response.tools[0].name == "get_weather"
    assert response.tools[0].strict is True


async def test_each_field_that_the_sdk_knows_is_there(make_app, sdk):
    """Events as well, each with what its type needs."""
    steps = [
        Chunk(0, reasoning="Hm."), Chunk(0, "Let me"), Chunk(0, tools=(ToolDelta(0, "call_1", "get_weather", "{}"),)),
        Chunk(0, finish_reason="tool_calls"), Usage(5, 9),
    ]  # fmt: skip
    client = sdk(make_app(scripted(*steps)))
    asked = {"model": "m", "input": "Hi", "tools": [WEATHER]}
    plain = await client.responses.with_raw_response.create(**asked)
    known = {field.alias or name for name, field in Response.model_fields.items()}
    assert known <= set(plain.http_response.json())
    streamed = await client.responses.with_raw_response.create(stream=True, **asked)
    of_type = TypeAdapter(ResponseStreamEvent)
    kinds = {type(of_type.validate_python(event)) for event in events_of(await streamed.http_response.aread())}
    assert len(kinds) == 13


async def test_thoughts_go_back_to_a_local_model(make_app, sdk):
    """To no provider."""
    backend = scripted(Chunk(0, "x"), Chunk(0, finish_reason="stop"), Usage(1, 1))
    thought = {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]}
    said = {"type": "message", "role": "assistant", "content": "Let me see."}
    items = [USER, thought, said, CALL, OUTPUT, thought, thought, {**said, "content": "Rain."}, thought, USER]
    await sdk(make_app(backend)).responses.create(model="m", input=items, tools=[WEATHER])
    (request,) = backend.requests
    thoughts = [(m["role"], m.get("reasoning_content")) for m in request.messages]
    assert thoughts == [
        ("user", None), ("assistant", "Hm."), ("tool", None), ("assistant", "Hm.\nHm."), ("user", None),
    ]  # fmt: skip
    assert "Hm." not in str(request.raw)


async def test_what_a_backend_finds_wrong_with_the_chat_has_its_place_here(make_app, exchange):
    wrong = InvalidRequest("Bad.", param="messages[2].tool_calls[0].function.arguments")
    asked = exchange(
        make_app(scripted(wrong)),
        {"model": "m", "instructions": "Be brief.", "input": [USER, CALL, OUTPUT], "tools": [WEATHER]},
        PATH,
    )
    await asked.end()
    assert (asked.status, asked.json["error"]["param"]) == (400, "input[1]")


async def test_what_the_backend_is_asked(make_app, sdk):
    backend = scripted(Chunk(0, "x"), Chunk(0, finish_reason="stop"), Usage(1, 1))
    image = {"type": "input_image", "image_url": "data:image/png;base64,aaaa", "detail": "low"}
    await sdk(make_app(backend)).responses.create(
        model="m",
        instructions="Be brief.",
        input=[
            {"role": "developer", "content": "Rules."},
            {"role": "user", "content": [{"type": "input_text", "text": "a"}, image]},
            {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed",
             "content": [{"type": "output_text", "text": "I look.", "annotations": []}]},
            {"type": "reasoning", "id": "rs_1", "summary": []},
            CALL,
            {**CALL, "call_id": "call_2", "arguments": '{"city":"Rome"}'},
            {**OUTPUT, "call_id": "call_2", "output": [{"type": "input_text", "text": "Sun."}]},
            OUTPUT,
            {"role": "user", "content": "And?"},
        ],
        tools=[WEATHER], tool_choice={"type": "function", "name": "get_weather"}, parallel_tool_calls=False,
        reasoning={"effort": "none"}, max_output_tokens=9, temperature=0, metadata={"secret": "note"},
        extra_body={"top_k": 3, "seed": 7, "tomorrow": [1], "outstation": {"locality": "prefer_local"}},
    )  # fmt: skip
    (request,) = backend.requests
    called = [
        {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city":"Paris"}'}},
        {"id": "call_2", "type": "function", "function": {"name": "get_weather", "arguments": '{"city":"Rome"}'}},
    ]
    assert [message["role"] for message in request.messages] == [
        "system", "system", "user", "assistant", "tool", "tool", "user",
    ]  # fmt: skip
    assert request.messages[2]["content"][1] == {
        "type": "image_url", "image_url": {"url": image["image_url"], "detail": "low"},
    }  # fmt: skip
    assert request.messages[3]["content"] == "I look."
    assert request.messages[3]["tool_calls"] == called
    assert [(m["tool_call_id"], m["content"]) for m in request.messages[4:6]] == [
        ("call_1", "Rain."),
        ("call_2", "Sun."),
    ]
    assert request.tools[0]["function"]["name"] == "get_weather"
    assert (request.tool_choice, request.parallel_tools) == (NamedTool("get_weather"), False)
    assert (request.sampling.max_tokens, request.sampling.temperature, request.sampling.top_k) == (9, 0, 3)
    assert request.template_kwargs == {"reasoning_effort": "none", "enable_thinking": False}
    assert request.needs == {"tools", "vision"}
    assert request.locality == "prefer_local"
    # What a provider would get.
    assert request.raw["messages"][1]["role"] == "developer"
    assert (request.raw["tomorrow"], request.raw["max_tokens"], request.raw["reasoning_effort"]) == ([1], 9, "none")
    assert {"metadata", "store", "input", "instructions"}.isdisjoint(request.raw)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_cut_answer_is_incomplete(make_app, exchange, stream):
    backend = scripted(Chunk(0, "Hel"), Chunk(0, finish_reason="length"), Usage(1, 1))
    asked = exchange(make_app(backend), {"model": "m", "input": "Hi", "max_output_tokens": 1, "stream": stream}, PATH)
    await asked.end()
    if stream:
        last = events_of(asked.body)[-1]
        assert last["type"] == "response.incomplete"
        response = last["response"]
    else:
        response = asked.json
    assert response["status"] == response["output"][0]["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["completed_at"] is None
    assert response["output"][0]["content"][0]["text"] == "Hel"


async def test_the_events_in_their_order(make_app, exchange):
    backend = scripted(
        Chunk(0, reasoning="Hm."), Chunk(0, "Let", reasoning=" So."), Chunk(0, " me"),
        Chunk(0, tools=(ToolDelta(0, "call_1", "f", ""),)), Chunk(0, tools=(ToolDelta(0, arguments="{}"),)),
        Chunk(0, tools=(ToolDelta(1, "call_2", "g", "{"),)), Chunk(0, tools=(ToolDelta(1, arguments="}"),)),
        Chunk(0, finish_reason="tool_calls"), Usage(5, 9, reasoning_tokens=4),
    )  # fmt: skip
    tools = [{"type": "function", "name": "f"}, {"type": "function", "name": "g"}]
    asked = exchange(make_app(backend), {"model": "m", "input": "Hi", "tools": tools, "stream": True}, PATH)
    await asked.end()
    assert asked.complete
    assert b"[DONE]" not in asked.body
    events = events_of(asked.body)
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created", "in_progress",
        "output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.delta",
        "reasoning_text.done", "content_part.done", "output_item.done",
        "output_item.added", "content_part.added", "output_text.delta", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done",
        "output_item.added", "function_call_arguments.delta",
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.delta",
        "function_call_arguments.done", "output_item.done",
        "function_call_arguments.done", "output_item.done",
        "completed",
    ]  # fmt: skip
    response = events[-1]["response"]
    assert {event["response"]["id"] for event in events if "response" in event} == {response["id"]}
    assert [item["type"] for item in response["output"]] == ["reasoning", "message", "function_call", "function_call"]
    assert [item["arguments"] for item in response["output"][2:]] == ["{}", "{}"]
    assert response["output"][0]["content"] == [{"type": "reasoning_text", "text": "Hm. So."}]
    assert response["usage"]["output_tokens_details"] == {"reasoning_tokens": 4}
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == response["output"]
    added = [event["item"] for event in events if event["type"] == "response.output_item.added"]
    assert [(item["id"], item["status"]) for item in added] == [(i["id"], "in_progress") for i in response["output"]]
    assert events[0]["response"]["status"] == events[1]["response"]["status"] == "in_progress"
    ResponseObject.model_validate(response)


async def test_the_sdks_accumulator_gives_what_the_plain_call_gives(make_app, sdk):
    backend = scripted(
        Chunk(0, reasoning="Hm."), Chunk(0, "Let me"),
        Chunk(0, tools=(ToolDelta(0, "call_1", "get_weather", '{"city"'),)),
        Chunk(0, tools=(ToolDelta(0, arguments=':"Paris"}'),)), Chunk(0, finish_reason="tool_calls"), Usage(5, 9),
    )  # fmt: skip
    client = sdk(make_app(backend))
    asked = {"model": "m", "input": "Hi", "tools": [WEATHER], "store": False}
    async with client.responses.stream(**asked) as stream:
        final = await stream.get_final_response()
    plain = await client.responses.create(**asked)

    def bare(response):
        changing = {"id", "created_at", "completed_at"}
        said = {key: value for key, value in response.to_dict().items() if key not in changing}
        drop = {"id", "parsed_arguments", "parsed"}
        said["output"] = [{key: value for key, value in item.items() if key not in drop} for item in said["output"]]
        for item in said["output"]:
            for part in item.get("content") or ():
                part.pop("parsed", None)
        return said

    assert bare(final) == bare(plain)
    assert final.output_text == "Let me"


async def test_logprobs(make_app, sdk):
    entry = TokenLogprob("a", -0.5, (97,), (TokenLogprob("a", -0.5, (97,)), TokenLogprob("b", -1.5, (98,))))
    backend = scripted(Chunk(0, "a", (1,), (entry,)), Chunk(0, finish_reason="stop"), Usage(1, 1))
    client = sdk(make_app(backend))
    asked = {"model": "m", "input": "Hi", "top_logprobs": 2, "include": ["message.output_text.logprobs"]}
    response = await client.responses.create(**asked)
    (token,) = response.output[0].content[0].logprobs
    assert (token.token, token.logprob, token.bytes) == ("a", -0.5, [97])
    assert [top.token for top in token.top_logprobs] == ["a", "b"]
    assert backend.requests[0].sampling.top_logprobs == 2
    events = [event async for event in await client.responses.create(stream=True, **asked)]
    (delta,) = [event for event in events if event.type == "response.output_text.delta"]
    assert delta.logprobs[0].token == "a"


async def test_an_answer_of_nothing_is_a_message(make_app, sdk):
    backend = scripted(Chunk(0, finish_reason="stop"), Usage(1, 0))
    response = await sdk(make_app(backend)).responses.create(model="m", input="Hi")
    assert response.output_text == ""
    assert response.output[0].content[0].text == ""


async def test_a_stream_that_fails_says_so(make_app, exchange, sdk):
    backend = scripted(Chunk(0, "Hel"), EngineFailed("It broke.", retry_after=1))
    app = make_app(backend)
    asked = exchange(app, {"model": "m", "input": "Hi", "stream": True}, PATH)
    await asked.end()
    assert asked.status == 200
    *_, error, last = events_of(asked.body)
    assert (error["type"], error["code"], error["message"]) == ("error", "engine_failed", "It broke.")
    assert last["type"] == "response.failed"
    assert last["response"]["status"] == "failed"
    assert last["response"]["error"] == {"code": "engine_failed", "message": "It broke."}
    assert last["response"]["output"][0]["status"] == "incomplete"
    ResponseObject.model_validate(last["response"])
    async with sdk(app).responses.stream(model="m", input="Hi") as stream:
        with pytest.raises(RuntimeError, match=r"response\.completed"):
            await stream.get_final_response()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_before_the_first_piece_is_a_plain_error(make_app, exchange, stream):
    backend = scripted(Overloaded("Full.", retry_after=2))
    asked = exchange(make_app(backend), {"model": "m", "input": "Hi", "stream": stream}, PATH)
    await asked.end()
    assert asked.status == 429
    assert asked.json["error"]["code"] == "queue_full"
    assert asked.headers["retry-after"] == "2"


async def test_a_hang_up_cancels(make_app, exchange):
    backend = scripted(Chunk(0, "Hel"), 60.0)
    asked = exchange(make_app(backend), {"model": "m", "input": "Hi", "stream": True}, PATH)
    await asked.until_contains(b"Hel")
    asked.hang_up.tell()
    await asked.end()
    assert backend.ended == ["cancelled"]


USER = {"role": "user", "content": "Hi"}
WRONG = [
    ({}, "input"),
    ({"input": 5}, "input"),
    ({"input": [USER, {"role": "robot", "content": "Hi"}]}, "input[1].role"),
    ({"input": [USER, {"role": "user"}]}, "input[1].content"),
    ({"input": [USER, {"role": "user", "content": [{"type": "input_text"}]}]}, "input[1].content[0].text"),
    ({"input": [USER, "Hi"]}, "input[1]"),
    ({"input": [USER, {"type": "function_call", "name": "f", "arguments": "{}"}]}, "input[1].call_id"),
    ({"input": [USER, OUTPUT]}, "input[1].call_id"),
    ({"input": [USER, CALL]}, "input[1]"),
    ({"input": [USER, OUTPUT, CALL]}, "input[1].call_id"),
    ({"input": [USER, CALL, OUTPUT, OUTPUT]}, "input[3].call_id"),
    ({"input": [USER, CALL, CALL, OUTPUT]}, "input[2].call_id"),
    ({"input": []}, "input"),
    ({"input": "Hi", "tool_choice": "required"}, "tool_choice"),
    ({"input": "Hi", "tools": [WEATHER], "tool_choice": {"type": "function", "name": "g"}}, "tool_choice"),
    ({"input": "Hi", "tools": [WEATHER, WEATHER]}, "tools"),
    ({"input": "Hi", "tools": [{"type": "function", "name": "a b"}]}, "tools[0].name"),
    ({"input": "Hi", "text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
    ({"input": "Hi", "text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name"),
    ({"input": "Hi", "response_format": {"type": "json_object"}}, "response_format"),
    ({"input": "Hi", "max_tokens": 5}, "max_tokens"),
    ({"input": "Hi", "max_output_tokens": 0}, "max_output_tokens"),
    ({"input": "Hi", "n": 2}, "n"),
    ({"input": "Hi", "metadata": {"a": 1}}, "metadata.a"),
    ({"input": "Hi", "background": True, "store": False}, "store"),
    ({"input": "Hi", "background": True, "stream": True}, "stream"),
    ({"input": "Hi", "conversation": "conv_1", "previous_response_id": "resp_1"}, "previous_response_id"),
    ({"input": "Hi", "grammar": 'root ::= "a"', "text": {"format": {"type": "json_object"}}}, "grammar"),
    ({"input": "Hi", "stream_options": {"include_obfuscation": False}}, "stream_options"),
    ({"input": "Hi", "include": ["everything"]}, "include[0]"),
    ({"input": "Hi", "metadata": {"a": "x" * 513}}, "metadata.a"),
    ({"input": "Hi", "metadata": {"x" * 65: "a"}}, f"metadata.{'x' * 65}"),
    ({"input": "Hi", "metadata": {str(n): "a" for n in range(17)}}, "metadata"),
    ({"input": "Hi", "max_tool_calls": 0}, "max_tool_calls"),
    ({"input": "Hi", "conversation": {}}, "conversation.id"),
    ({"input": "Hi", "conversation": 5}, "conversation"),
    ({"input": [USER, {"type": "reasoning", "content": "Hm."}]}, "input[1].content"),
]
UNSUPPORTED = [
    ({"input": "Hi", "tools": [WEATHER, {"type": "web_search"}]}, "tools[1].type", "web_search"),
    ({"input": [USER, {"type": "mcp_call", "id": "x"}]}, "input[1].type", "mcp_call"),
    ({"input": "Hi", "truncation": "auto"}, "truncation", "cut off"),
    ({"input": "Hi", "prompt": {"id": "x"}}, "prompt", "prompt"),
    ({"input": "Hi", "tools": [WEATHER], "tool_choice": {"type": "mcp"}}, "tool_choice.type", "mcp"),
    (
        {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "file_1"}]}]},
        "input[0].content[0].file_id",
        "file_id",
    ),
]


@pytest.mark.parametrize(("fields", "param"), WRONG, ids=[f"{n}-{param}" for n, (_, param) in enumerate(WRONG)])
async def test_what_makes_no_sense_is_refused_at_its_place(make_app, exchange, fields, param):
    backend = scripted(Chunk(0, "x"), Chunk(0, finish_reason="stop"), Usage(1, 1))
    asked = exchange(make_app(backend), {"model": "m", **fields}, PATH)
    await asked.end()
    assert (asked.status, asked.json["error"]["param"]) == (400, param), asked.body
    assert asked.json["error"]["code"] == "invalid_request"
    assert asked.headers["x-outstation-route"] == "none"
    assert backend.requests == []


@pytest.mark.parametrize(("fields", "param", "named"), UNSUPPORTED, ids=[param for _, param, _ in UNSUPPORTED])
async def test_what_there_is_not_is_refused_by_its_name(make_app, exchange, fields, param, named):
    asked = exchange(make_app(), {"model": "m", **fields}, PATH)
    await asked.end()
    assert (asked.status, asked.json["error"]["param"], asked.json["error"]["code"]) == (400, param, "unsupported")
    assert named in asked.json["error"]["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": "Hi", "tools": [WEATHER]}, "tools"),
        ({"input": "Hi", "text": {"format": {"type": "json_object"}}}, "text.format"),
        (
            {"input": [USER, {"role": "user", "content": [{"type": "input_image", "image_url": "data:,x"}]}]},
            "input[1]",
        ),
    ],
)
async def test_what_the_model_lacks_is_named_in_this_apis_words(make_app, exchange, fields, param):
    asked = exchange(make_app(FakeBackend("m")), {"model": "m", **fields}, PATH)
    await asked.end()
    error = asked.json["error"]
    assert (asked.status, error["code"], error["param"]) == (400, "unsupported_capability", param)


async def test_allowed_tools_are_the_only_ones(make_app, sdk):
    backend = scripted(Chunk(0, "x"), Chunk(0, finish_reason="stop"), Usage(1, 1))
    response = await sdk(make_app(backend)).responses.create(
        model="m",
        input="Hi",
        tools=[WEATHER, {**WEATHER, "name": "other"}],
        tool_choice={"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "other"}]},
    )
    (request,) = backend.requests
    assert [tool["function"]["name"] for tool in request.tools] == ["other"]
    assert request.tool_choice == "required"
    assert len(response.tools) == 2
