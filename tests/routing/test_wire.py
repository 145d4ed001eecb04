"""What a provider says beyond text, as the official client puts it together: tool calls, choices, log-probabilities,
usage, fingerprints; redacted or not."""

from __future__ import annotations

from typing import Any

import httpx2
import orjson
import pytest

from backends.fake import FakeBackend, say
from tests.remote.fault_proxy import DONE, USAGE, Act, FaultProxy, delta, event, hello, refusal, stream, whole
from tests.routing.conftest import KEY, REMOTE, M, Opened, provider, told

pytestmark = pytest.mark.anyio

TOOLS = [{"type": "function", "function": {"name": "mail", "parameters": {"type": "object"}}}]
MAIL = "anna.meyer@example.org"


def part(index: int, arguments: str, **first: Any) -> bytes:
    function = {"arguments": arguments} | ({"name": first.pop("name")} if first else {})
    return delta(tool_calls=[{"index": index, **first, "function": function}])


def calling(*pieces: str, id: str = "call_a", **how: Any) -> Act:  # noqa: A002
    """Two tool calls at once, the first's arguments in these pieces."""
    return stream(
        delta(role="assistant", content=None),
        part(0, "", id=id, type="function", name="mail"),
        part(1, "", id=id + "2", type="function", name="mail"),
        *(part(0, piece) for piece in pieces),
        part(1, '{"to":"x"}'),
        delta(finish="tool_calls"),
        event({"choices": [], "usage": USAGE}),
        DONE,
        **how,
    )


def calls_of(chunks: list[Any]) -> dict[int, dict[str, str]]:
    """Tool calls as a client accumulates them. Whatever comes once only is added up as well: twice would show."""
    calls: dict[int, dict[str, str]] = {}
    for chunk in chunks:
        for choice in chunk.choices:
            for call in choice.delta.tool_calls or ():
                known = calls.setdefault(call.index, {"id": "", "name": "", "arguments": ""})
                known["id"] += call.id or ""
                known["name"] += call.function.name or ""
                known["arguments"] += call.function.arguments or ""
    return calls


@pytest.mark.parametrize("piece", [0, 5])
async def test_tool_calls_are_put_together(site: Opened, piece: int) -> None:
    says = calling('{"to":', '"[EM', 'AIL_1]","n":', "1}", piece=piece)
    async with FaultProxy(usual=says) as proxy:
        config = provider("acme", proxy.url, data='default = "redact"')
        async with site(FakeBackend("m"), config=config) as gateway, gateway.sdk() as sdk:
            messages = [{"role": "user", "content": f"Mail {MAIL}."}]
            seen = await told(sdk, True, messages=messages, tools=TOOLS)
            assert seen.error is None
            assert calls_of(seen.chunks) == {
                0: {"id": "call_a", "name": "mail", "arguments": orjson.dumps({"to": MAIL, "n": 1}).decode()},
                1: {"id": "call_a2", "name": "mail", "arguments": '{"to":"x"}'},
            }
            assert seen.finished == {0: "tool_calls"}
            # The SDK's own accumulation says the same.
            async with sdk.chat.completions.stream(model="auto", messages=messages, tools=TOOLS) as events:
                final = await events.get_final_completion()
    made = final.choices[0].message.tool_calls
    assert [call.id for call in made] == ["call_a", "call_a2"]
    assert orjson.loads(made[0].function.arguments) == {"to": MAIL, "n": 1}
    assert MAIL.encode() not in b"".join(request.body for request in proxy.seen)


async def test_the_result_goes_back_to_who_asked(site: Opened) -> None:
    """Though another provider is preferred, and well again; and the next question goes to that one again."""
    async with (
        FaultProxy(plan=[refusal(500)], usual=whole("from first")) as first,
        FaultProxy(plan=[calling('{"to":"y"}', id="call_b")], usual=whole("from second")) as second,
    ):
        config = provider("first", first.url, quality=2) + provider("second", second.url)
        async with site(FakeBackend("m"), config=config) as gateway, gateway.sdk() as sdk:
            asked = await told(sdk, True, tools=TOOLS)
            (call, _) = calls_of(asked.chunks).values()
            function = {"name": call["name"], "arguments": call["arguments"]}
            results = [
                *M,
                {"role": "assistant", "tool_calls": [{"id": call["id"], "type": "function", "function": function}]},
                {"role": "tool", "tool_call_id": call["id"], "content": "sent"},
            ]
            assert (await told(sdk, False, messages=results, tools=TOOLS)).text == "from second"
            more = [*results, {"role": "assistant", "content": "Done."}, *M]
            assert (await told(sdk, False, messages=more, tools=TOOLS)).text == "from first"
    assert second.seen[1].json["messages"] == results
    assert "tool call" in " ".join(gateway.decisions()[1].reasons)


async def test_a_whole_tool_call(site: Opened) -> None:
    call = {"id": "call_c", "type": "function", "function": {"name": "mail", "arguments": '{"to":"[EMAIL_1]"}'}}
    choice = {"index": 0, "message": {"role": "assistant", "content": None, "tool_calls": [call]}}
    body = {"choices": [{**choice, "finish_reason": "tool_calls"}], "usage": USAGE, "system_fingerprint": "fp_7"}
    async with FaultProxy(usual=Act(body=(orjson.dumps(body),))) as proxy:
        config = provider("acme", proxy.url, data='default = "redact"')
        async with site(FakeBackend("m"), config=config) as gateway, gateway.sdk() as sdk:
            made = await sdk.chat.completions.create(
                model="auto", messages=[{"role": "user", "content": f"Mail {MAIL}"}], tools=TOOLS
            )
    assert made.system_fingerprint == "fp_7"
    assert made.choices[0].finish_reason == "tool_calls"
    assert made.choices[0].message.content is None
    (called,) = made.choices[0].message.tool_calls
    assert (called.id, called.function.arguments) == ("call_c", orjson.dumps({"to": MAIL}).decode())


async def test_two_choices_at_once(site: Opened) -> None:
    says = stream(
        delta(role="assistant"),
        delta("a", index=1),
        delta("b"),
        delta("c", index=1, finish="length"),
        delta("d"),
        delta(finish="stop"),
        DONE,
    )
    async with FaultProxy(usual=says) as proxy, site(FakeBackend("m"), config=provider("acme", proxy.url)) as gateway:
        seen = await told(gateway.sdk(), True, n=2, model="acme/large")
    assert seen.texts == {0: "bd", 1: "ac"}
    assert seen.finished == {0: "stop", 1: "length"}
    roles = [c.index for chunk in seen.chunks for c in chunk.choices if c.delta.role]
    assert sorted(roles) == [0, 1]
    assert proxy.seen[0].json["n"] == 2


@pytest.mark.parametrize("redacted", [False, True])
async def test_logprobs_pass_unless_they_would_spell_a_placeholder(site: Opened, redacted: bool) -> None:
    text = "[EMAIL_1]" if redacted else "Hi"
    logprobs = {"content": [{"token": text, "logprob": -0.5, "bytes": None, "top_logprobs": []}], "refusal": None}
    choice = {"index": 0, "delta": {"content": text}, "logprobs": logprobs, "finish_reason": None}
    says = stream(event({"choices": [choice]}), delta(finish="stop"), DONE)
    async with FaultProxy(usual=says) as proxy:
        config = provider("acme", proxy.url, data='default = "redact"')
        async with site(FakeBackend("m"), config=config) as gateway, gateway.sdk() as sdk:
            messages = [{"role": "user", "content": f"Who is {MAIL}?" if redacted else "Hello"}]
            seen = await told(sdk, True, model="acme/large", messages=messages, logprobs=True)
    assert seen.text == (MAIL if redacted else "Hi")
    said = [e.token for chunk in seen.chunks for c in chunk.choices if c.logprobs for e in c.logprobs.content]
    assert said == ([] if redacted else ["Hi"])


@pytest.mark.parametrize("include", [True, False, None])
@pytest.mark.parametrize("counts", [True, False])
async def test_usage_once_where_asked_for_and_nowhere_else(site: Opened, include: bool | None, counts: bool) -> None:
    """Whether the provider counts or not."""
    pieces = hello().body
    assert pieces is not None
    says = hello() if counts else stream(*(piece for piece in pieces if b'"usage"' not in piece))
    async with FaultProxy(usual=says) as proxy, site(FakeBackend("m"), config=provider("acme", proxy.url)) as gateway:
        options = {} if include is None else {"stream_options": {"include_usage": include}}
        begun = await gateway.ask(stream=True, model="acme/large", **options)
    events = [orjson.loads(line[6:]) for line in begun.body.split(b"\n\n") if line.startswith(b"data: {")]
    with_usage = [one for one in events if one.get("usage")]
    assert len(with_usage) == bool(include)
    assert all(("usage" in one) == bool(include) for one in events)
    if include:
        assert events[-1] is with_usage[0]
        assert events[-1]["choices"] == []
        assert counts == (events[-1]["usage"] == USAGE)
    assert proxy.seen[0].json["stream_options"] == {"include_usage": True}


async def test_bodies_keep_what_a_provider_adds(site: Opened) -> None:
    (plain,) = whole().body or ()
    body = {**orjson.loads(plain), "system_fingerprint": "fp_1", "service_tier": "flex", "vendor": {"a": [1]}}
    says = Act(body=(orjson.dumps(body),))
    async with FaultProxy(usual=says) as proxy, site(FakeBackend("m"), config=provider("acme", proxy.url)) as gateway:
        begun = await gateway.ask(model="acme/large")
    said = begun.json
    assert {key: said[key] for key in ("system_fingerprint", "service_tier", "vendor")} == {
        "system_fingerprint": "fp_1",
        "service_tier": "flex",
        "vendor": {"a": [1]},
    }
    assert said["usage"] == USAGE
    assert said["model"] == "acme/large"
    assert said["id"].startswith("chatcmpl-")


async def test_what_a_server_repeats_or_leaves_out_is_put_right(site: Opened) -> None:
    """Its id and name in each piece, arguments as an object, empty lists, keys that are missing."""
    first = {"index": 0, "id": "call_a", "type": "function", "function": {"name": "mail", "arguments": '{"to":'}}
    says = stream(
        event({"choices": [{"delta": {"role": "assistant", "content": "", "tool_calls": []}}]}),
        event({"choices": [{"delta": {"tool_calls": [first]}}]}),
        event({"choices": [{"delta": {"tool_calls": [{**first, "function": {"name": "mail", "arguments": "1}"}}]}}]}),
        event({"choices": [{"delta": {"tool_calls": [{"id": "b", "function": {"name": "mail", "arguments": {}}}]}}]}),
        event({"choices": [{"finish_reason": "tool_calls"}]}),
        DONE,
    )
    message = {"content": "x", "tool_calls": []}
    at_once = Act(body=(orjson.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}),))
    async with (
        FaultProxy(plan=[says, at_once]) as proxy,
        site(FakeBackend("m"), config=provider("acme", proxy.url)) as gateway,
    ):
        seen = await told(gateway.sdk(), True, model="acme/large", tools=TOOLS)
        made = (await gateway.ask(model="acme/large")).json
    assert seen.error is None
    assert calls_of(seen.chunks) == {
        0: {"id": "call_a", "name": "mail", "arguments": '{"to":1}'},
        1: {"id": "b", "name": "mail", "arguments": "{}"},
    }
    assert seen.finished == {0: "tool_calls"}
    raw = [choice.model_dump(exclude_unset=True) for chunk in seen.chunks for choice in chunk.choices]
    assert all(choice.keys() >= {"index", "delta", "logprobs", "finish_reason"} for choice in raw)
    assert [] not in [choice["delta"].get("tool_calls") for choice in raw]
    said = {"role": "assistant", "content": "x", "refusal": None}
    assert made["choices"] == [{"index": 0, "message": said, "logprobs": None, "finish_reason": "stop"}]


@pytest.mark.parametrize("usage", [{**USAGE, "completion_tokens": -3}, {**USAGE, "prompt_tokens": 10**12}, 7, "x"])
@pytest.mark.parametrize("stream_", [False, True])
async def test_a_usage_that_cannot_be_is_guessed(site: Opened, stream_: bool, usage: object) -> None:
    (plain,) = whole().body or ()
    says = Act(body=(orjson.dumps({**orjson.loads(plain), "usage": usage}),))
    if stream_:
        says = stream(delta("Hi"), delta(finish="stop"), event({"choices": [], "usage": usage}), DONE)
    async with FaultProxy(usual=says) as proxy, site(FakeBackend("m"), config=provider("acme", proxy.url)) as gateway:
        options = {"stream_options": {"include_usage": True}} if stream_ else {}
        begun = await gateway.ask(stream=stream_, model="acme/large", **options)
    body = orjson.loads(begun.body.split(b"\n\n")[-3][6:]) if stream_ else begun.json
    assert 0 < body["usage"]["prompt_tokens"] < 1000
    assert 0 < body["usage"]["completion_tokens"] < 1000


@pytest.mark.parametrize("stream_", [False, True])
async def test_additions_pass_with_the_originals_in_them(site: Opened, stream_: bool) -> None:
    more = {"citations": [{"title": "on [EMAIL_1]", "score": 1}], "system_fingerprint": "fp"}
    (plain,) = whole("[EMAIL_1]").body or ()
    says = Act(body=(orjson.dumps({**orjson.loads(plain), **more}),))
    if stream_:
        first = event({**more, "choices": [{"index": 0, "delta": {"content": "[EMAIL_1]"}, "finish_reason": None}]})
        says = stream(first, delta(finish="stop"), event({"choices": [], "usage": USAGE}), DONE)
    async with FaultProxy(usual=says) as proxy:
        config = provider("acme", proxy.url, data='default = "redact"')
        async with site(FakeBackend("m"), config=config) as gateway:
            messages = [{"role": "user", "content": f"Who is {MAIL}?"}]
            options = {"stream_options": {"include_usage": True}} if stream_ else {}
            begun = await gateway.ask(stream=stream_, model="acme/large", messages=messages, **options)
    body = orjson.loads(begun.body.split(b"\n\n")[-3][6:]) if stream_ else begun.json
    assert body["citations"] == [{"title": f"on {MAIL}", "score": 1}]
    assert (body["system_fingerprint"], body["usage"]) == ("fp", USAGE)
    assert MAIL.encode() not in b"".join(request.body for request in proxy.seen)


async def test_results_in_the_metrics_are_bounded(site: Opened) -> None:
    """Though every refusal carries another word."""
    plan = [refusal(400, "no", code=f"word_{number}") for number in range(70)]
    async with FaultProxy(plan=plan) as proxy, site(FakeBackend("m"), config=provider("acme", proxy.url)) as gateway:
        for _ in range(70):
            assert (await gateway.ask(model="acme/large")).status == 400
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=gateway.app)) as client:
            text = (await client.get("http://localhost:8484/metrics")).text
    lines = [line for line in text.splitlines() if line.startswith("outstation_attempts_total{")]
    assert len(lines) == 65
    assert 'outstation_attempts_total{result="other",route="acme/large"} 6.0' in lines


@pytest.mark.parametrize("stream_", [False, True])
async def test_its_400_in_our_shape(site: Opened, stream_: bool) -> None:
    """Its words, code and field, but never the site's key; and nobody else is asked."""
    local = FakeBackend("m", say("here"))
    says = refusal(400, f"bad tool, key {KEY}", type="invalid_request_error", code="bad_tool", param="tools[0]")
    async with FaultProxy(usual=says) as proxy, site(local, config=provider("acme", proxy.url)) as gateway:
        begun = await gateway.ask(stream=stream_, outstation=REMOTE)
    assert begun.status == 400
    assert begun.headers["content-type"] == "application/json"
    assert begun.json["error"] == {
        "message": "acme: bad tool, key [key]",
        "type": "invalid_request_error",
        "param": "tools[0]",
        "code": "bad_tool",
    }
    assert local.requests == []
    assert len(proxy.seen) == 1
