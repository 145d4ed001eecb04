"""Laws of the parts that need no gateway: events and items, whatever comes in."""

from __future__ import annotations

import asyncio
import re

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from backends.errors import EngineFailed, InvalidRequest
from backends.types import Chunk, Request, Sampling, ToolDelta, Usage
from gateway.outcome import Outcome
from gateway.responses import asked
from gateway.responses.draft import Draft, blank
from gateway.responses.items import Placed, chat_of, items_of
from gateway.responses.turn import Turn
from gateway.schemas.chat import ChatRequest
from gateway.schemas.parse import check
from gateway.schemas.response_objects import ResponseObject
from gateway.schemas.responses_api import ResponsesRequest
from policies.base import Route

EVENT = TypeAdapter(ResponseStreamEvent)
TEXT = st.text(max_size=4)


def draft() -> Draft:
    raw = {"model": "m", "input": "Hi"}
    return Draft(blank("resp_1", asked.echo(check(ResponsesRequest, raw), raw, store=True), lambda: 0.0))


@st.composite
def answers(draw):
    """Chunks of an answer, told in any order, and how it finishes."""
    chunks, begun = [], 0
    for kind in draw(st.lists(st.sampled_from(["text", "thought", "both", "call", "more", "refusal"]), max_size=12)):
        if kind == "call":
            named = draw(st.booleans())
            chunks.append(Chunk(0, tools=(ToolDelta(begun, f"call_{begun}", "f" if named else "", draw(TEXT)),)))
            if not named:
                chunks.append(Chunk(0, tools=(ToolDelta(begun, name="f"),)))
            begun += 1
        elif kind == "more" and begun:
            chunks.append(Chunk(0, tools=(ToolDelta(draw(st.integers(0, begun - 1)), arguments=draw(TEXT)),)))
        elif kind == "refusal":
            chunks.append(Chunk(0, wire={"delta": {"refusal": draw(TEXT)}}))
        else:
            chunks.append(Chunk(0, draw(TEXT) if kind != "thought" else "", reasoning=draw(TEXT)))
    return chunks, draw(st.sampled_from(["stop", "length", "tool_calls", "content_filter"]))


def told(chunks, finish):
    made = draft()
    events = made.begin("m", Sampling(), enforced=True)
    for chunk in (*chunks, Chunk(0, finish_reason=finish)):
        events += made.feed(chunk)
    return made, [*events, *made.end(Usage(1, 2)), made.last()]


@given(answers())
def test_whatever_is_said_the_events_add_up(answer):
    made, events = told(*answer)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    response = events[-1]["response"]
    assert response == made.object()
    ResponseObject.model_validate(response)
    open_, texts, done = {}, {}, {}
    for event in events:
        kind, at = event["type"], event.get("output_index")
        if kind == "response.output_item.added":
            assert at == len(open_) + len(done)
            open_[at], texts[at] = event["item"]["id"], ""
        elif kind == "response.output_item.done":
            assert open_.pop(at) == event["item"]["id"]
            done[at] = event["item"]
        elif at is not None:
            assert event["item_id"] == open_[at]
        if kind.endswith(".delta"):
            texts[at] += event["delta"]
        elif kind.endswith(("_text.done", "refusal.done", "arguments.done")):
            assert texts[at] == event.get("text", event.get("refusal", event.get("arguments")))
    assert open_ == {}
    assert [done[at] for at in sorted(done)] == response["output"]


@settings(deadline=None)
@given(answers())
def test_the_sdk_reads_every_event_and_comes_to_the_same_end(answer):
    _, events = told(*answer)
    state = ResponseStreamState(input_tools=[], text_format=omit)
    for event in events:
        fired = state.handle_event(EVENT.validate_python(event))
    read = fired[-1].response.to_dict()["output"]
    for item in read:
        item.pop("parsed_arguments", None)
        for part in item.get("content") or ():
            part.pop("parsed", None)
    assert read == events[-1]["response"]["output"]


@settings(deadline=None)
@given(answers())
def test_the_short_way_tells_the_same(answer):
    """Deltas whose frame is built once are those that would be built anew."""
    chunks, finish = answer

    class Scripted:
        def bound_s(self, request):
            return 1.0

        async def answer(self, request, outcome):
            outcome.route = Route("local/m", "m", "local", 1, frozenset())
            for chunk in (*chunks, Chunk(0, finish_reason=finish)):
                yield chunk
            yield Usage(1, 2)

    async def framed():
        turn = Turn(Scripted(), draft(), {}, None, framed=True)
        frames = b""
        async for event in turn.answer(Request("r", "m", "chat", stream=True), Outcome("r")):
            frames += turn.closing(event) if isinstance(event, Usage) else turn.chunk(event)
        return frames

    def bare(events):
        """Without the ids, which are new each time."""
        known = {}
        text = orjson.dumps(events).decode()
        return re.sub(r"(msg|rs|fc)_[0-9a-f]{48}", lambda m: known.setdefault(m[0], f"{m[1]}{len(known)}"), text)

    read = [orjson.loads(frame.partition(b"\ndata: ")[2]) for frame in asyncio.run(framed()).split(b"\n\n")[:-1]]
    for event in (*read, *(events := told(*answer)[1])):
        if response := event.get("response"):
            response["completed_at"] = 0
    assert orjson.loads(bare(read)) == orjson.loads(bare(events))


@given(answers(), st.integers(0, 12))
def test_an_answer_that_broke_off_never_looks_whole(answer, after):
    made = draft()
    events = made.begin("m", Sampling(), enforced=True)
    for chunk in answer[0][:after]:
        events += made.feed(chunk)
    events += made.fail(EngineFailed("Broke."))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"] for event in events[-2:]] == ["error", "response.failed"]
    response = events[-1]["response"]
    ResponseObject.model_validate(response)
    assert response["status"] == "failed"
    assert response["usage"] is None
    done = [event["item"]["id"] for event in events if event["type"] == "response.output_item.done"]
    assert all(item["status"] == "incomplete" for item in response["output"] if item["id"] not in done)


ids = st.sampled_from(["a", "b", "c"])
ITEM = st.one_of(
    st.builds(lambda role: {"role": role, "content": "x"}, st.sampled_from(["user", "assistant", "system"])),
    st.builds(lambda id_: {"type": "function_call", "call_id": id_, "name": "f", "arguments": "{}"}, ids),
    st.builds(lambda id_: {"type": "function_call_output", "call_id": id_, "output": id_}, ids),
    st.just({"type": "reasoning", "summary": []}),
)


@given(st.lists(ITEM, max_size=10))
def test_items_become_a_chat_that_is_right_or_are_refused_at_their_place(items):
    placed = [Placed(item, f"input[{at}]") for at, item in enumerate(items_of(items))]
    calls = [item["call_id"] for item in items if item.get("type") == "function_call"]
    outputs = [item["call_id"] for item in items if item.get("type") == "function_call_output"]
    try:
        chat = chat_of(None, placed)
    except InvalidRequest as error:
        at = int(error.param.removeprefix("input[").partition("]")[0])
        assert items[at]["type"] in ("function_call", "function_call_output")
        paired = sorted(calls) == sorted(outputs) == sorted(set(calls))
        after = [items.index(item) for item in items if item.get("type") == "function_call_output"]
        before = {item["call_id"]: n for n, item in enumerate(items) if item.get("type") == "function_call"}
        assert not paired or any(before[items[n]["call_id"]] > n for n in after)
        return
    assert sorted(calls) == sorted(outputs)
    assert len(chat.places) == len(chat.messages)
    if chat.messages:
        check(ChatRequest, {"model": "m", "messages": chat.messages})
    told = [message["content"] for message in chat.messages if message["role"] in ("user", "system")]
    assert len(told) == sum(item.get("role") in ("user", "system") for item in items)


BODY = {
    "model": "m",
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "x"},
    ],
    "instructions": "x",
    "tools": [{"type": "function", "name": "f", "parameters": {}}],
    "tool_choice": {"type": "function", "name": "f"},
    "text": {"format": {"type": "json_schema", "name": "x", "schema": {}}},
    "reasoning": {"effort": "low"},
    "metadata": {"a": "b"},
    "top_logprobs": 1,
}
JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 3), st.text(max_size=3), st.just([]), st.just({}), st.just([None]),
    st.just({"type": "x"}), st.just({"type": 5}), st.just([{"type": []}]), st.floats(allow_nan=False, width=16),
)  # fmt: skip


def places(value, here=()):
    """Each place in a body."""
    yield here
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*here, key))


def changed(value, place, junk):
    if not place:
        return junk
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[place[0]] = changed(value[place[0]], place[1:], junk)
    return copy


@given(st.sampled_from([place for place in places(BODY) if place]), JUNK)
def test_no_nonsense_gets_further_than_a_clean_refusal(place, junk):
    raw = changed(BODY, place, junk)
    try:
        asked.refuse_unsupported(raw)
        wire = check(ResponsesRequest, raw)
        items = items_of(raw.get("input"))
        chat = chat_of(wire.instructions, [Placed(item, f"input[{at}]") for at, item in enumerate(items)])
        body = asked.chat_body(wire, raw, chat)
        asked.echo(wire, raw, store=True)
        check(ChatRequest, body)
    except InvalidRequest as error:
        refused = error
    else:
        return
    assert refused.param


@pytest.mark.parametrize("raw", [BODY, {"model": "m", "input": "Hi"}])
def test_what_is_right_is_accepted(raw):
    asked.refuse_unsupported(raw)
    wire = check(ResponsesRequest, raw)
    chat = chat_of(wire.instructions, [Placed(item, "input") for item in items_of(raw["input"])])
    check(ChatRequest, asked.chat_body(wire, raw, chat))
