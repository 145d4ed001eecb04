"""Wrong requests: 400 in the API's shape, with the field at fault, streamed or not; nothing reaches a backend."""

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.errors import InvalidRequest
from backends.fake import FakeBackend
from gateway.schemas.chat import ChatRequest
from gateway.schemas.completions import CompletionRequest
from gateway.schemas.parse import check, parse_json

pytestmark = pytest.mark.anyio
M = [{"role": "user", "content": "x"}]
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
AUDIO = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "x"}

WRONG = [
    ({"temperature": "1"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": -0.1}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_k": -1}, "top_k"),
    ({"min_p": 1.5}, "min_p"),
    ({"n": 0}, "n"),
    ({"n": 1.0}, "n"),
    ({"n": 9}, "n"),
    ({"seed": "7"}, "seed"),
    ({"seed": 2**63}, "seed"),
    ({"presence_penalty": 3}, "presence_penalty"),
    ({"frequency_penalty": -3}, "frequency_penalty"),
    ({"repeat_penalty": 0}, "repeat_penalty"),
    ({"repeat_penalty": 1.1, "repetition_penalty": 1.2}, "repetition_penalty"),
    ({"logit_bias": {"a": 1}}, "logit_bias.a"),
    ({"logit_bias": {"1": 101}}, "logit_bias.1"),
    ({"logit_bias": {str(token): 1 for token in range(1025)}}, "logit_bias"),
    ({"logprobs": 1}, "logprobs"),
    ({"top_logprobs": 1}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"stop": ""}, "stop"),
    ({"stop": ["a", 1]}, "stop[1]"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_completion_tokens": -1}, "max_completion_tokens"),
    ({"max_tokens": 1, "max_completion_tokens": 2}, "max_completion_tokens"),
    ({"stream": "true"}, "stream"),
    ({"stream": False, "stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    ({"model": None}, "model"),
    ({"model": ""}, "model"),
    ({"messages": []}, "messages"),
    ({"messages": "x"}, "messages"),
    ({"messages": [1]}, "messages[0]"),
    ({"messages": [{"content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
    ({"messages": [*M, {"role": "user", "content": [{"type": "text"}]}]}, "messages[1].content[0].text"),
    ({"messages": [{"role": "user", "content": [{"type": "smell"}]}]}, "messages[0].content[0].type"),
    ({"messages": [{"role": "assistant"}]}, "messages[0].content"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
    (
        {"messages": [*M, {"role": "assistant", "tool_calls": [CALL, CALL]}, RESULT, RESULT]},
        "messages[1].tool_calls[1].id",
    ),
    ({"messages": [*M, {"role": "assistant", "tool_calls": [CALL]}]}, "messages[1].tool_calls"),
    ({"messages": [*M, RESULT]}, "messages[1].tool_call_id"),
    (
        {"messages": [*M, {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "", "arguments": ""}}]}]},
        "messages[1].tool_calls[0].function.name",
    ),
    ({"messages": [*M, {"role": "user", "content": [{"type": "text", "text": "?"}, IMAGE]}]}, "messages[1].content[1]"),
    ({"messages": [{"role": "user", "content": [AUDIO]}]}, "messages[0].content[0]"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"outstation": {"deadline": 5}}, "outstation.deadline"),
    ({"outstation": {"deadline_ms": 0}}, "outstation.deadline_ms"),
    ({"outstation": {"locality": "moon"}}, "outstation.locality"),
    ({"outstation": {"locality": "only_remote"}}, "outstation.locality"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("fields", "param"), WRONG, ids=[str(fields)[:60] for fields, _ in WRONG])
async def test_wrong_chats(make_app, exchange, fields, param, stream):
    backend = FakeBackend("m")
    begun = exchange(make_app(backend), {"model": "m", "messages": M, "stream": stream, **fields})
    await begun.end()
    assert begun.status == 400
    assert begun.headers["content-type"] == "application/json"
    assert set(begun.json) == {"error"}
    error = begun.json["error"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert isinstance(error["code"], str)
    assert isinstance(error["message"], str)
    assert backend.requests == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": [1, "a"]}, "prompt[1]"),
        ({"prompt": [True]}, "prompt[0]"),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": ["x"] * 33}, "prompt"),
        ({"prompt": "x", "echo": True}, "echo"),
        ({"prompt": "x", "suffix": "y"}, "suffix"),
        ({"prompt": "x", "best_of": 2}, "best_of"),
        ({"prompt": "x", "logprobs": True}, "logprobs"),
    ],
    ids=str,
)
async def test_wrong_completions(make_app, exchange, fields, param):
    begun = exchange(make_app(FakeBackend("m")), {"model": "m", **fields}, "/v1/completions")
    await begun.end()
    assert begun.status == 400
    assert begun.json["error"]["param"] == param


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'"x"', b"\xff", b'{"a": NaN}', b'{"a": "\\ud800"}', b'{"a": 1e999}', b"[" * 100_000],
    ids=lambda body: repr(body[:20]),
)
async def test_bodies_that_are_no_json_object(make_app, connect, body):
    answer = await connect(make_app()).post("/v1/chat/completions", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_json"


@pytest.mark.parametrize("depth", [260, 1000])
@pytest.mark.parametrize("field", ["messages", "chat_template_kwargs", "metadata"])
async def test_a_body_that_could_not_be_passed_on_is_refused(make_app, connect, field, depth):
    nested = b'{"x":' + b"[" * depth + b"]" * depth + b',"role":"user","content":"x"}'
    fields = {b"messages": b"[" + nested + b"]"} if field == "messages" else {b"messages": orjson.dumps(M)}
    fields |= {} if field == "messages" else {field.encode(): nested}
    body = b'{"model":"auto"' + b"".join(b',"' + key + b'":' + value for key, value in fields.items()) + b"}"
    answer = await connect(make_app()).post("/v1/chat/completions", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_json"


@pytest.mark.parametrize(
    ("schema", "fields"),
    [
        (ChatRequest, {"messages": [{"role": "user", "content": [1, 2, 3]}]}),
        (ChatRequest, {"messages": [1, 2, 3]}),
        (ChatRequest, {"messages": M, "stop": [1, 2, 3]}),
        (ChatRequest, {"messages": M, "tools": [1, 2, 3]}),
        (ChatRequest, {"messages": M, "functions": [1, 2, 3]}),
        (CompletionRequest, {"prompt": ["a", 1, 2]}),
        (CompletionRequest, {"prompt": [1, "a", "b"]}),
        (CompletionRequest, {"prompt": [[1], ["a", "b"], ["c"]]}),
    ],
    ids=str,
)
def test_the_first_wrong_item_ends_the_check(schema, fields):
    """Ten megabytes of wrong items would otherwise be gigabytes of errors, made while everybody waits."""
    with pytest.raises(InvalidRequest) as caught:
        check(schema, {"model": "m", **fields})
    assert "Further fields" not in caught.value.message


@pytest.mark.parametrize(
    ("headers", "body", "param"),
    [
        ({"x_outstation_locality": "moon"}, {}, "x-outstation-locality"),
        ({"x_outstation_deadline_ms": "soon"}, {}, "x-outstation-deadline-ms"),
        ({"x_outstation_deadline_ms": "0"}, {}, "x-outstation-deadline-ms"),
        ({"x_outstation_deadline_ms": "٣"}, {}, "x-outstation-deadline-ms"),
        ({"x_outstation_locality": "only_local"}, {"locality": "prefer_local"}, "outstation.locality"),
        ({"x_outstation_deadline_ms": "5"}, {"deadline_ms": 6}, "outstation.deadline_ms"),
    ],
)
async def test_wrong_headers(make_app, exchange, headers, body, param):
    begun = exchange(make_app(), {"model": "auto", "messages": M, "outstation": body}, **headers)
    await begun.end()
    assert begun.status == 400
    assert begun.json["error"]["param"] == param


async def test_headers_and_body_may_agree(make_app, exchange):
    backend = FakeBackend()
    body = {"model": "auto", "messages": M, "outstation": {"locality": "only_local"}}
    begun = exchange(make_app(backend), body, x_outstation_locality="only_local", x_outstation_deadline_ms="60000")
    await begun.end()
    assert begun.status == 200
    assert (backend.requests[0].locality, backend.requests[0].deadline_s) == ("only_local", 60.0)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["role", "content", "type", "text"]), inner),
    max_leaves=8,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(sorted(ChatRequest.model_fields)), JSON))
@settings(max_examples=300)
def test_any_json_is_either_a_request_or_an_error_with_a_message(fields):
    for schema, base in (
        (ChatRequest, {"model": "m", "messages": M}),
        (CompletionRequest, {"model": "m", "prompt": "x"}),
    ):
        try:
            check(schema, parse_json(orjson.dumps({**base, **fields})))
        except InvalidRequest as error:
            assert error.message and error.param  # noqa: PT017


def test_a_users_text_is_never_in_the_message():
    with pytest.raises(InvalidRequest) as caught:
        check(ChatRequest, {"model": "m", "messages": [{"role": "my secret", "content": "my secret"}]})
    assert "secret" not in caught.value.message
