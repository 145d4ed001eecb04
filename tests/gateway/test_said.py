"""One reading of what local models and providers say."""

from __future__ import annotations

import pytest

from backends.remote.choices import Choices
from backends.types import Chunk, ToolDelta
from gateway.said import Said, said_by, said_of
from gateway.sse import Folded, fold

CALL = ToolDelta(0, "call_1", "get_weather", '{"city":')


def test_a_local_piece_is_what_it_is():
    chunk = Chunk(0, "Hello", reasoning="Hm.", tools=(CALL,), finish_reason="tool_calls")
    assert said_of(chunk) == Said("Hello", "Hm.", (CALL,), "tool_calls")


def test_a_local_answer_put_together():
    folded = [Folded()]
    for chunk in (
        Chunk(0, reasoning="H"),
        Chunk(0, "Hi", reasoning="m", tools=(CALL,)),
        Chunk(0, tools=(ToolDelta(0, arguments='"Paris"}'),), finish_reason="tool_calls"),
    ):
        fold(folded, chunk)
    call = ToolDelta(0, "call_1", "get_weather", '{"city":"Paris"}')
    assert said_by(folded[0]) == Said("Hi", "Hm", (call,), "tool_calls")


def told(*deltas, finish=None):
    """What a provider's stream says, through the reader of streams."""
    reader = Choices("chat", "acme")
    events = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    if finish:
        events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    return [said_of(chunk) for event in events for chunk in reader.deltas(event)]


def test_a_providers_stream():
    first = {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}
    said = told(
        {"role": "assistant", "reasoning_content": "Hm."},
        {"content": "Hi"},
        {"tool_calls": [first]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]},
        {"tool_calls": [{"index": 1, "id": "b", "function": {"name": "g", "arguments": "{"}}]},
        finish="tool_calls",
    )
    assert said == [
        Said(reasoning="Hm."),
        Said("Hi"),
        Said(tools=(ToolDelta(0, "a", "f"),)),
        Said(tools=(ToolDelta(0, arguments="{}"),)),
        Said(tools=(ToolDelta(1, "b", "g", "{"),)),
        Said(finish_reason="tool_calls"),
    ]


@pytest.mark.parametrize(
    ("delta", "said"),
    [
        ({"reasoning": "Hm."}, Said(reasoning="Hm.")),
        ({"reasoning": "Hm.", "reasoning_content": "Hm."}, Said(reasoning="Hm.")),
        ({"content": "Hi", "reasoning": {"effort": "low"}}, Said("Hi")),
        ({"refusal": "No."}, Said(refusal="No.")),
        ({"function_call": {"name": "f", "arguments": "{}"}}, Said(tools=(ToolDelta(0, "", "f", "{}"),))),
    ],
)
def test_what_providers_spell_otherwise(delta, said):
    assert told(delta) == [said]


def test_a_providers_whole_answer():
    function = {"name": "f", "arguments": {"a": 1}}
    message = {
        "role": "assistant",
        "content": None,
        "reasoning_content": "Hm.",
        "tool_calls": [{"id": "a", "function": function}, {"id": "b", "function": {"name": "g", "arguments": None}}],
    }
    (chunk,) = Choices("chat", "acme").whole({"choices": [{"message": message, "finish_reason": "tool_calls"}]})
    said = Said("", "Hm.", (ToolDelta(0, "a", "f", '{"a":1}'), ToolDelta(1, "b", "g")), "tool_calls")
    assert said_of(chunk) == said
    folded = [Folded()]
    fold(folded, chunk)
    assert said_by(folded[0]) == said
