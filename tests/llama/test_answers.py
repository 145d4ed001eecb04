"""What the real model answers through `LlamaBackend`: the contract of `backends/base.py`, held by a real engine."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from backends.errors import ContextLengthExceeded, InvalidRequest
from backends.llama.backend import LlamaBackend
from backends.llama.kv_cache import ALWAYS_COMPUTED
from backends.types import Chunk, Sampling, TokenLogprob, Usage
from tests.llama.conftest import Answer, Running, ask, chat, completion

pytestmark = pytest.mark.anyio

STORY = "Write a long story about a lighthouse keeper."


@pytest.fixture(scope="module")
async def backend(running: Running) -> AsyncIterator[LlamaBackend]:
    """One engine for all tests here: each leaves it idle."""
    async with running() as backend:
        yield backend


async def idle(backend: LlamaBackend) -> None:
    """Wait until the engine says that nothing runs and every cell is free or kept."""
    async with asyncio.timeout(20):
        while (s := backend.state()).running or s.waiting or s.kv_cells_used != s.kv_cells_kept:
            await asyncio.sleep(0.01)


# -- the same again --------------------------------------------------------------------------------------------------


async def test_greedy_is_reproducible(backend: LlamaBackend) -> None:
    answers = [await ask(backend, chat(STORY)) for _ in range(3)]
    assert len({a.text() for a in answers}) == 1
    assert answers[0].text().strip()


async def test_a_seed_reproduces(backend: LlamaBackend) -> None:
    hot = {"temperature": 1.0, "top_p": 0.95}
    first, again = [await ask(backend, chat(STORY, seed=7, **hot)) for _ in range(2)]
    other = await ask(backend, chat(STORY, seed=8, **hot))
    unseeded = [(await ask(backend, chat(STORY, **hot))).text() for _ in range(2)]
    assert first.tokens() == again.tokens()
    assert first.text() != other.text()
    assert unseeded[0] != unseeded[1]


async def test_the_models_defaults_fill_what_a_request_leaves_out(running: Running) -> None:
    async with running(sampling=Sampling(temperature=0.0)) as backend:
        request = chat(STORY, temperature=None)
        assert (await ask(backend, request)).text() == (await ask(backend, chat(STORY))).text()


# -- choices ---------------------------------------------------------------------------------------------------------


async def test_three_choices_of_one_prompt(backend: LlamaBackend) -> None:
    request = chat(STORY, n=3, temperature=1.0, seed=1)
    answer = await ask(backend, request)
    assert len({answer.text(i) for i in range(3)}) == 3
    alone = await ask(backend, replace(request, id="alone", n=1))
    assert answer.total.prompt_tokens == alone.total.prompt_tokens, "the prompt is counted once"
    assert answer.total.completion_tokens == sum(len(answer.tokens(i)) for i in range(3))


async def test_several_prompts_with_two_choices_each(backend: LlamaBackend) -> None:
    prompts = ("The capital of France is", "One, two, three,")
    answer = await ask(backend, completion(*prompts, n=2, top_logprobs=5))
    singles = [await ask(backend, completion(p, top_logprobs=5)) for p in prompts]
    for index in range(4):
        same_up_to_ties(logprobs(singles[index // 2]), logprobs(answer, index))
    assert answer.text(0).startswith(" Paris")
    assert answer.text(2).startswith(" four, five")
    assert answer.total.prompt_tokens == sum(s.total.prompt_tokens for s in singles)


async def test_a_prompt_of_token_ids_is_the_text_it_stands_for(backend: LlamaBackend) -> None:
    first = await ask(backend, completion("Once upon a time", max_tokens=8))
    more = await ask(backend, completion(tuple(first.tokens()), max_tokens=4))
    assert more.total.prompt_tokens == 8
    assert more.text()


async def test_an_empty_prompt_is_answered(backend: LlamaBackend) -> None:
    assert (await ask(backend, completion("", max_tokens=3))).total.prompt_tokens == 1


# -- the end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 7, 40])
async def test_max_tokens_is_exact(backend: LlamaBackend, n: int) -> None:
    answer = await ask(backend, chat(STORY, max_tokens=n))
    assert (answer.total.completion_tokens, answer.reason()) == (n, "length")
    assert len(answer.tokens()) == n


async def test_a_finished_answer_stops(backend: LlamaBackend) -> None:
    answer = await ask(backend, chat("Say only: yes", max_tokens=400))
    assert answer.reason() == "stop"
    assert "<|im_end|>" not in answer.text()


async def test_ignore_eos_goes_on(backend: LlamaBackend) -> None:
    natural = await ask(backend, chat("Say only: yes", max_tokens=400))
    n = natural.total.completion_tokens + 20
    assert (await ask(backend, chat("Say only: yes", max_tokens=n, ignore_eos=True))).total.completion_tokens == n


async def test_a_stop_string_across_tokens_never_leaks(backend: LlamaBackend) -> None:
    plain = await ask(backend, chat(STORY, max_tokens=30))
    text, pieces = plain.text(), [c.text for c in plain.chunks]
    at = sum(map(len, pieces[:6]))
    stop = text[at - 2 : at + 2]
    assert not any(stop in piece for piece in pieces), "choose one that no single token holds"
    stopped = await ask(backend, chat(STORY, max_tokens=30, stop=(stop, "never seen")))
    assert stopped.text() == text[: text.index(stop)]
    assert stopped.reason() == "stop"


async def test_a_stop_string_that_never_comes_changes_nothing(backend: LlamaBackend) -> None:
    plain = await ask(backend, chat(STORY))
    half = plain.text()[-3:] + "\x01"
    assert (await ask(backend, chat(STORY, stop=(half,)))).text() == plain.text()


# -- log-probabilities -----------------------------------------------------------------------------------------------


async def test_logprobs_are_of_each_token(backend: LlamaBackend) -> None:
    answer = await ask(backend, chat(STORY, top_logprobs=5, max_tokens=12))
    reported = logprobs(answer)
    assert len(reported) == 12
    assert b"".join(bytes(lp.bytes) for lp in reported).decode() == answer.text()
    for lp in reported:
        assert lp.logprob <= 0
        assert [t.logprob for t in lp.top] == sorted((t.logprob for t in lp.top), reverse=True)
        assert (lp.token, lp.logprob) == (lp.top[0].token, lp.top[0].logprob), "greedy takes the likeliest"
        assert sum(math.exp(t.logprob) for t in lp.top) <= 1.0 + 1e-6
        assert lp.token.encode() == bytes(lp.bytes)


async def test_logprobs_do_not_depend_on_temperature_or_bias(backend: LlamaBackend) -> None:
    plain = await ask(backend, chat(STORY, top_logprobs=3, max_tokens=1))
    hot = await ask(
        backend, chat(STORY, top_logprobs=3, max_tokens=1, temperature=2.0, seed=3, logit_bias=((100, 50.0),))
    )
    (a,), (b,) = logprobs(plain), logprobs(hot)
    assert hot.tokens() == [100]
    assert [t.logprob for t in a.top] == pytest.approx([t.logprob for t in b.top], abs=0.02)
    assert [t.token for t in a.top] == [t.token for t in b.top]


async def test_a_bias_forbids_a_token(backend: LlamaBackend) -> None:
    first = (await ask(backend, chat(STORY, max_tokens=1))).tokens()[0]
    assert (await ask(backend, chat(STORY, max_tokens=1, logit_bias=((first, -100.0),)))).tokens()[0] != first


# -- counting and the cache ------------------------------------------------------------------------------------------


async def test_what_was_computed_is_found_again_and_counted_all_the_same(backend: LlamaBackend) -> None:
    text = "Tell me about " + ", ".join(f"pump number {i}" for i in range(40))
    first, second = await ask(backend, chat(text)), await ask(backend, chat(text))
    assert first.total.prompt_tokens == second.total.prompt_tokens
    assert first.total.cached_tokens < 40
    assert second.total.cached_tokens == second.total.prompt_tokens - ALWAYS_COMPUTED
    longer = await ask(backend, chat(text + " and the valve"))
    assert first.total.prompt_tokens - 10 <= longer.total.cached_tokens < longer.total.prompt_tokens
    assert longer.total.prompt_tokens > first.total.prompt_tokens


async def test_count_is_what_usage_says(backend: LlamaBackend) -> None:
    request = chat("How many tokens am I? 😀 你好", system="You count.")
    n = (await backend.count(request)).tokens
    assert (await ask(backend, request)).total.prompt_tokens == n


async def test_a_shared_system_prompt_is_computed_once_for_all(backend: LlamaBackend) -> None:
    system = "You are the site's assistant. " + " ".join(f"Rule {i}: be brief about part {i}." for i in range(30))
    answers = await asyncio.gather(*(ask(backend, chat(f"Question {i}", system=system)) for i in range(6)))
    cached = sorted(a.total.cached_tokens for a in answers)
    assert cached[0] < 20
    assert all(a.total.cached_tokens <= a.total.prompt_tokens - ALWAYS_COMPUTED for a in answers)
    assert cached[1] > 300, "the others waited for the first one's prefix"


async def test_a_prompt_over_the_context_is_refused_with_its_numbers(backend: LlamaBackend) -> None:
    text = "word " * 9000
    for request, param in ((chat(text), "messages"), (completion(text), "prompt")):
        with pytest.raises(ContextLengthExceeded) as caught:
            await ask(backend, request)
        assert caught.value.extra["n_ctx"] == backend.context_length
        assert caught.value.extra["n_prompt_tokens"] >= 9000
        assert caught.value.param == param
        with pytest.raises(ContextLengthExceeded):
            await backend.count(replace(request, id=request.id + "c"))


async def test_the_context_ends_an_answer_as_length(running: Running) -> None:
    async with running(context_length=128) as backend:
        answer = await ask(backend, chat(STORY, max_tokens=None, ignore_eos=True))
        assert answer.reason() == "length"
        assert answer.total.prompt_tokens + answer.total.completion_tokens == 128


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (completion((1, 2, 10_000_000)), "prompt"),
        (completion((-1,)), "prompt"),
        (chat("hello", logit_bias=((10_000_000, 1.0),)), "logit_bias"),
    ],
    ids=["token past the vocabulary", "negative token", "bias past the vocabulary"],
)
async def test_tokens_that_do_not_exist_are_refused(backend: LlamaBackend, request_: object, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await ask(backend, request_)  # type: ignore[arg-type]
    assert caught.value.param == param


# -- neighbours ------------------------------------------------------------------------------------------------------


async def test_greedy_answers_are_those_of_llama_cpp_itself(backend: LlamaBackend, model_file: Path) -> None:
    """The same model, driven by llama-cpp-python's own high-level class, with the same kernels."""
    import llama_cpp

    peer = llama_cpp.Llama(str(model_file), n_ctx=1024, flash_attn=False, verbose=False)
    for text in ("The sea was calm that night, and", "def fibonacci(n):", "Dear Sir or Madam,", "1, 2, 3, 4,"):
        tokens = peer.tokenize(text.encode(), special=True)
        said = [t for t, _ in zip(peer.generate(tokens, temp=0.0), range(24), strict=False)]
        answer = await ask(backend, completion(text, top_logprobs=5))
        for mine, its, lp in zip(answer.tokens(), said, logprobs(answer), strict=True):
            if mine != its:
                (rival,) = [t.logprob for t in lp.top if t.token == peer.detokenize([its]).decode()] or [-math.inf]
                assert lp.logprob - rival < NOISE
                break
    peer.close()


async def test_neighbours_do_not_mix(backend: LlamaBackend) -> None:
    """Each speaks of its own matter: an answer that took another's cells or another's row would speak of another's."""
    matters = ["apple", "river", "window", "garden", "silver", "monday", "horse", "piano"]
    answers = await asyncio.gather(*(ask(backend, chat(f"Tell me about {m}s.", max_tokens=12)) for m in matters))
    for matter, answer in zip(matters, answers, strict=True):
        said = answer.text().lower()
        assert matter in said
        assert not any(other in said for other in matters if other != matter)


async def test_answers_beside_others_are_those_given_alone(backend: LlamaBackend) -> None:
    prompts = [f"Question {i}: what is {i} times {i + 2}, and why is the {c} so {c}?" for i, c in enumerate("abcdefgh")]
    alone = [await ask(backend, chat(p, top_logprobs=5)) for p in prompts]
    together = await asyncio.gather(*(ask(backend, chat(p, top_logprobs=5)) for p in prompts))
    for a, b in zip(alone, together, strict=True):
        same_up_to_ties(logprobs(a), logprobs(b))


NOISE = 1.0


def same_up_to_ties(a: list[TokenLogprob], b: list[TokenLogprob]) -> None:
    """The same greedy tokens, about equally likely, up to a place where the model itself was undecided.

    Another batch size takes other kernels, and other cells another order of summing. The last bit of a sum decides how
    the next layer's input is rounded to 8 bits, so with the 4-bit default model log-probabilities differ by 0.2, now
    and then by 0.6. Where the two likeliest tokens change places, the answers go their own ways from there.
    """
    for x, y in zip(a, b, strict=False):
        if x.token != y.token:
            (rival,) = [t.logprob for t in x.top if t.token == y.token] or [-math.inf]
            assert x.logprob - rival < NOISE, "another token, though the model was sure"
            return
        assert x.logprob == pytest.approx(y.logprob, abs=NOISE)
    assert len(a) == len(b)


def logprobs(answer: Answer, index: int = 0) -> list[TokenLogprob]:
    return [lp for c in answer.chunks if c.index == index for lp in c.logprobs]


async def test_a_short_request_is_answered_while_a_long_prompt_is_computed(backend: LlamaBackend) -> None:
    order = []

    async def run(name: str, request: object) -> None:
        await ask(backend, request)  # type: ignore[arg-type]
        order.append(name)

    long = asyncio.create_task(run("long", completion("tick tock " * 500, max_tokens=1)))
    await asyncio.sleep(0.1)
    await run("short", completion("Hello", max_tokens=4))
    await long
    assert order == ["short", "long"]


# -- going away ------------------------------------------------------------------------------------------------------


async def test_cancelling_frees_the_sequence(backend: LlamaBackend) -> None:
    async with aclosing(backend.generate(chat(STORY, max_tokens=4000, ignore_eos=True))) as events:
        async for event in events:
            if isinstance(event, Chunk):
                break
    await idle(backend)


async def test_cancelling_in_the_middle_of_a_prefill(backend: LlamaBackend) -> None:
    before = backend.state().prompt_tokens_total
    task = asyncio.create_task(ask(backend, completion("sea wind " * 2500, max_tokens=1)))
    async with asyncio.timeout(20):
        while backend.state().prompt_tokens_total == before:
            await asyncio.sleep(0.005)
            if task.done():
                break
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await idle(backend)
    assert (await ask(backend, chat("Still there?"))).text()


async def test_many_that_come_and_go(backend: LlamaBackend) -> None:
    async def visit(i: int) -> None:
        async with aclosing(
            backend.generate(chat(f"{i} {STORY}", n=1 + i % 2, max_tokens=60, ignore_eos=True))
        ) as events:
            async for event in events:
                if isinstance(event, Usage) or (isinstance(event, Chunk) and i % 3 and len(event.text) % 5 == i % 5):
                    break

    await asyncio.gather(*(visit(i) for i in range(24)))
    await idle(backend)


# -- text ------------------------------------------------------------------------------------------------------------


async def test_characters_of_several_tokens_are_whole(backend: LlamaBackend) -> None:
    """Cut after every token count: a cut character is left out, never shown as U+FFFD."""
    prompt = "😀🎉🚀😀🎉🚀😀🎉🚀😀🎉🚀😀🎉🚀 你好世界你好世界你好世界你好世界"
    shown = [(await ask(backend, completion(prompt, max_tokens=n, ignore_eos=True))).text() for n in range(1, 12)]
    assert "�" not in "".join(shown)
    assert any(ord(c) > 0x2000 for c in shown[-1]), "the model said nothing but ASCII: the test shows nothing"
    assert all(b.startswith(a) for a, b in pairwise(shown))
    assert any(a == b for a, b in pairwise(shown)), "no character took several tokens"


async def test_the_state_is_told(backend: LlamaBackend) -> None:
    await ask(backend, chat("hello"))
    s = backend.state()
    assert (s.status, s.detail, s.context_length) == ("ready", "", 8192)
    assert s.pid
    assert s.memory_bytes > 50e6
    assert s.kv_cells >= s.kv_cells_used > 0
    assert s.completion_tokens_total > 0
    assert s.decode_rate > 0
    assert s.prefill_rate > 0
    assert s.threads >= 1


async def test_what_a_burst_just_submitted_is_in_its_backlog_once(backend: LlamaBackend) -> None:
    """The engine's own figures come some ten times a second; a burst must not see an empty queue meanwhile."""
    requests = [completion(f"{i} " * 300, max_tokens=2) for i in range(5)]
    counts = [await backend.count(request) for request in requests]
    needed = sum(count.tokens - count.cached for count in counts)
    before = backend.state()
    assert (before.waiting, before.running, before.backlog_tokens) == (0, 0, 0)

    tasks = [asyncio.create_task(ask(backend, request)) for request in requests]
    while backend.state().waiting + backend.state().running < len(requests):
        await asyncio.sleep(0)
    assert backend.state().backlog_tokens == needed
    most = 0
    while not all(task.done() for task in tasks):
        most = max(most, backend.state().backlog_tokens)
        assert backend.state().waiting + backend.state().running <= len(requests)
        await asyncio.sleep(0.01)
    assert most <= needed
    after = backend.state()
    assert (after.waiting, after.running, after.backlog_tokens) == (0, 0, 0)


async def test_another_request_of_the_same_name_is_not_answered_in_its_place(backend: LlamaBackend) -> None:
    story, other = chat(STORY), chat("Hi")
    await backend.count(replace(story, id=other.id))  # and never asked
    answer = await ask(backend, other)
    assert answer.total
    assert answer.total.prompt_tokens == (await backend.count(chat("Hi"))).tokens
    assert answer.text() == (await ask(backend, chat("Hi"))).text()


async def test_what_is_counted_as_cached_is_not_computed(backend: LlamaBackend) -> None:
    request = completion("A sentence that nobody has asked about. " * 40, max_tokens=2)
    first = await backend.count(request)
    await ask(backend, request)
    again = await backend.count(request)
    assert first.cached < first.tokens // 2
    assert again.cached == again.tokens - ALWAYS_COMPUTED
    assert (await ask(backend, request)).total.cached_tokens == again.cached


async def test_several_prompts_are_cached_together(backend: LlamaBackend) -> None:
    request = completion("The first of two prompts, of its own.", "Another one, no less.", max_tokens=2)
    await ask(backend, request)
    count = await backend.count(request)
    assert count.tokens < count.cached < 2 * count.tokens
