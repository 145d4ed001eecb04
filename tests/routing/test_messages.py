"""Anthropic's dialect on its way to a provider that speaks OpenAI's: what leaves, and what comes back of it."""

from __future__ import annotations

from functools import partial
from typing import Any

import orjson
import pytest

from backends.fake import FakeBackend, say
from tests.gateway.test_messages import WEATHER, events
from tests.remote.fault_proxy import DONE, USAGE, Act, FaultProxy, delta, event, hello, refusal, stream, whole
from tests.routing.conftest import Opened, Whole, provider

pytestmark = pytest.mark.anyio

MAIL = "anna.meyer@example.org"
PLACE = "[EMAIL_1]"
REDACT = 'email = "redact", default = "allow"'
CALL = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": ""}}
TEXT = [{"role": "user", "content": "Hello"}]


async def ask(gateway: Whole, messages: Any = TEXT, **fields: Any) -> Any:
    """One message from the provider's model."""
    asked = {"model": "acme/large", "max_tokens": 50, "messages": messages, **fields}
    return await gateway.ask("/v1/messages", **asked)


def message_of(begun: Any) -> dict[str, Any]:
    """The message, however it came."""
    assert begun.status == 200, begun.body
    if not begun.headers["content-type"].startswith("text/event-stream"):
        return dict(begun.json)
    told = events(begun.body)
    message = dict(told[0]["message"])
    arguments: dict[int, str] = {}
    for one in told:
        match one:
            case {"type": "content_block_start"}:
                message["content"].append(dict(one["content_block"]))
            case {"type": "content_block_delta", "delta": {"type": "input_json_delta"}, "index": at}:
                arguments[at] = arguments.get(at, "") + one["delta"]["partial_json"]
                message["content"][at]["input"] = arguments[at]
            case {"type": "content_block_delta", "delta": {"type": kind}, "index": at}:
                field = kind.removesuffix("_delta")
                message["content"][at][field] += one["delta"][field]
            case {"type": "message_delta"}:
                message |= {**one["delta"], "usage": one["usage"]}
    for at, text in arguments.items():
        message["content"][at]["input"] = orjson.loads(text)
    return message


def thoughtful(*, streamed: bool) -> Act:
    """Thinks, speaks, and calls with the placeholder that it was given."""
    arguments = f'{{"city": "{PLACE}"}}'
    if not streamed:
        function = {"name": "get_weather", "arguments": arguments}
        message = {
            "role": "assistant",
            "content": f"To {PLACE}.",
            "reasoning_content": f"It is {PLACE}.",
            "tool_calls": [{**CALL, "function": function}],
        }
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
        return Act(body=(orjson.dumps({"id": "c", "choices": [choice], "usage": USAGE}),))
    pieces = [arguments[i : i + 4] for i in range(0, len(arguments), 4)]
    return stream(
        delta(role="assistant"),
        delta(reasoning_content="It is [EMA"),
        delta(reasoning_content="IL_1]."),
        delta("To [EMAIL"),
        delta("_1]."),
        delta(tool_calls=[{"index": 0, **CALL}]),
        *(delta(tool_calls=[{"index": 0, "function": {"arguments": piece}}]) for piece in pieces),
        delta(finish="tool_calls"),
        event({"id": "c", "choices": [], "usage": USAGE}),
        DONE,
    )


@pytest.mark.parametrize("streamed", [False, True])
async def test_what_is_private_is_redacted_and_restored_in_every_block(site: Opened, streamed: bool) -> None:
    history = [
        {"role": "user", "content": [{"type": "text", "text": f"Weather at {MAIL}?"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": f"Who is {MAIL}?", "signature": ""},
                {"type": "tool_use", "id": "t1", "name": "get_weather", "input": {"city": MAIL}},
            ],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": f"None for {MAIL}."}]},
    ]
    config = partial(provider, "acme", data=REDACT)
    async with FaultProxy(usual=thoughtful(streamed=streamed)) as proxy, site(config=config(proxy.url)) as gateway:
        begun = await ask(gateway, history, tools=[WEATHER], system=f"Serve {MAIL}.", stream=streamed)
    message = message_of(begun)
    assert message["content"] == [
        {"type": "thinking", "thinking": f"It is {MAIL}.", "signature": ""},
        {"type": "text", "text": f"To {MAIL}."},
        {"type": "tool_use", "id": "call_1", "name": "get_weather", "input": {"city": MAIL}},
    ]
    assert (message["stop_reason"], message["model"]) == ("tool_use", "acme/large")
    assert message["usage"] == {
        "input_tokens": 3,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 4,
        "output_tokens": 3,
    }
    (seen,) = proxy.seen
    assert seen.path == "/v1/chat/completions"
    assert MAIL.encode() not in seen.body
    assert [m["role"] for m in seen.json["messages"]] == ["system", "user", "assistant", "tool"]
    assert seen.json["messages"][3] == {"role": "tool", "tool_call_id": "t1", "content": f"None for {PLACE}."}
    assert "reasoning_content" not in seen.json["messages"][2]
    assert seen.json["model"] == "large"
    (row,) = gateway.decisions()
    assert (row.endpoint, row.redacted, row.data_classes) == ("/v1/messages", True, ("email",))


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("told", "stop"), [({}, None), ({"stop_reason": "END"}, "END"), ({"stop_reason": 128001}, None)]
)
async def test_which_stop_sequence_is_told_only_if_the_provider_does(
    site: Opened, told: dict[str, Any], stop: str | None, streamed: bool
) -> None:
    choice = {"index": 0, "finish_reason": "stop", **told}
    act = Act(body=(orjson.dumps({"choices": [{**choice, "message": {"content": "Hi"}}], "usage": USAGE}),))
    if streamed:
        act = stream(delta("Hi"), event({"choices": [{**choice, "delta": {}}]}), DONE)
    async with FaultProxy(usual=act) as proxy, site(config=provider("acme", proxy.url)) as gateway:
        message = message_of(await ask(gateway, stop_sequences=["END"], stream=streamed))
    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence" if stop else "end_turn", stop)
    assert proxy.seen[0].json["stop"] == ["END"]


@pytest.mark.parametrize("streamed", [False, True])
async def test_calls_without_ids_and_a_wrong_reason(site: Opened, streamed: bool) -> None:
    calls = [{"function": {"name": name, "arguments": "{}"}} for name in ("f", "g")]
    choice = {"index": 0, "message": {"content": None, "tool_calls": calls}, "finish_reason": "stop"}
    act = Act(body=(orjson.dumps({"choices": [choice], "usage": USAGE}),))
    if streamed:
        numbered = [{"index": i, **call} for i, call in enumerate(calls)]
        act = stream(*(delta(tool_calls=[call]) for call in numbered), delta(finish="stop"), DONE)
    async with FaultProxy(usual=act) as proxy, site(config=provider("acme", proxy.url)) as gateway:
        message = message_of(await ask(gateway, stream=streamed))
    assert [(block["name"], block["input"]) for block in message["content"]] == [("f", {}), ("g", {})]
    first, second = (block["id"] for block in message["content"])
    assert first.startswith("toolu_")
    assert first != second
    assert message["stop_reason"] == "tool_use"


@pytest.mark.parametrize("streamed", [False, True])
async def test_the_beginning_of_an_answer_stays_with_those_who_go_on_from_it(site: Opened, streamed: bool) -> None:
    box = FakeBackend("m", say(" Helios"), capabilities=frozenset({"continuation"}))
    begun_turn = [*TEXT, {"role": "assistant", "content": "It is"}]
    asked = {"model": "auto", "outstation": {"locality": "prefer_remote"}, "stream": streamed}
    act = hello() if streamed else whole()
    async with FaultProxy(usual=act) as proxy, site(box, config=provider("acme", proxy.url)) as gateway:
        message = message_of(await ask(gateway, begun_turn, **asked))
        assert message["content"] == [{"type": "text", "text": " Helios"}]
        assert proxy.seen == []
        refused = await ask(gateway, begun_turn)
        assert (refused.status, refused.json["error"]["param"]) == (400, "messages[1]")
    config = provider("acme", proxy.url).replace('["tools"', '["continuation", "tools"')
    async with FaultProxy(usual=act, port=proxy.port) as able, site(config=config) as gateway:
        assert message_of(await ask(gateway, begun_turn, stream=streamed))["content"][0]["text"].startswith("Grüße")
    assert able.seen[0].json["messages"][-1] == {"role": "assistant", "content": "It is"}


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_provider_that_refuses_or_breaks_off(site: Opened, streamed: bool) -> None:
    broken = hello(cut_at=400) if streamed else whole(cut_at=20)
    plan = [refusal(400, "No such thing."), broken, broken]
    async with FaultProxy(plan=plan, usual=broken) as proxy, site(config=provider("acme", proxy.url)) as gateway:
        refused = await ask(gateway, stream=streamed)
        assert refused.status == 400
        assert refused.json["error"]["type"] == "invalid_request_error"
        assert "No such thing." in refused.json["error"]["message"]
        cut = await ask(gateway, stream=streamed)
    if streamed:
        last = events(cut.body)[-1]
        assert (last["type"], last["error"]["code"]) == ("error", "provider_broke")
        assert b"message_stop" not in cut.body
    else:
        assert (cut.status, cut.json["error"]["code"]) == (503, "provider_broke")
