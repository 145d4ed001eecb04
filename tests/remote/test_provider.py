"""A good provider: what is sent to it, and what its answers become. Part of it against a real server."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing

import orjson
import pytest

from backends.errors import InvalidRequest, Unavailable
from tests.remote.conftest import KEY, REMOTE_MODEL, BackendMaker, Departures, answer, ask
from tests.remote.fault_proxy import DONE, STREAM, Act, FaultProxy, delta, event, hello, refusal, stream, whole

pytestmark = pytest.mark.anyio


async def test_a_real_provider_streams_the_answer_that_it_gives_whole(
    make_backend: BackendMaker, real_provider: str
) -> None:
    async with FaultProxy(real_provider) as proxy:
        backend = make_backend(proxy.url, model=REMOTE_MODEL)
        streamed, at_once = [
            await answer(backend, ask(streamed, max_tokens=4, temperature=0)) for streamed in (True, False)
        ]
    assert streamed.error is None
    assert at_once.error is None
    assert streamed.text == at_once.text != ""
    assert len(streamed.chunks) > 2
    assert [chunk.finish_reason for chunk in streamed.chunks if chunk.finish_reason] == ["length"]
    assert at_once.usage.completion_tokens == 4
    assert at_once.usage.prompt_tokens > 4
    assert streamed.usage.completion_tokens > 0  # it does not count in streams: a guess


async def test_a_real_provider_completes(make_backend: BackendMaker, real_provider: str) -> None:
    async with FaultProxy(real_provider) as proxy:
        backend = make_backend(proxy.url, model=REMOTE_MODEL)
        fields = {"max_tokens": 3, "temperature": 0, "logprobs": 1}
        streamed, at_once = [await answer(backend, ask(streamed, "completion", **fields)) for streamed in (True, False)]
    assert streamed.text == at_once.text != ""
    assert {seen.path for seen in proxy.seen} == {"/v1/completions"}
    assert at_once.chunks[0].wire is not None
    assert len(at_once.chunks[0].wire["logprobs"]["tokens"]) == 3
    assert all(chunk.wire is not None for chunk in streamed.chunks if chunk.text)


async def test_a_real_providers_refusal_is_passed_on(make_backend: BackendMaker, real_provider: str) -> None:
    fields = {"messages": [{"role": "user", "content": "word " * 2100}]}
    async with FaultProxy(real_provider) as proxy:
        backend = make_backend(proxy.url, model=REMOTE_MODEL)
        refused = await answer(backend, ask(streamed=False, **fields))
        silent = await answer(backend, ask(**fields))
    assert isinstance(refused.error, InvalidRequest)
    assert (refused.error.code, refused.error.param) == ("context_length_exceeded", "messages")
    assert "2048 tokens" in refused.error.message
    # To a stream this server says 200, and then nothing: that must not look like an empty answer.
    assert silent.error is not None
    assert silent.error.code == "provider_broke"
    assert silent.events == []


async def test_a_real_stream_survives_any_cutting(make_backend: BackendMaker, real_provider: str) -> None:
    async with FaultProxy(real_provider) as proxy:
        backend = make_backend(proxy.url, model=REMOTE_MODEL)
        request = ask(max_tokens=3, temperature=0)
        plain = await answer(backend, request)
        for piece in (1, 7):
            proxy.usual = Act(piece=piece)
            assert (await answer(backend, request)).chunks == plain.chunks


async def test_what_the_client_sent_reaches_the_provider_untouched(make_backend: BackendMaker) -> None:
    fields = {"wild": {"deep": [1, None, "ü"]}, "outstation": {"locality": "only_remote"}, "service_tier": "flex"}
    async with FaultProxy(plan=[hello(), whole()]) as proxy:
        backend = make_backend(proxy.url, model="vendor/big-1")
        await answer(backend, ask(stream_options={"include_usage": False, "extra": 1}, **fields))
        await answer(backend, ask(streamed=False, **fields))
    first, second = (seen.json for seen in proxy.seen)
    for sent in (first, second):
        assert sent["model"] == "vendor/big-1"
        assert sent["wild"] == fields["wild"]
        assert sent["service_tier"] == "flex"
        assert sent["messages"] == [{"role": "user", "content": "Say hello."}]
        assert "outstation" not in sent
    assert first["stream_options"] == {"include_usage": True, "extra": 1}
    assert "stream_options" not in second
    assert all(seen.headers["authorization"] == f"Bearer {KEY}" for seen in proxy.seen)
    assert not any("outstation" in name for seen in proxy.seen for name in seen.headers)


async def test_usage_comes_once_last_and_with_all_that_was_said(make_backend: BackendMaker) -> None:
    async with FaultProxy(plan=[hello(), whole(), hello(leave_out=b'"usage"')]) as proxy:
        backend = make_backend(proxy.url)
        streamed = await answer(backend, ask())
        at_once = await answer(backend, ask(streamed=False))
        uncounted = await answer(backend, ask())
    assert streamed.text == at_once.text == "Grüße an alle 🙂"
    for usage in (streamed.usage, at_once.usage):
        assert (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens) == (7, 3, 4)
    assert streamed.usage.wire is not None
    assert streamed.usage.wire["system_fingerprint"] == "fp"
    assert uncounted.error is not None  # `"usage"` left out leaves no JSON


async def test_deltas_pass_with_all_that_a_text_cannot_say(make_backend: BackendMaker) -> None:
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}
    piece = {"index": 0, "function": {"arguments": '{"a":'}}
    logged = {"content": [{"token": "x", "logprob": -0.5, "bytes": None, "top_logprobs": []}]}
    pieces = (
        delta(role="assistant", tool_calls=[call]),
        delta(tool_calls=[piece]),
        delta(reasoning_content="hm"),
        delta(refusal="never"),
        event({"choices": [{"index": 0, "delta": {"content": "x"}, "logprobs": logged, "finish_reason": None}]}),
        event({"choices": [{"index": 0, "delta": {"content": "y"}, "finish_reason": None, "filter": {"a": 1}}]}),
        delta(finish="tool_calls"),
        DONE,
    )
    async with FaultProxy(plan=[stream(*pieces)]) as proxy:
        answered = await answer(make_backend(proxy.url), ask())
    wires = [chunk.wire for chunk in answered.chunks]
    assert [wire["delta"] for wire in wires[:4] if wire] == [
        {"tool_calls": [call]},  # without the role, which is ours to say
        {"tool_calls": [piece]},
        {"reasoning_content": "hm"},
        {"refusal": "never"},
    ]
    assert wires[4] is not None and wires[4]["logprobs"] == logged
    assert wires[5] is not None and wires[5]["filter"] == {"a": 1}
    assert answered.text == "xy"
    assert wires[6] is None
    assert answered.chunks[6].finish_reason == "tool_calls"


@pytest.mark.parametrize("reason", ["stop", "length", "tool_calls", "content_filter"])
async def test_every_choice_is_finished_in_the_providers_words(make_backend: BackendMaker, reason: str) -> None:
    pieces = [delta("a", index=1), delta("b"), delta(finish=reason, index=1), delta("c"), delta(finish="stop"), DONE]
    choices = [{"index": k, "message": {"content": "x"}, "finish_reason": reason} for k in (1, 0)]
    async with FaultProxy(plan=[stream(*pieces), stream(orjson.dumps({"choices": choices}))]) as proxy:
        backend = make_backend(proxy.url)
        streamed = await answer(backend, ask(n=2))
        at_once = await answer(backend, ask(streamed=False, n=2))
    assert streamed.error is None
    assert [(c.index, c.text, c.finish_reason) for c in streamed.chunks] == [
        (1, "a", None),
        (0, "b", None),
        (1, "", reason),
        (0, "c", None),
        (0, "", "stop"),
    ]
    assert sorted((c.index, c.finish_reason) for c in at_once.chunks) == [(0, reason), (1, reason)]


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_compressed_answer_is_read(make_backend: BackendMaker, streamed: bool) -> None:
    headers = (*(STREAM if streamed else ()), ("content-encoding", "gzip"))
    compressed = Act(body=(hello() if streamed else whole()).body, headers=headers, gzip=True)
    async with FaultProxy(usual=compressed) as proxy:
        answered = await answer(make_backend(proxy.url), ask(streamed))
    assert answered.error is None
    assert answered.text == "Grüße an alle 🙂"


async def test_connections_are_used_again(make_backend: BackendMaker) -> None:
    async with FaultProxy(usual=hello()) as proxy:
        backend = make_backend(proxy.url)
        for _ in range(3):
            assert (await answer(backend, ask())).finished
            await asyncio.sleep(0.01)  # the body's end may come after `[DONE]`
        proxy.usual = whole()
        for _ in range(3):
            assert (await answer(backend, ask(streamed=False))).finished
    assert proxy.connections == 1


async def test_nothing_leaves_without_the_boundary(make_backend: BackendMaker) -> None:
    departures = Departures()
    async with FaultProxy(plan=[refusal(500), hello(), hello()]) as proxy, FaultProxy(plan=[hello()]) as second:
        backend = make_backend(proxy.url, second.url, depart=departures)
        for _ in range(3):
            await answer(backend, ask())
        # A retry on the other endpoint and a connection that is used again are noted like a first send.
        hosts = [host for _, _, host, _ in departures.left]
        assert hosts == [f"127.0.0.1:{port}" for port in (proxy.port, second.port, proxy.port, proxy.port)]
        sizes = [len(seen.body) for seen in (*proxy.seen[:1], *second.seen, *proxy.seen[1:])]
        assert [size for _, _, _, size in departures.left] == sizes
        assert {(request, provider) for request, provider, _, _ in departures.left} == {("req-1", "cloud")}


async def test_the_boundary_stops_a_request_and_blames_nobody(make_backend: BackendMaker) -> None:
    stopped = Unavailable("not cleared", code="egress_denied")
    async with FaultProxy(usual=hello()) as proxy:
        backend = make_backend(proxy.url, depart=Departures(forbids=stopped))
        for _ in range(5):
            assert (await answer(backend, ask())).error is stopped
        assert proxy.connections == 0
        assert backend.provider.health() == ("", None)


async def test_the_key_is_shown_nowhere(make_backend: BackendMaker, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    quoting = f"your key {KEY} is bad"
    plan = [refusal(status, quoting, code=KEY, param=KEY) for status in (400, 401, 403, 404, 429, 500)]
    plan.append(stream(delta("a"), event({"error": {"message": quoting}})))
    async with FaultProxy(plan=list(plan)) as proxy:
        for _ in range(len(plan)):
            backend = make_backend(proxy.url)
            error = (await answer(backend, ask())).error
            assert error is not None
            said = f"{error!r} {error} {error.message} {error.code} {error.param} {error.extra} {error.__cause__!r}"
            assert KEY not in said
            assert KEY not in repr(backend.provider.settings)
            assert KEY not in f"{backend.health()} {backend.state()}"
    assert len(proxy.seen) == len(plan)
    assert KEY not in caplog.text


async def test_closing_the_answer_closes_the_connection(make_backend: BackendMaker) -> None:
    async with FaultProxy(usual=hello(stall_at=400)) as proxy:
        async with aclosing(make_backend(proxy.url).generate(ask())) as events:
            await anext(events)
            assert not proxy.hung_up.is_set()
        async with asyncio.timeout(5):
            await proxy.hung_up.wait()


@pytest.mark.parametrize("head", ["stall", ""])
@pytest.mark.parametrize("streamed", [True, False])
async def test_a_cancelled_request_is_cancelled_upstream(make_backend: BackendMaker, head: str, streamed: bool) -> None:
    async with FaultProxy(usual=hello(head=head, stall_at=10)) as proxy:
        backend = make_backend(proxy.url)
        asking = asyncio.create_task(answer(backend, ask(streamed)))
        async with asyncio.timeout(5):
            await proxy.began.wait()
            asking.cancel()
            await proxy.hung_up.wait()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert backend.provider.health() == ("", None)  # that was the client's doing


async def test_what_cannot_be_sent_is_no_departure(make_backend: BackendMaker) -> None:
    departures = Departures()
    backend = make_backend("http://a\u200bb.example/v1", depart=departures)
    answered = await answer(backend, ask())
    assert answered.error is not None
    assert answered.error.code == "provider_broke"
    assert departures.left == []
