"""The official SDK against a real gateway and the real model: what a developer relies on."""

import math
import time

import httpx2
import openai
import pytest

USER = [{"role": "user", "content": "Name three colours."}]


@pytest.fixture(scope="module")
def sdk(gateway):
    with openai.OpenAI(base_url=gateway.base_url, api_key="none", max_retries=0) as client:
        yield client


def streamed(sdk, **options):
    stream = sdk.chat.completions.create(
        model="auto", messages=USER, stream=True, stream_options={"include_usage": True}, **options
    )
    chunks = list(stream)
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    return text, chunks


def test_models(sdk):
    names = [model.id for model in sdk.models.list()]
    assert names == ["smollm2-135m-instruct", "auto", "gpt-4o-mini"]
    assert sdk.models.retrieve("auto").context_length >= 2048


def test_greedy_is_the_same_streamed_or_not(sdk):
    plain = sdk.chat.completions.create(model="gpt-4o-mini", messages=USER, temperature=0, max_tokens=24)
    text, chunks = streamed(sdk, temperature=0, max_tokens=24)
    assert plain.choices[0].message.content == text != ""
    assert plain.model == chunks[0].model == "smollm2-135m-instruct"
    usage = chunks[-1].usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (plain.usage.prompt_tokens, plain.usage.completion_tokens)


def test_max_tokens_is_exact_and_says_so(sdk):
    answer = sdk.chat.completions.create(
        model="auto", messages=USER, max_completion_tokens=7, extra_body={"ignore_eos": True}
    )
    assert answer.usage.completion_tokens == 7
    assert answer.choices[0].finish_reason == "length"


def test_a_seed_reproduces(sdk):
    texts = [
        sdk.chat.completions.create(model="auto", messages=USER, temperature=1, seed=seed, max_tokens=16)
        .choices[0]
        .message.content
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_a_repeated_prompt_is_cached_and_still_counted(sdk):
    first, second = (
        sdk.chat.completions.create(model="auto", messages=[{"role": "user", "content": "Cached? " * 40}], max_tokens=1)
        for _ in range(2)
    )
    assert second.usage.prompt_tokens == first.usage.prompt_tokens
    assert second.usage.prompt_tokens_details.cached_tokens > first.usage.prompt_tokens // 2


def test_several_choices_and_stop(sdk):
    answer = sdk.chat.completions.create(model="auto", messages=USER, n=3, max_tokens=16, temperature=1, stop=["a"])
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert all("a" not in choice.message.content for choice in answer.choices)


def test_logprobs_are_probabilities(sdk):
    answer = sdk.chat.completions.create(
        model="auto", messages=USER, max_tokens=4, temperature=0, logprobs=True, top_logprobs=3
    )
    entries = answer.choices[0].logprobs.content
    assert entries
    for entry in entries:
        assert entry.logprob <= 0
        assert len(entry.top_logprobs) == 3
        assert entry.top_logprobs[0].logprob == max(top.logprob for top in entry.top_logprobs)
        assert sum(math.exp(top.logprob) for top in entry.top_logprobs) <= 1.001
    assert "".join(entry.token for entry in entries) == answer.choices[0].message.content


def test_raw_completions_in_every_shape(sdk):
    answer = sdk.completions.create(model="auto", prompt=["The pump", "The valve"], max_tokens=4, logprobs=1)
    assert [choice.index for choice in answer.choices] == [0, 1]
    logprobs = answer.choices[0].logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.text_offset) > 0
    by_id = sdk.completions.create(model="auto", prompt=[504, 6719], max_tokens=4)
    assert by_id.usage.prompt_tokens == 2


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_over_the_context_is_a_clear_400(sdk, stream):
    messages = [{"role": "user", "content": "pump " * 20_000}]
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.chat.completions.create(model="auto", messages=messages, stream=stream)
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.body["n_prompt_tokens"] > caught.value.body["n_ctx"]
    assert caught.value.param == "messages"


def test_a_client_that_hangs_up_frees_its_sequence(sdk, gateway):
    stream = sdk.chat.completions.create(
        model="auto", messages=USER, stream=True, max_tokens=2000, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    stream.close()
    for _ in range(100):
        if gateway.status()["running"] == 0:
            break
        time.sleep(0.05)
    assert gateway.status()["running"] == 0


def test_an_unknown_model_names_the_known_ones(sdk):
    with pytest.raises(openai.NotFoundError, match="smollm2-135m-instruct"):
        sdk.chat.completions.create(model="gpt-5", messages=USER)


def test_metrics_and_status_tell_what_happened(sdk, gateway):
    sdk.chat.completions.create(model="auto", messages=USER, max_tokens=2)
    text = httpx2.get(gateway.url + "/metrics").text
    for name in ("outstation_ttft_seconds_count", "outstation_kv_cells{", "outstation_engine_prefix_hit_tokens_total"):
        line = next(line for line in text.splitlines() if line.startswith(name))
        assert float(line.rsplit(" ", 1)[1]) > 0
    assert gateway.status()["status"] == "ready"
