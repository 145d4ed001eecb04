"""The official SDK against scripted backends, in this process."""

import openai
import pytest

from backends.errors import EngineFailed, Overloaded
from backends.fake import FakeBackend, say
from backends.types import Chunk, TokenLogprob, Usage
from gateway.schemas import responses

pytestmark = pytest.mark.anyio
USER = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def sdk(connect):
    """An SDK client of an app."""
    return lambda app: openai.AsyncOpenAI(
        base_url="http://localhost:8484/v1", api_key="none", http_client=connect(app), max_retries=0
    )


async def test_a_plain_answer(make_app, sdk):
    backend = FakeBackend("m", say("Hello", " wörld 🚰", cached_tokens=2))
    answer = await sdk(make_app(backend)).chat.completions.with_raw_response.create(model="auto", messages=USER)
    completion = answer.parse()
    assert completion.choices[0].message.content == "Hello wörld 🚰"
    assert completion.choices[0].finish_reason == "stop"
    assert completion.model == "m"
    assert completion.usage.prompt_tokens_details.cached_tokens == 2
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens
    assert answer.headers["x-outstation-route"] == "local/m"
    assert answer.headers["x-outstation-reason"] == "auto"
    assert answer.headers["x-outstation-attempts"] == "1"
    assert answer.headers["x-request-id"].startswith("req_")
    responses.ChatCompletion.model_validate_json(answer.content)


async def test_a_stream_with_usage(make_app, sdk):
    client = sdk(make_app(FakeBackend("m", say("a", "b", "c"))))
    stream = await client.chat.completions.create(
        model="m", messages=USER, stream=True, stream_options={"include_usage": True}, n=2
    )
    chunks = [chunk async for chunk in stream]
    texts = ["", ""]
    for chunk in chunks[:-1]:
        assert chunk.usage is None
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == ["abc", "abc"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 6


async def test_the_sdks_own_accumulator_agrees(make_app, sdk):
    client = sdk(make_app(FakeBackend("m", say("a", "b"))))
    async with client.chat.completions.stream(model="m", messages=USER) as stream:
        final = await stream.get_final_completion()
    assert final.choices[0].message.content == "ab"
    assert final.choices[0].message.role == "assistant"


async def test_logprobs(make_app, sdk):
    entry = TokenLogprob("a", -0.5, (97,), (TokenLogprob("a", -0.5, (97,)), TokenLogprob("b", -1.5, (98,))))
    script = [Chunk(0, "a", (1,), (entry,)), Chunk(0, finish_reason="length"), Usage(1, 1)]
    backend = FakeBackend("m", lambda _: script)
    client = sdk(make_app(backend))
    answer = await client.chat.completions.create(model="m", messages=USER, logprobs=True, top_logprobs=2)
    (token,) = answer.choices[0].logprobs.content
    assert (token.token, token.logprob, token.bytes) == ("a", -0.5, [97])
    assert [top.token for top in token.top_logprobs] == ["a", "b"]
    assert backend.requests[0].sampling.top_logprobs == 2
    legacy = await client.completions.create(model="m", prompt="x", logprobs=2)
    assert legacy.choices[0].logprobs.top_logprobs == [{"a": -0.5, "b": -1.5}]
    assert legacy.choices[0].logprobs.text_offset == [0]


async def test_what_the_backend_is_asked(make_app, sdk):
    backend = FakeBackend("m")
    client = sdk(make_app(backend))
    await client.chat.completions.create(
        model="m",
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": None, "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "1", "content": "done"},
        ],
        temperature=0, top_p=0.5, seed=7, stop="END", max_completion_tokens=9, logit_bias={"5": -100},
        presence_penalty=1, frequency_penalty=-1, tool_choice="none", metadata={"a": "b"}, reasoning_effort="none",
        extra_body={"top_k": 3, "min_p": 0.1, "repetition_penalty": 1.1, "ignore_eos": True, "tomorrow": [1],
                    "chat_template_kwargs": {"x": 1},
                    "outstation": {"locality": "prefer_local", "deadline_ms": 5000}},
    )  # fmt: skip
    (request,) = backend.requests
    assert [message["role"] for message in request.messages] == ["system", "user", "assistant", "tool"]
    assert [message["content"] for message in request.messages] == ["Be brief.", "a\nb", "", "done"]
    assert request.messages[2]["tool_calls"][0]["id"] == "1"
    s = request.sampling
    assert (s.temperature, s.top_p, s.top_k, s.min_p, s.seed) == (0, 0.5, 3, 0.1, 7)
    assert (s.presence_penalty, s.frequency_penalty, s.repeat_penalty) == (1, -1, 1.1)
    assert (s.logit_bias, s.stop, s.max_tokens, s.ignore_eos) == (((5, -100),), ("END",), 9, True)
    assert s.top_logprobs is None
    assert request.raw["tomorrow"] == [1]
    assert request.template_kwargs == {"x": 1, "reasoning_effort": "none", "enable_thinking": False}
    assert (request.locality, request.deadline_s) == ("prefer_local", 5.0)
    assert request.needs == frozenset()


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a", ("a",)),
        (["a", "b"], ("a", "b")),
        ([1, 2], ((1, 2),)),
        ([[1, 2], [3]], ((1, 2), (3,))),
    ],
)
async def test_the_four_shapes_of_a_prompt(make_app, sdk, prompt, expected):
    backend = FakeBackend("m", say("x"))
    answer = await sdk(make_app(backend)).completions.create(model="m", prompt=prompt, n=2)
    assert backend.requests[0].prompts == expected
    assert backend.requests[0].sampling.max_tokens == 16
    assert [choice.index for choice in answer.choices] == list(range(2 * len(expected)))
    assert answer.choices[0].text == "x"


async def test_a_streamed_completion(make_app, sdk):
    stream = await sdk(make_app(FakeBackend("m", say("a", "b")))).completions.create(model="m", prompt="x", stream=True)
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].text for chunk in chunks) == "ab"
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_an_error_before_the_first_chunk_is_a_plain_error_in_both_modes(make_app, sdk):
    backend = FakeBackend("m", lambda _: [Overloaded("The queue is full.", retry_after=2.1)])
    client = sdk(make_app(backend))
    for stream in (False, True):
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(model="m", messages=USER, stream=stream)
        assert caught.value.code == "queue_full"
        headers = caught.value.response.headers
        assert headers["retry-after"] == "3"
        assert headers["retry-after-ms"] == "2100"
        assert headers["x-outstation-route"] == "local/m"
        assert caught.value.request_id == headers["x-request-id"]


async def test_an_error_after_the_first_chunk_reaches_the_sdk(make_app, sdk):
    backend = FakeBackend("m", lambda _: [Chunk(0, "a", (1,)), EngineFailed("The engine died.", retry_after=1)])
    stream = await sdk(make_app(backend)).chat.completions.create(model="m", messages=USER, stream=True)
    seen = []

    async def read():
        async for chunk in stream:
            seen.extend(choice.delta.content for choice in chunk.choices)

    with pytest.raises(openai.APIError, match="The engine died"):
        await read()
    assert "".join(seen) == "a"


async def test_an_unknown_model_is_not_found_everywhere(make_app, sdk):
    client = sdk(make_app(FakeBackend("m")))
    calls = [
        lambda: client.chat.completions.create(model="gpt-9", messages=USER),
        lambda: client.chat.completions.create(model="gpt-9", messages=USER, stream=True),
        lambda: client.completions.create(model="gpt-9", prompt="x"),
        lambda: client.models.retrieve("gpt-9/x"),
    ]
    for call in calls:
        with pytest.raises(openai.NotFoundError, match="Available: auto, m") as caught:
            await call()
        assert caught.value.code == "model_not_found"
        assert caught.value.param == "model"


async def test_models_aliases_and_auto_are_listed(make_app, sdk):
    app = make_app(FakeBackend("m", context_length=77), config='[aliases]\n"gpt-4o-mini" = "auto"\n"big/one" = "m"')
    client = sdk(app)
    assert [model.id async for model in client.models.list()] == ["m", "auto", "gpt-4o-mini", "big/one"]
    one = await client.models.retrieve("big/one")
    assert (one.id, one.object, one.owned_by) == ("big/one", "model", "outstation")
    assert one.context_length == one.max_model_len == 77
    answer = await client.chat.completions.with_raw_response.create(model="gpt-4o-mini", messages=USER)
    assert answer.headers["x-outstation-reason"] == "alias gpt-4o-mini for auto"
    assert answer.parse().model == "m"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"functions": [{"name": "get", "parameters": {}}]}, "functions"),
        ({"tools": [{"type": "function", "function": {"name": "get"}}]}, "tools"),
        ({"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}, "modalities"),
        ({"web_search_options": {}}, "web_search_options"),
    ],
)
async def test_what_no_model_here_can_do_is_named(make_app, sdk, fields, param):
    with pytest.raises(openai.BadRequestError) as caught:
        await sdk(make_app(FakeBackend("m"))).chat.completions.create(model="m", messages=USER, **fields)
    assert (caught.value.code, caught.value.param) == ("unsupported_capability", param)
