"""Answers that must have a form, by a provider that only promises it: validated, repaired once, or given to the box."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import orjson
import pytest

from backends.fake import FakeBackend, say
from backends.types import Chunk, Usage
from tests.conftest import Starter
from tests.remote.conftest import REMOTE_MODEL
from tests.remote.fault_proxy import DONE, STREAM, USAGE, Act, FaultProxy, delta, event, refusal, stream, whole
from tests.routing.conftest import M, Opened, Whole, provider, until

pytestmark = pytest.mark.anyio

SCHEMA = {
    "type": "object",
    "properties": {"severity": {"enum": ["low", "high"]}, "spare": {"type": "boolean"}},
    "required": ["severity", "spare"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "finding", "schema": SCHEMA}}
GOOD, BAD = '{"severity":"high","spare":true}', '{"severity":"urgent","spare":true}'
ABLE = frozenset({"structured_output", "tools"})
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        "strict": True,
    },
}


def said(text: str = "", streamed: bool = False, finish: str = "stop", **message: Any) -> Act:
    """A provider's answer, streamed in two pieces or whole."""
    if streamed:
        half = len(text) // 2
        deltas = [delta(piece) for piece in (text[:half], text[half:]) if piece]
        if calls := message.get("tool_calls"):
            deltas.append(delta(tool_calls=[{"index": at, **call} for at, call in enumerate(calls)]))
        usage = event({"id": "c1", "choices": [], "usage": USAGE})
        return stream(*deltas, delta(finish=finish), usage, DONE)
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}
    return Act(body=(orjson.dumps({"id": "c1", "choices": [choice], "usage": USAGE}),))


def call(arguments: str, name: str = "get_weather") -> dict[str, Any]:
    return {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}


def box() -> FakeBackend:
    return FakeBackend("m", say(GOOD), capabilities=ABLE)


def text_of(body: bytes, streamed: bool) -> str:
    """What the client was told."""
    if not streamed:
        return str(orjson.loads(body)["choices"][0]["message"]["content"])
    frames = [orjson.loads(line[6:]) for line in body.split(b"\n\n") if line.startswith(b"data: {")]
    return "".join(c["delta"].get("content") or "" for frame in frames for c in frame["choices"])


async def ask(gateway: Whole, streamed: bool = False, **fields: Any) -> Any:
    fields = {"outstation": {"locality": "prefer_remote"}, "response_format": FORMAT, **fields}
    return await gateway.ask(stream=streamed, **fields)


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_wrong_answer_is_repaired_by_its_provider(site: Opened, streamed: bool) -> None:
    plan = [said(BAD, streamed), said(GOOD, streamed)]
    async with (
        FaultProxy(plan=plan) as proxy,
        site(box(), config=provider("acme", proxy.url, price=1.0)) as gateway,
    ):
        begun = await ask(gateway, streamed)
        assert (begun.status, text_of(begun.body, streamed)) == (200, GOOD)
        assert BAD.encode() not in begun.body
    assert begun.headers["x-outstation-route"] == "acme/large"
    assert begun.headers["x-outstation-attempts"] == "2"
    assert "acme/large failed: invalid_answer; " in begun.headers["x-outstation-reason"]
    assert begun.headers["x-outstation-reason"].endswith("; validated")
    first, second = (seen.json for seen in proxy.seen)
    assert second["messages"][: len(M)] == first["messages"] == M
    answer, complaint = second["messages"][len(M) :]
    assert answer == {"role": "assistant", "content": BAD}
    assert "$.severity breaks `enum`" in complaint["content"]
    assert second["response_format"] == first["response_format"]
    (row,) = gateway.decisions()
    assert [(route, code) for route, code, _ in row.attempts] == [
        ("acme/large", "invalid_answer"),
        ("acme/large", "ok"),
    ]
    assert row.cost == pytest.approx(2 * USAGE["total_tokens"] / 1e6)
    assert len(gateway.ledger()) == 2


@pytest.mark.parametrize("streamed", [False, True])
async def test_what_stays_wrong_is_answered_by_who_enforces_it(site: Opened, streamed: bool) -> None:
    async with (
        FaultProxy(usual=said(BAD, streamed)) as proxy,
        FaultProxy(usual=said(GOOD, streamed)) as other,
        site(box(), config=provider("acme", proxy.url, quality=2) + provider("zeta", other.url)) as gateway,
    ):
        begun = await ask(gateway, streamed)
    assert (begun.status, text_of(begun.body, streamed)) == (200, GOOD)
    assert begun.headers["x-outstation-route"] == "local/m"
    assert begun.headers["x-outstation-attempts"] == "3"
    assert (len(proxy.seen), other.seen) == (2, [])  # who only promises as well is not asked


@pytest.mark.parametrize(
    ("policy", "asked", "route"), [("repair", 2, "acme/large"), ("escalate", 1, "local/m"), ("fail", 1, "acme/large")]
)
async def test_the_operator_says_what_follows(site: Opened, policy: str, asked: int, route: str) -> None:
    async with FaultProxy(plan=[said(BAD), said(GOOD)]) as proxy:
        config = provider("acme", proxy.url) + f'[routing]\non_invalid = "{policy}"\n'
        async with site(box(), config=config) as gateway:
            begun = await ask(gateway)
    assert begun.status == (503 if policy == "fail" else 200)
    assert (len(proxy.seen), begun.headers["x-outstation-route"]) == (asked, route)


async def test_without_a_box_that_can_an_escalation_is_a_repair(site: Opened) -> None:
    async with FaultProxy(plan=[said(BAD), said(GOOD)]) as proxy:
        config = provider("acme", proxy.url) + '[routing]\non_invalid = "escalate"\n'
        async with site(FakeBackend("m"), config=config) as gateway:
            begun = await ask(gateway)
    assert (begun.status, text_of(begun.body, False), len(proxy.seen)) == (200, GOOD, 2)


PATHS = {
    "/v1/chat/completions": {"messages": M, "response_format": FORMAT},
    "/v1/responses": {"input": "Hi", "text": {"format": {"type": "json_schema", "name": "f", "schema": SCHEMA}}},
    "/v1/messages": {
        "messages": M,
        "max_tokens": 50,
        "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
    },
}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("path", PATHS)
async def test_still_wrong_is_an_error_in_the_words_of_each_api(site: Opened, path: str, streamed: bool) -> None:
    async with (
        FaultProxy(usual=said(BAD, streamed)) as proxy,
        site(FakeBackend("m"), config=provider("acme", proxy.url)) as gateway,
    ):
        begun = await gateway.ask(path, model="acme/large", stream=streamed, **PATHS[path])
    assert begun.status == 503
    assert begun.headers["x-should-retry"] == "false"
    error = begun.json["error"]
    assert error["code"] == "invalid_answer"
    assert "$.severity breaks `enum`" in error["message"]
    assert "urgent" not in begun.body.decode()
    assert len(proxy.seen) == 2
    (row,) = gateway.decisions()
    assert (row.ending, row.error) == ("error", "invalid_answer")


async def test_of_several_choices_each_is_judged(site: Opened) -> None:
    choices = [
        {"index": at, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        for at, text in enumerate((GOOD, BAD))
    ]
    both = Act(body=(orjson.dumps({"choices": choices, "usage": USAGE}),))
    async with FaultProxy(usual=both) as proxy, site(FakeBackend("m"), config=provider("acme", proxy.url)) as gateway:
        begun = await ask(gateway, model="acme/large", n=2)
    assert begun.json["error"]["code"] == "invalid_answer"
    assert proxy.seen[1].json["messages"][-2]["content"] == BAD


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("answer", ["cut", "refusal"])
async def test_what_says_of_itself_that_it_is_none_passes(site: Opened, answer: str, streamed: bool) -> None:
    """A cut answer stays cut, a refusal a refusal: neither is mended into something else."""
    act = said('{"seve', streamed, finish="length")
    if answer == "refusal":
        act = stream(delta(refusal="No."), delta(finish="stop"), DONE) if streamed else said("", refusal="No.")
    async with FaultProxy(usual=act) as proxy, site(box(), config=provider("acme", proxy.url)) as gateway:
        begun = await ask(gateway, streamed)
    assert (begun.status, len(proxy.seen)) == (200, 1)
    assert (b'"length"' if answer == "cut" else b'"refusal":"No."') in begun.body


@pytest.mark.parametrize("enforces", [True, False])
async def test_a_stream_waits_for_its_judgement(site: Opened, enforces: bool) -> None:
    """One whose provider enforces the form does not."""
    held = asyncio.Event()
    last = delta(finish="stop") + event({"choices": [], "usage": USAGE}) + DONE
    act = Act(body=(delta(GOOD[:9]), delta(GOOD[9:]), last), headers=STREAM, held=held)
    async with FaultProxy(usual=act) as proxy:
        config = provider("acme", proxy.url)
        if enforces:
            config += 'enforces = ["structured_output"]\n'
        async with site(box(), config=config) as gateway:
            asked = {"model": "acme/large", "messages": M, "response_format": FORMAT, "stream": True}
            begun = gateway.begin(gateway.app, asked)
            if enforces:
                await begun.until_contains(b"severit")
            else:
                await until(proxy.began.is_set)
                await asyncio.sleep(0.05)
                assert (begun.began.is_set(), begun.body) == (False, b"")
            held.set()
            await begun.end()
    assert text_of(begun.body, True) == GOOD
    assert ("validated" in begun.headers["x-outstation-reason"]) is not enforces


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_wrong_call_goes_back_as_a_result(site: Opened, streamed: bool) -> None:
    plan = [
        said("Let me see.", streamed, "tool_calls", tool_calls=[call('{"town":"Paris"}')]),
        said("", streamed, "tool_calls", tool_calls=[call('{"city":"Paris"}')]),
    ]
    async with FaultProxy(plan=plan) as proxy, site(box(), config=provider("acme", proxy.url)) as gateway:
        fields = {"response_format": None, "tools": [WEATHER], "tool_choice": "required"}
        begun = await ask(gateway, streamed, **fields)
    assert b'{\\"city\\":\\"Paris\\"}' in begun.body
    assert b"town" not in begun.body
    turn, result = proxy.seen[1].json["messages"][len(M) :]
    assert turn["tool_calls"] == [call('{"town":"Paris"}')]
    assert result["tool_call_id"] == "call_1"
    assert 'arguments of get_weather: $ breaks `required`: ["city"]' in result["content"]


WRONG_CALLS = [
    ([], "required", "it calls no function"),
    ([call("{}", "get_news")], "auto", "not one of 'get_weather'"),
    ([call("{")], "auto", "it is no JSON"),
    ([call('{"city":"Paris"}'), {**call('{"city":"Rome"}'), "id": "call_2"}], "auto", "more than one"),
]


@pytest.mark.parametrize(("calls", "choice", "why"), WRONG_CALLS, ids=[why for *_, why in WRONG_CALLS])
async def test_calls_that_are_wrong(site: Opened, calls: list[Any], choice: str, why: str) -> None:
    act = said(
        "" if calls else "Hm.", finish="tool_calls" if calls else "stop", **({"tool_calls": calls} if calls else {})
    )
    async with FaultProxy(usual=act) as proxy, site(FakeBackend("m"), config=provider("acme", proxy.url)) as gateway:
        fields = {"tools": [WEATHER], "tool_choice": choice, "parallel_tool_calls": False, "response_format": None}
        begun = await ask(gateway, model="acme/large", **fields)
    assert (begun.status, begun.json["error"]["code"], len(proxy.seen)) == (503, "invalid_answer", 2)
    assert why in begun.json["error"]["message"]


async def test_text_before_a_call_that_need_not_come_is_streamed(site: Opened) -> None:
    """Only calls wait; one that is wrong after the text ends the stream with an error, and nothing is spliced in."""
    held = asyncio.Event()
    wrong = delta(tool_calls=[{"index": 0, **call('{"town":1}')}])
    act = Act(body=(delta("Let me"), wrong, delta(finish="tool_calls") + DONE), headers=STREAM, held=held)
    async with FaultProxy(usual=act) as proxy, site(box(), config=provider("acme", proxy.url)) as gateway:
        asked = {"model": "acme/large", "messages": M, "tools": [WEATHER], "stream": True}
        begun = gateway.begin(gateway.app, asked)
        await begun.until_contains(b"Let me")
        held.set()
        await begun.end()
    assert b"town" not in begun.body
    assert b'"code":"invalid_answer"' in begun.body
    assert b"[DONE]" not in begun.body
    assert len(proxy.seen) == 1


async def test_tools_that_nobody_must_hold_to_are_not_judged(site: Opened) -> None:
    loose = {"type": "function", "function": {**WEATHER["function"], "strict": False}}
    act = said("", finish="tool_calls", tool_calls=[call('{"town":"Paris"}')])
    async with FaultProxy(usual=act) as proxy, site(box(), config=provider("acme", proxy.url)) as gateway:
        begun = await ask(gateway, tools=[loose], response_format=None)
    assert (begun.status, len(proxy.seen)) == (200, 1)


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_repair_shows_no_more_than_was_shown(site: Opened, streamed: bool) -> None:
    mail = "anna.meyer@example.org"
    schema = {"type": "object", "properties": {"to": {"type": "string", "maxLength": 40}}, "required": ["to", "n"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    plan = [said('{"to":"[EMAIL_1]"}', streamed), said('{"to":"[EMAIL_1]","n":1}', streamed)]
    async with (
        FaultProxy(plan=plan) as proxy,
        site(FakeBackend("m"), config=provider("acme", proxy.url, data='default = "redact"')) as gateway,
    ):
        messages = [{"role": "user", "content": f"Write to {mail}."}]
        begun = await ask(gateway, streamed, model="acme/large", messages=messages, response_format=wanted)
    assert text_of(begun.body, streamed) == f'{{"to":"{mail}","n":1}}'
    assert not any(mail.encode() in seen.body for seen in proxy.seen)
    assert proxy.seen[1].json["messages"][1]["content"] == '{"to":"[EMAIL_1]"}'
    assert all(row.redacted for row in gateway.ledger())


async def test_a_repair_must_be_affordable(site: Opened) -> None:
    """What the first answer cost is spent; the second one would be over the day's budget."""
    usage = {"prompt_tokens": 1000, "completion_tokens": 0, "total_tokens": 1000}
    choice = {"index": 0, "message": {"role": "assistant", "content": BAD}, "finish_reason": "stop"}
    dear = Act(body=(orjson.dumps({"choices": [choice], "usage": usage}),))
    async with FaultProxy(usual=dear) as proxy:
        config = provider("acme", proxy.url, price=1.0) + "[budget]\nsite_day = 0.00101\n"
        async with site(box(), config=config) as gateway:
            begun = await ask(gateway, max_tokens=50)
    assert (begun.status, begun.headers["x-outstation-route"], len(proxy.seen)) == (200, "local/m", 1)
    assert "not acme/large (budget" in begun.headers["x-outstation-reason"]


async def test_a_repair_that_fails_otherwise_ends_as_what_it_was_for(site: Opened) -> None:
    async with (
        FaultProxy(plan=[said(BAD)], usual=refusal(400, "too long")) as proxy,
        site(FakeBackend("m"), config=provider("acme", proxy.url)) as gateway,
    ):
        begun = await ask(gateway, model="acme/large")
    assert (begun.status, begun.json["error"]["code"], len(proxy.seen)) == (503, "invalid_answer", 2)


HARD = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)} | {"d40": {"type": "string"}}
UNJUDGEABLE = [
    ({"type": "string", "pattern": "(?=a)b"}, "pattern"),
    ({"properties": {"a": {"$ref": "https://elsewhere.example/s.json"}}}, "$ref"),
    ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, "$ref"),
    ({"$ref": "#/$defs/gone"}, "$ref"),
    ({"enum": ["x" * 64] * 5000}, "longer than"),
    ({"$ref": "#/$defs/d0", "$defs": HARD}, "of computing"),
    ({"type": "objct"}, "type"),
    ({"items": [{"type": "string"}]}, "items"),
    ({"properties": {"a": {"minItems": -1}}}, "minItems"),
    ({"unevaluatedProperties": False}, "unevaluatedProperties"),
]


@pytest.mark.parametrize(("schema", "named"), UNJUDGEABLE, ids=[str(n) for n in range(len(UNJUDGEABLE))])
async def test_a_schema_that_no_answer_can_be_judged_by(site: Opened, schema: Any, named: str) -> None:
    """It is refused before anything leaves; a provider that enforces schemas may know it."""
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    async with FaultProxy(usual=whole()) as proxy, FaultProxy(usual=whole("{}")) as able:
        config = provider("acme", proxy.url) + provider("zeta", able.url) + 'enforces = ["structured_output"]\n'
        async with site(FakeBackend("m"), config=config) as gateway:
            refused = await ask(gateway, model="acme/large", response_format=wanted)
            passed = await ask(gateway, model="zeta/large", response_format=wanted)
    error = refused.json["error"]
    assert (refused.status, error["code"], error["param"]) == (400, "unsupported_schema", "response_format")
    assert named in error["message"]
    assert (proxy.seen, passed.status) == ([], 200)


async def test_a_strict_function_that_cannot_be_judged(site: Opened) -> None:
    """What is not strict is held to as far as it can be."""
    odd = {**WEATHER["function"], "parameters": {"type": "object", "properties": {"a": {"pattern": "(?=a)b"}}}}
    act = said("", finish="tool_calls", tool_calls=[call('{"a":"x"}')])
    async with FaultProxy(usual=act) as proxy, site(FakeBackend("m"), config=provider("acme", proxy.url)) as gateway:
        answers = [
            await ask(
                gateway,
                model="acme/large",
                tools=[{"type": "function", "function": {**odd, "strict": strict}}],
                tool_choice="required",
                response_format=None,
            )
            for strict in (True, False)
        ]
    assert [begun.status for begun in answers] == [400, 200]
    assert "get_weather" in answers[0].json["error"]["message"]
    assert answers[0].json["error"]["param"] == "tools"
    assert len(proxy.seen) == 1


async def test_a_breaking_stream_is_nobodys_answer(site: Opened) -> None:
    """Held back, it can still be replaced."""
    broken = stream(delta(GOOD[:9]), cut_at=80)
    async with FaultProxy(usual=broken) as proxy, site(box(), config=provider("acme", proxy.url)) as gateway:
        begun = await ask(gateway, True)
    assert (text_of(begun.body, True), begun.headers["x-outstation-route"]) == (GOOD, "local/m")


async def test_the_boxs_own_answer_is_not_judged_twice(site: Opened) -> None:
    """Its decoder enforces the form."""
    local = FakeBackend("m", lambda _: [Chunk(0, "x", finish_reason="stop"), Usage(1, 1)], capabilities=ABLE)
    async with FaultProxy(usual=said(GOOD)) as proxy, site(local, config=provider("acme", proxy.url)) as gateway:
        begun = await ask(gateway, outstation={"locality": "prefer_local"})
    assert (text_of(begun.body, False), proxy.seen) == ("x", [])


def second_gateway(model: str) -> str:
    return f'[[models]]\nname = "{REMOTE_MODEL}"\nfile = "{model}"\nload = "start"\n'


async def test_a_real_gateway_repairs_what_it_is_told_of(
    site: Opened, start_gateway: Starter, remote_model_file: Any
) -> None:
    """A gateway of ours as the provider of another; the first answer is a double's."""
    upstream = start_gateway(second_gateway(str(remote_model_file)), wait_for="/readyz")
    double = said(BAD)
    async with FaultProxy(upstream.base_url, plan=[double]) as proxy:
        config = provider("acme", proxy.url, model=REMOTE_MODEL)
        async with site(FakeBackend("m"), config=config) as gateway, gateway.sdk() as sdk:
            asked = {
                "model": f"acme/{REMOTE_MODEL}",
                "messages": [{"role": "user", "content": "Pump P-7 leaks badly; a spare is here. Report as JSON."}],
                "response_format": FORMAT,
                "max_tokens": 60,
                "temperature": 0,
            }
            answer = await sdk.chat.completions.with_raw_response.create(**asked)
            assert answer.headers["x-outstation-attempts"] == "2"
            found = orjson.loads(answer.parse().choices[0].message.content or "")
            assert found.keys() == {"severity", "spare"}
            chunks = [chunk async for chunk in await sdk.chat.completions.create(stream=True, **asked)]
            text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
            assert orjson.loads(text).keys() == {"severity", "spare"}
            tools = {**asked, "response_format": openai.omit, "tools": [WEATHER], "tool_choice": "required"}
            made = await sdk.chat.completions.create(**tools)
            (called,) = made.choices[0].message.tool_calls or ()
            assert isinstance(orjson.loads(called.function.arguments)["city"], str)
    assert len(proxy.seen) == 4
