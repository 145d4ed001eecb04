"""Anthropic's dialect: what comes in, what a provider is sent, what goes out."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import orjson
import pytest
from hypothesis import given
from starlette.requests import Request as HTTPRequest

from backends.errors import DeadlineExceeded, EngineFailed, InvalidRequest, Overloaded
from backends.fake import FakeBackend, say
from backends.types import Chunk, Grammar, NamedTool, ToolDelta, Usage
from gateway.messages_frames import MessageFrames, MessageHead
from gateway.outcome import Outcome
from gateway.routes.messages import messages_endpoint
from gateway.schemas.message_objects import MessageObject, MessagesError, TokenCount
from gateway.sse import Folded, fold
from tests.gateway.test_routing import Remote

pytestmark = pytest.mark.anyio

PATH = "/v1/messages"
HELLO = {"model": "auto", "max_tokens": 50, "messages": [{"role": "user", "content": "Hello"}]}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "get_weather", "description": "The weather.", "input_schema": SCHEMA}
FUNCTION = {
    "type": "function",
    "function": {"name": "get_weather", "description": "The weather.", "parameters": SCHEMA},
}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Paris"}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "Rain."}
PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0K"}}
STEPPED_IN = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [RESULT]}]
ABLE = frozenset({"tools", "structured_output", "vision", "continuation", "logprobs"})


def asked(*turns: Any, **fields: Any) -> dict[str, Any]:
    """A body with these turns, the user's first."""
    roles = ("user", "assistant")
    return {**HELLO, "messages": [{"role": roles[i % 2], "content": t} for i, t in enumerate(turns)], **fields}


async def heard(make_app, exchange, body, backend=None):
    """What the model is asked when this body comes, and what came back."""
    backend = backend or FakeBackend(capabilities=ABLE)
    got = exchange(make_app(backend), body, PATH)
    await got.end()
    assert got.status == 200, got.body
    (request,) = backend.requests
    return request, got


def events(body: bytes) -> list[dict[str, Any]]:
    """The events of a stream, each under its own name."""
    found = []
    for frame in body.decode().strip().split("\n\n"):
        name, data = frame.split("\n")
        event = orjson.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        found.append(event)
    return found


# -- what comes in ---------------------------------------------------------------------------------------------------


async def test_a_conversation_becomes_a_request(make_app, exchange):
    body = asked(
        [{"type": "text", "text": "Weather", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "now?"}],
        [{"type": "thinking", "thinking": "Hm.", "signature": "x"}, {"type": "text", "text": "I look."}, CALL],
        [RESULT, {"type": "text", "text": "And?"}],
        system=[{"type": "text", "text": "Be brief."}],
        tools=[WEATHER],
        tool_choice={"type": "auto", "disable_parallel_tool_use": True},
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        stop_sequences=["END"],
        thinking={"type": "disabled"},
        metadata={"user_id": "u1"},
        service_tier="auto",
        seed=7,
    )
    request, _ = await heard(make_app, exchange, body)
    call = {
        "id": "toolu_1",
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city":"Paris"}'},
    }
    sent = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather\nnow?"},
        {"role": "assistant", "content": "I look.", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "toolu_1", "content": "Rain."},
        {"role": "user", "content": "And?"},
    ]
    assert request.raw == {
        "model": "auto",
        "messages": sent,
        "max_tokens": 50,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "stop": ["END"],
        "tools": [FUNCTION],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "user": "u1",
        "seed": 7,
    }
    assert list(request.messages) == [*sent[:2], {**sent[2], "reasoning_content": "Hm."}, *sent[3:]]
    assert request.tools == (FUNCTION,)
    assert not request.parallel_tools
    assert request.template_kwargs == {"enable_thinking": False}
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.max_tokens) == (0.5, 0.9, 40, 50)
    assert sampling.stop == ("END",)
    assert (request.kind, request.stream, request.continuation, request.n) == ("chat", False, "", 1)


@pytest.mark.parametrize(
    ("choice", "asks", "sent"),
    [
        (None, "auto", None),
        ({"type": "any"}, "required", "required"),
        ({"type": "none"}, "none", "none"),
        (
            {"type": "tool", "name": "get_weather"},
            NamedTool("get_weather"),
            {"type": "function", "function": {"name": "get_weather"}},
        ),
    ],
)
async def test_who_is_called(make_app, exchange, choice, asks, sent):
    request, _ = await heard(make_app, exchange, asked("Hi", tools=[WEATHER], tool_choice=choice))
    assert request.tool_choice == asks
    assert request.raw.get("tool_choice") == sent
    assert request.parallel_tools
    assert ("tools" in request.needs) == (asks != "none")


async def test_turns_of_one_role_are_one(make_app, exchange):
    turns = [("user", "A"), ("user", "B"), ("assistant", "C"), ("assistant", "D"), ("system", "E"), ("user", "F")]
    body = {**HELLO, "messages": [{"role": role, "content": text} for role, text in turns]}
    request, _ = await heard(make_app, exchange, body)
    said = [(message["role"], message["content"]) for message in request.messages]
    assert said == [("user", "A\nB"), ("assistant", "C\nD"), ("system", "E"), ("user", "F")]


async def test_results_in_two_turns_failed_ones_and_pictures(make_app, exchange):
    second = {**CALL, "id": "toolu_2"}
    shown = {**RESULT, "content": [{"type": "text", "text": "Look:"}, PICTURE]}
    failed = {**RESULT, "tool_use_id": "toolu_2", "content": "no such city", "is_error": True}
    body = asked("Hi", [CALL, second], [shown])
    body["messages"].append({"role": "user", "content": [failed]})
    request, _ = await heard(make_app, exchange, body)
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0K"}}
    assert request.raw["messages"][1]["content"] is None
    assert request.messages[1]["content"] == ""
    assert request.raw["messages"][2:] == [
        {"role": "tool", "tool_call_id": "toolu_1", "content": "Look:"},
        {"role": "tool", "tool_call_id": "toolu_2", "content": "Error: no such city"},
        {"role": "user", "content": [picture]},
    ]
    assert request.needs == {"vision"}


async def test_a_picture_by_its_url_and_a_result_without_words(make_app, exchange):
    url = {"type": "image", "source": {"type": "url", "url": "https://site/p.png"}}
    silent = {"type": "tool_result", "tool_use_id": "toolu_1"}
    body = asked([url, {"type": "text", "text": "What?"}], [CALL], [silent])
    request, _ = await heard(make_app, exchange, body)
    first, _, last = request.raw["messages"]
    assert first["content"] == [
        {"type": "image_url", "image_url": {"url": "https://site/p.png"}},
        {"type": "text", "text": "What?"},
    ]
    assert last == {"role": "tool", "tool_call_id": "toolu_1", "content": ""}


async def test_a_last_turn_of_the_assistants_is_gone_on_from(make_app, exchange):
    request, _ = await heard(make_app, exchange, asked("Greek for sun?", "It is ("))
    assert request.continuation == "It is ("
    assert [message["role"] for message in request.messages] == ["user"]
    assert [message["role"] for message in request.raw["messages"]] == ["user", "assistant"]
    assert request.needs == {"continuation"}


async def test_a_beginning_in_two_turns(make_app, exchange):
    body = asked("Greek for sun?", "It is (")
    body["messages"].append({"role": "assistant", "content": [{"type": "text", "text": ""}]})
    request, _ = await heard(make_app, exchange, body)
    assert request.continuation == "It is ("
    assert request.needs == {"continuation"}


async def test_an_empty_last_turn_is_none(make_app, exchange):
    request, _ = await heard(make_app, exchange, asked("Hi", ""))
    assert request.continuation == ""
    assert [message["role"] for message in request.raw["messages"]] == ["user"]
    assert not request.needs


async def test_a_schema_for_the_answer(make_app, exchange):
    output = {"format": {"type": "json_schema", "schema": SCHEMA}}
    request, _ = await heard(make_app, exchange, asked("Hi", output_config=output))
    assert request.grammar == Grammar("json_schema", orjson.dumps(SCHEMA).decode(), "output_config.format.schema")
    assert request.raw["response_format"]["json_schema"]["schema"] == SCHEMA
    assert request.needs == {"structured_output"}


async def test_what_would_change_the_answers_shape_is_not_passed_on(make_app, exchange):
    body = asked("Hi", n=2, logprobs=True, stream_options={"include_usage": False}, cache_control={"type": "ephemeral"})
    request, _ = await heard(make_app, exchange, body)
    assert set(request.raw) == {"model", "messages", "max_tokens"}


async def test_controls_are_those_of_every_dialect(make_app, exchange):
    body = asked("Hi", outstation={"data_classes": ["health"], "deadline_ms": 5000})
    request, _ = await heard(make_app, exchange, body)
    assert request.declared == {"health"}
    assert request.deadline_s == 5.0
    assert "outstation" not in request.raw


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        (asked([{"type": "text"}]), "messages[0].content[0].text"),
        (asked([{"type": "document"}]), "messages[0].content[0].type"),
        (asked([CALL]), "messages[0].content[0].type"),
        (asked("Hi", [PICTURE]), "messages[1].content[0].type"),
        (asked([{"type": "image", "source": {"type": "file", "file_id": "f"}}]), "messages[0].content[0].source"),
        (asked("Hi", [CALL], "And?"), "messages[1].content[0]"),
        (asked("Hi", [CALL]), "messages[1].content[0]"),
        (asked("Hi", [CALL, CALL], [RESULT]), "messages[1].content[1].id"),
        (asked("Hi", "Ho", [RESULT]), "messages[2].content[0].tool_use_id"),
        (asked("Hi", [CALL], [RESULT, RESULT]), "messages[2].content[1].tool_use_id"),
        (asked("Hi", [CALL], [RESULT], "Ok", [RESULT]), "messages[4].content[0].tool_use_id"),
        ({"messages": [*asked("Hi", [CALL])["messages"], *STEPPED_IN]}, "messages[1].content[0]"),
        ({"system": [PICTURE]}, "system[0].type"),
        ({"tools": [{"name": "x"}]}, "tools[0].input_schema"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tools": [WEATHER, WEATHER]}, "tools"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "other"}}, "tool_choice.name"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"temperature": "hot"}, "temperature"),
        ({"stop_sequences": [""]}, "stop_sequences[0]"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
        (asked([PICTURE]), "messages[0].content[0]"),
        ({"tools": [WEATHER]}, "tools"),
        (asked("Hi", "It is ("), "messages[1]"),
        ({"output_config": {"format": {"type": "json_schema", "schema": {}}}}, "output_config.format"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_cannot_be_is_refused_at_its_place(make_app, exchange, fields, param, stream):
    got = exchange(make_app(FakeBackend()), {**HELLO, "stream": stream, **fields}, PATH)
    await got.end()
    assert got.status == 400, got.body
    error = MessagesError.model_validate(got.json).error
    assert (error.type, error.param) == ("invalid_request_error", param)
    assert got.headers["x-outstation-route"] == "none"


# -- what goes out ---------------------------------------------------------------------------------------------------

PARIS = '{"city": "Paris"}'


def thinks_and_calls(request):
    return [
        Chunk(0, reasoning="H"),
        Chunk(0, reasoning="m."),
        Chunk(0, "I lo"),
        Chunk(0, "ok."),
        Chunk(0, tools=(ToolDelta(0, "call_1", "get_weather"),)),
        Chunk(0, tools=(ToolDelta(0, arguments=PARIS[:9]),)),
        Chunk(0, tools=(ToolDelta(0, arguments=PARIS[9:]), ToolDelta(1, "call_2", "get_weather", PARIS))),
        Chunk(0, finish_reason="tool_calls"),
        Usage(20, 9, 12),
    ]


CALLED = [
    {"type": "thinking", "thinking": "Hm.", "signature": ""},
    {"type": "text", "text": "I look."},
    {"type": "tool_use", "id": "call_1", "name": "get_weather", "input": {"city": "Paris"}},
    {"type": "tool_use", "id": "call_2", "name": "get_weather", "input": {"city": "Paris"}},
]
USAGE = {"input_tokens": 8, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 12, "output_tokens": 9}


async def test_a_whole_answer(make_app, exchange):
    backend = FakeBackend(capabilities=ABLE, script=thinks_and_calls)
    _, got = await heard(make_app, exchange, asked("Hi", tools=[WEATHER]), backend)
    message = MessageObject.model_validate(got.json)
    assert message.id.startswith("msg_")
    assert (message.model, message.stop_reason, message.stop_sequence) == ("fake", "tool_use", None)
    assert got.json["content"] == CALLED
    assert got.json["usage"] == USAGE
    assert got.headers["x-outstation-route"] == "local/fake"
    assert got.headers["request-id"] == got.headers["x-request-id"]


async def test_a_streamed_answer_block_by_block(make_app, exchange):
    backend = FakeBackend(capabilities=ABLE, script=thinks_and_calls)
    _, got = await heard(make_app, exchange, asked("Hi", tools=[WEATHER], stream=True), backend)
    assert got.headers["content-type"].startswith("text/event-stream")
    first, *middle, delta, last = events(got.body)
    start = MessageObject.model_validate(first["message"])
    assert (start.content, start.stop_reason, start.usage.output_tokens) == ([], None, 0)
    assert delta == {
        "type": "message_delta",
        "delta": {"stop_reason": "tool_use", "stop_sequence": None},
        "usage": USAGE,
    }
    assert last == {"type": "message_stop"}
    kinds = [(event["type"].removeprefix("content_block_"), event["index"]) for event in middle]
    assert kinds == [
        *[("start", 0), ("delta", 0), ("delta", 0), ("stop", 0)],
        *[("start", 1), ("delta", 1), ("delta", 1), ("stop", 1)],
        *[("start", 2), ("delta", 2), ("delta", 2), ("stop", 2)],
        *[("start", 3), ("delta", 3), ("stop", 3)],
    ]
    blocks = [dict(event["content_block"]) for event in middle if event["type"] == "content_block_start"]
    assert [block["input"] for block in blocks[2:]] == [{}, {}]
    arguments = ["", "", "", ""]
    for event in middle:
        if event["type"] == "content_block_delta":
            index, piece = event["index"], event["delta"]
            match piece["type"]:
                case "text_delta":
                    blocks[index]["text"] += piece["text"]
                case "thinking_delta":
                    blocks[index]["thinking"] += piece["thinking"]
                case _:
                    assert piece["type"] == "input_json_delta"
                    arguments[index] += piece["partial_json"]
    for index in (2, 3):
        blocks[index]["input"] = orjson.loads(arguments[index])
    assert blocks == CALLED


async def test_the_start_tells_a_prompt_that_was_counted(make_app, exchange):
    backend = FakeBackend(script=say("Hi", prompt_tokens=7), count_tokens=7)
    _, got = await heard(make_app, exchange, asked("Hi", stream=True, outstation={"deadline_ms": 60_000}), backend)
    assert events(got.body)[0]["message"]["usage"]["input_tokens"] == 7


@pytest.mark.parametrize(
    ("finish", "stopped_by", "reason", "sequence"),
    [
        ("stop", "", "end_turn", None),
        ("stop", "END", "stop_sequence", "END"),
        ("length", "", "max_tokens", None),
        ("content_filter", "", "refusal", None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_why_it_ended(make_app, exchange, finish, stopped_by, reason, sequence, stream):
    said = [Chunk(0, "Hi"), Chunk(0, finish_reason=finish, stopped_by=stopped_by), Usage(1, 1)]
    backend = FakeBackend(script=lambda request: said)
    _, got = await heard(make_app, exchange, asked("Hi", stop_sequences=["END"], stream=stream), backend)
    end = events(got.body)[-2]["delta"] if stream else got.json
    assert (end["stop_reason"], end["stop_sequence"]) == (reason, sequence)


async def test_an_answer_that_says_nothing(make_app, exchange):
    backend = FakeBackend(script=say())
    _, got = await heard(make_app, exchange, asked("Hi"), backend)
    assert got.json["content"] == []
    backend.requests.clear()
    _, got = await heard(make_app, exchange, asked("Hi", stream=True), backend)
    assert [event["type"] for event in events(got.body)] == ["message_start", "message_delta", "message_stop"]


@pytest.mark.parametrize(
    ("arguments", "finish", "got_input"),
    [("", "tool_calls", {}), ('{"city": "Par', "length", {"city": "Par"}), ("[1", "length", {})],
)
async def test_the_input_of_a_call(make_app, exchange, arguments, finish, got_input):
    said = [Chunk(0, tools=(ToolDelta(0, "c", "get_weather", arguments),)), Chunk(0, finish_reason=finish), Usage(1, 1)]
    backend = FakeBackend(capabilities=ABLE, script=lambda request: said)
    _, got = await heard(make_app, exchange, asked("Hi", tools=[WEATHER]), backend)
    assert got.json["content"][0]["input"] == got_input
    assert got.json["stop_reason"] == ("max_tokens" if finish == "length" else "tool_use")


@pytest.mark.parametrize("arguments", ['{"city": "Par', "[1]", "null"])
async def test_a_call_that_nobody_can_read_is_an_error(make_app, exchange, arguments):
    call = ToolDelta(0, "c", "get_weather", arguments)
    said = [Chunk(0, tools=(call,)), Chunk(0, finish_reason="tool_calls"), Usage(1, 1)]
    backend = FakeBackend(capabilities=ABLE, script=lambda request: said)
    got = exchange(make_app(backend), asked("Hi", tools=[WEATHER]), PATH)
    await got.end()
    assert (got.status, got.json["error"]["code"]) == (503, "engine_failed")


SAID = st.one_of(
    st.builds(Chunk, st.just(0), text=st.text(max_size=3)),
    st.builds(Chunk, st.just(0), reasoning=st.text(max_size=3)),
    st.builds(Chunk, st.just(0), text=st.text(max_size=3), reasoning=st.text(max_size=3)),
)


@given(st.lists(SAID, max_size=8), st.lists(st.lists(st.text(max_size=4), max_size=3), max_size=3), st.booleans())
def test_a_stream_says_what_the_whole_says(said, calls, together):
    """However it is cut: each block begins and ends once, in order, and together they are the whole."""
    chunks = list(said)
    for index, values in enumerate(calls):
        text = orjson.dumps({"x": values}).decode()
        pieces = [ToolDelta(index, arguments=text[i : i + 5]) for i in range(0, len(text), 5)]
        first = ToolDelta(index, f"c{index}", "f")
        if together:
            chunks.append(Chunk(0, tools=(first, *pieces)))
        else:
            chunks += [Chunk(0, tools=(piece,)) for piece in (first, *pieces)]
    chunks.append(Chunk(0, finish_reason="tool_calls" if calls else "stop"))
    frames, folded = MessageFrames(MessageHead("m")), [Folded()]
    stream = frames.opening()
    for chunk in chunks:
        stream += frames.chunk(chunk)
        fold(folded, chunk)
    told = events(stream + frames.closing(Usage(3, 2, 1)))
    whole = MessageObject.model_validate(orjson.loads(frames.body(folded, Usage(3, 2, 1))))
    assert [event["type"] for event in told[:1] + told[-2:]] == ["message_start", "message_delta", "message_stop"]
    assert told[-2]["delta"]["stop_reason"] == whole.stop_reason
    texts = {"text": "", "thinking": ""}
    inputs: list[str] = []
    under_way = None
    for event in told[1:-2]:
        match event["type"]:
            case "content_block_start":
                assert under_way is None
                under_way = event["index"]
                inputs += [""] if event["content_block"]["type"] == "tool_use" else []
            case "content_block_stop":
                assert under_way == event["index"]
                under_way = None
            case _:
                assert under_way == event["index"]
                kind = event["delta"]["type"].removesuffix("_delta")
                if kind == "input_json":
                    inputs[-1] += event["delta"]["partial_json"]
                else:
                    assert event["delta"][kind]
                    texts[kind] += event["delta"][kind]
    assert under_way is None
    assert texts["text"] == "".join(block.text for block in whole.content if block.type == "text")
    assert texts["thinking"] == "".join(block.thinking for block in whole.content if block.type == "thinking")
    assert [orjson.loads(text) for text in inputs] == [b.input for b in whole.content if b.type == "tool_use"]


# -- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "type_"),
    [
        (InvalidRequest("No."), 400, "invalid_request_error"),
        (Overloaded("Full.", retry_after=2), 429, "rate_limit_error"),
        (EngineFailed("Died.", retry_after=1), 503, "overloaded_error"),
        (DeadlineExceeded("Late."), 503, "timeout_error"),
        (RuntimeError("a defect"), 500, "api_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_errors_before_the_first_byte(make_app, exchange, error, status, type_, stream):
    got = exchange(make_app(FakeBackend(script=lambda request: [error])), asked("Hi", stream=stream), PATH)
    await got.end()
    assert got.status == status
    assert set(got.json) == {"type", "error"}
    assert MessagesError.model_validate(got.json).error.type == type_
    assert got.headers["x-outstation-route"] == "local/fake"
    assert ("retry-after" in got.headers) == (status in (429, 503))


async def test_an_error_in_the_stream_is_its_last_event(make_app, exchange):
    script = [Chunk(0, "Hi"), EngineFailed("The engine died.")]
    got = exchange(make_app(FakeBackend(script=lambda request: script)), asked("Hi", stream=True), PATH)
    await got.end()
    last = events(got.body)[-1]
    assert last["type"] == "error"
    assert last["error"]["message"] == "The engine died."
    assert b"message_stop" not in got.body


async def test_silence_is_filled_with_pings(make_app, exchange):
    go_on = asyncio.Event()
    backend = FakeBackend(script=lambda request: [Chunk(0, "x", (1,)), go_on, *say("y")(request)])
    endpoint = messages_endpoint(replace(make_app(backend).current.inference, ping_after_s=0.02))

    async def app(scope, receive, send):
        scope["outcome"] = Outcome("r", path=PATH)
        await (await endpoint(HTTPRequest(scope, receive)))(scope, receive, send)

    got = exchange(app, asked("Hi", stream=True), PATH)
    await got.until_contains(b'event: ping\ndata: {"type":"ping"}\n\n')
    go_on.set()
    await got.end()
    assert events(got.body)[-1]["type"] == "message_stop"


@pytest.mark.parametrize("thread", [{"type": "create"}, {"type": "continue", "previous_message_id": "msg_1"}])
async def test_half_a_conversation_is_not_answered(make_app, exchange, thread):
    backend = FakeBackend()
    got = exchange(make_app(backend), asked("And then?", thread=thread), PATH)
    await got.end()
    assert (got.status, got.json["error"]["param"]) == (400, "thread")
    assert got.json["error"]["details"] == {"error_code": "thread_unsupported_request"}
    assert backend.requests == []


KEYS = '[[keys]]\nname = "van"\nenv = "VAN"\n'


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"x-api-key": "van-secret"}, 200),
        ({"authorization": "Bearer van-secret"}, 200),
        ({"authorization": "Bearer other", "x-api-key": "van-secret"}, 200),
        ({"x-api-key": "wrong"}, 401),
        ({"x-api-key": ""}, 401),
        ({"authorization": "Basic van-secret"}, 401),
        ({}, 401),
    ],
)
async def test_the_key_in_either_header(make_app, connect, headers, status):
    async with connect(make_app(config=KEYS, env={"VAN": "van-secret"})) as client:
        answer = await client.post(PATH, json=HELLO, headers=headers)
        assert answer.status_code == status
        if status == 401:
            assert answer.json()["error"]["type"] == "authentication_error"
        models = await client.get("/v1/models", headers=headers)
        assert models.status_code == status


async def test_nothing_about_chat_has_changed(make_app, exchange):
    got = exchange(make_app(), {"model": "other", "messages": [{"role": "user", "content": "Hi"}]})
    await got.end()
    assert got.json["error"]["type"] == "invalid_request_error"
    assert "request-id" not in got.headers


async def test_an_unknown_model_and_a_broken_body(make_app, connect):
    async with connect(make_app()) as client:
        unknown = await client.post(PATH, json={**HELLO, "model": "other"})
        assert unknown.status_code == 404
        assert unknown.json()["error"]["type"] == "not_found_error"
        broken = await client.post(PATH, content=b"{")
        assert broken.status_code == 400
        assert broken.json()["error"]["code"] == "invalid_json"
        wrong = await client.get(PATH)
        assert (wrong.status_code, wrong.json()["type"]) == (405, "error")


# -- count_tokens ----------------------------------------------------------------------------------------------------

COUNT = f"{PATH}/count_tokens"
BARE = {key: value for key, value in HELLO.items() if key != "max_tokens"}


async def test_a_count_is_the_models_own(make_app, exchange):
    backend = FakeBackend(count_tokens=38)
    got = exchange(make_app(backend), BARE, COUNT)
    await got.end()
    assert TokenCount.model_validate(got.json) == TokenCount(input_tokens=38, exact=True)
    assert got.headers["x-outstation-route"] == "local/fake"
    assert backend.requests == []


@pytest.mark.parametrize("several", [False, True])
async def test_a_prompt_that_is_too_long_is_counted_all_the_same(make_app, exchange, several):
    backends = [FakeBackend(count_tokens=9000, context_length=4096)]
    backends += [FakeBackend("other", count_tokens=9000, context_length=4096)] if several else []
    got = exchange(make_app(*backends), BARE, COUNT)
    await got.end()
    assert (got.status, got.json["input_tokens"]) == (200, 9000)


async def test_a_count_for_a_provider_is_an_estimate(make_app, exchange):
    acme = Remote()
    got = exchange(make_app(remote=[acme.pair]), {**BARE, "model": "acme/large"}, COUNT)
    await got.end()
    assert got.status == 200, got.body
    assert got.json["exact"] is False
    assert 0 < got.json["input_tokens"] < 20
    assert got.headers["x-outstation-route"] == "acme/large"
    assert acme.backend.requests == []


async def test_a_count_is_refused_like_a_message(make_app, exchange):
    for body, status in (({**BARE, "model": "other"}, 404), ({"model": "auto"}, 400)):
        got = exchange(make_app(), body, COUNT)
        await got.end()
        assert (got.status, got.json["type"]) == (status, "error")
