from dataclasses import replace
from itertools import pairwise

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.types import Chunk, TokenLogprob
from policies.restore import ChoiceRestorer, Restorer

ORIGINALS = {"[EMAIL_1]": 'bob"x"@example.com', "[EMAIL_12]": "eve@example.com", "[SECRET_1]": "a\nb\\c"}
PIECES = st.lists(
    st.sampled_from(
        [*ORIGINALS, "[email_1]", "[", "]", "[EMAIL_", "[EMAIL_3]", "[[EMAIL_1]]", "[EMAIL_1", " and ", "É"]
    )
)


def put_back(text):
    for name, value in [*ORIGINALS.items(), ("[email_1]", ORIGINALS["[EMAIL_1]"])]:
        text = text.replace(name, value)
    return text


def cut(draw, text):
    at = sorted(draw(st.sets(st.integers(0, len(text)))) | {0, len(text)})
    return [text[begin:end] for begin, end in pairwise(at)]


@given(st.data(), PIECES)
def test_however_the_text_is_cut_it_comes_out_the_same(data, pieces):
    text = "".join(pieces)
    restorer = Restorer(ORIGINALS)
    fed = [restorer.feed(piece) for piece in cut(data.draw, text)]
    assert "".join(fed) + restorer.flush() == Restorer(ORIGINALS).whole(text) == put_back(text)


@given(st.data(), st.text())
def test_a_text_without_placeholders_is_passed_on_whole(data, text):
    restorer = Restorer(ORIGINALS)
    assert "".join(map(restorer.feed, cut(data.draw, text))) + restorer.flush() == text


@given(st.data(), st.lists(st.sampled_from([*ORIGINALS, " and "])))
def test_in_arguments_the_original_is_escaped(data, pieces):
    value = "".join(pieces)
    restorer = Restorer(ORIGINALS, json_escaped=True)
    text = orjson.dumps({"a": value}).decode()
    assert orjson.loads("".join(map(restorer.feed, cut(data.draw, text))) + restorer.flush()) == {"a": put_back(value)}


@pytest.mark.parametrize(
    ("fed", "passed_on"),
    [
        ("x", "x"),
        ("x[", "x"),
        ("x[E", "x"),
        ("x[EMAIL_1", "x"),
        ("x[X", "x[X"),
        ("[[EM", "["),
        ("[EMAIL_9", "[EMAIL_9"),
    ],
)
def test_only_what_may_become_a_placeholder_is_kept_back(fed, passed_on):
    assert Restorer(ORIGINALS).feed(fed) == passed_on


def test_another_requests_placeholder_is_left_alone():
    assert Restorer({"[EMAIL_1]": "a@b.org"}).whole("[EMAIL_2] [EMAIL_11] EMAIL_1 [EMAİL_1]") == (
        "[EMAIL_2] [EMAIL_11] EMAIL_1 [EMAİL_1]"
    )


def test_an_original_that_looks_like_a_placeholder_is_not_restored_again():
    assert Restorer({"[A_1]": "[B_1]", "[B_1]": "x"}).whole("[A_1]") == "[B_1]"


def read(choice):
    """A chunk as a provider's backend makes it, with the provider's own words."""
    said = next((choice[part] for part in ("delta", "message") if isinstance(choice.get(part), dict)), choice)
    text = said.get("text" if said is choice else "content")
    return Chunk(0, text if isinstance(text, str) else "", finish_reason=choice.get("finish_reason"), wire=choice)


def streamed(events):
    restorer = ChoiceRestorer(ORIGINALS)
    chunks = (replace(read(event), index=event["index"]) for event in events)
    # A piece of the answer alone comes without the provider's own words.
    alone = (replace(c, wire=None) if c.wire["delta"].keys() <= {"content"} else c for c in chunks)
    return [restorer.chunk(chunk) for chunk in alone]


def content(chunks, index=0):
    """What a client puts together, from `wire` where there is one; and `text` has to say the same."""
    chunks = [chunk for chunk in chunks if chunk.index == index]
    seen = [c.text if c.wire is None else (c.wire["delta"].get("content") or "") for c in chunks]
    assert [chunk.text for chunk in chunks] == seen
    return "".join(seen)


def arguments(chunks, call):
    calls = [c for chunk in chunks if chunk.wire for c in chunk.wire["delta"].get("tool_calls", ())]
    return "".join(c["function"].get("arguments", "") for c in calls if c["index"] == call)


@given(st.data(), PIECES)
def test_streamed_content(data, pieces):
    text = "".join(pieces)
    events = [{"index": 0, "delta": {"content": piece}} for piece in cut(data.draw, text)]
    for i in data.draw(st.sets(st.integers(0, len(events)), max_size=len(events))):
        if i < len(events):
            events[i]["delta"]["reasoning_content"] = "hm"
    chunks = streamed([*events, {"index": 0, "delta": {}, "finish_reason": "stop"}])
    assert content(chunks) == put_back(text)
    assert [chunk.finish_reason for chunk in chunks].count("stop") == 1


@given(st.data(), st.lists(st.sampled_from([*ORIGINALS, " and "])), st.lists(st.sampled_from([*ORIGINALS, "x"])))
def test_streamed_tool_calls_one_after_the_other_and_at_once(data, first, second):
    texts = [orjson.dumps({"a": "".join(pieces)}).decode() for pieces in (first, second)]
    events = [
        {"index": 0, "delta": {"tool_calls": [{"index": i, "function": {"arguments": piece}}]}}
        for i, text in enumerate(texts)
        for piece in cut(data.draw, text)
    ]
    mixed = data.draw(st.permutations(events))
    of = {i: iter([e for e in events if e["delta"]["tool_calls"][0]["index"] == i]) for i in (0, 1)}
    events = [next(of[event["delta"]["tool_calls"][0]["index"]]) for event in mixed]
    chunks = streamed([*events, {"index": 0, "delta": {}, "finish_reason": "tool_calls"}])
    for i, pieces in enumerate((first, second)):
        assert orjson.loads(arguments(chunks, i)) == {"a": put_back("".join(pieces))}


def test_choices_are_kept_apart():
    events = [
        {"index": 0, "delta": {"content": "[EMAIL"}},
        {"index": 1, "delta": {"content": "[SECRET"}},
        {"index": 0, "delta": {"content": "_12]"}},
        {"index": 1, "delta": {"content": "_1]"}, "finish_reason": "stop"},
        {"index": 0, "delta": {}, "finish_reason": "stop"},
    ]
    chunks = streamed(events)
    assert (content(chunks, 0), content(chunks, 1)) == ("eve@example.com", "a\nb\\c")


def test_what_was_kept_back_comes_with_the_end():
    chunks = streamed(
        [
            {"index": 0, "delta": {"reasoning_content": "r[EM"}},
            {"index": 0, "delta": {"content": "c[EM"}},
            {
                "index": 0,
                "delta": {"tool_calls": [{"index": 1, "id": "i", "function": {"name": "f", "arguments": "[E"}}]},
            },
            {"index": 0, "delta": {}, "finish_reason": "stop"},
        ]
    )
    assert [chunk.text for chunk in chunks] == ["", "c", "", "[EM"]
    assert chunks[-1].wire["delta"] == {
        "content": "[EM",
        "reasoning_content": "[EM",
        "tool_calls": [{"index": 1, "function": {"arguments": "[E"}}],
    }
    assert chunks[2].wire["delta"]["tool_calls"][0]["id"] == "i"


def test_a_whole_answer():
    message = {
        "role": "assistant",
        "content": "to [EMAIL_1]",
        "refusal": "[EMAIL_12",
        "reasoning_content": "[SECRET_1]",
        "tool_calls": [
            {"id": "[EMAIL_1]", "type": "function", "function": {"name": "f", "arguments": '{"a":"[SECRET_1]"}'}}
        ],
        "annotations": [{"url_citation": {"title": "of [EMAIL_12]"}}],
    }
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": {"content": [1]}}
    chunk = ChoiceRestorer(ORIGINALS).chunk(read(choice))
    new = chunk.wire["message"]
    assert chunk.text == new["content"] == 'to bob"x"@example.com'
    assert new["refusal"] == "[EMAIL_12"
    assert new["reasoning_content"] == "a\nb\\c"
    assert orjson.loads(new["tool_calls"][0]["function"]["arguments"]) == {"a": "a\nb\\c"}
    assert new["tool_calls"][0]["id"] == "[EMAIL_1]"
    assert new["annotations"] == [{"url_citation": {"title": "of eve@example.com"}}]
    assert chunk.wire["logprobs"] is None
    assert choice["message"]["content"] == "to [EMAIL_1]"


@pytest.mark.parametrize("logprobs", [None, {"tokens": ["x"]}])
@pytest.mark.parametrize("wire", [True, False])
def test_completions(logprobs, wire):
    choice = {"index": 0, "text": "to [EMAIL_12][E", "finish_reason": "stop", "logprobs": logprobs}
    chunk = ChoiceRestorer(ORIGINALS).chunk(replace(read(choice), wire=choice if wire else None))
    assert chunk.text == "to eve@example.com[E"
    if wire:
        assert (chunk.wire["text"], chunk.wire["logprobs"]) == (chunk.text, None)


def test_log_probabilities_stay_with_pieces_that_were_not_changed():
    logprobs = (TokenLogprob("a", -1.0, (97,)),)
    restorer = ChoiceRestorer(ORIGINALS)
    chunk = Chunk(0, "a", logprobs=logprobs)
    assert restorer.chunk(chunk) is chunk
    assert restorer.chunk(Chunk(0, "[", logprobs=logprobs)) == Chunk(0, "")
    assert restorer.chunk(Chunk(0, "b")) == Chunk(0, "[b")


def test_without_placeholders_every_chunk_is_the_same_object():
    chunk = Chunk(0, "[EMAIL_1", wire={"index": 0, "delta": {"content": "[EMAIL_1"}})
    assert ChoiceRestorer({}).chunk(chunk) is chunk


def test_in_json_that_was_asked_for_the_original_is_escaped():
    restorer = ChoiceRestorer({"[SECRET_1]": 'a"b\nc'}, json_content=True)
    chunk = restorer.chunk(Chunk(0, '{"key": "[SECRET_1]"}', finish_reason="stop"))
    assert orjson.loads(chunk.text) == {"key": 'a"b\nc'}


ODD = st.recursive(
    st.sampled_from(["[EM", "x[", "[EMAIL_1]", "AIL_1]", "", None, 3]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["text", "function", "arguments", "content"]), inner, max_size=3)
        | st.fixed_dictionaries({"index": st.integers(-1, 2) | inner}, optional={"text": inner})
    ),
    max_leaves=6,
)
SAID = st.dictionaries(st.sampled_from(["content", "reasoning", "refusal", "tool_calls", "summary"]), ODD, max_size=3)
CHOICES = st.fixed_dictionaries(
    {"index": st.just(0)},
    optional={
        "delta": SAID | ODD,
        "message": SAID | ODD,
        "text": ODD,
        "finish_reason": st.sampled_from([None, "stop"]),
    },
)


@settings(max_examples=500, deadline=None)
@given(st.lists(CHOICES, max_size=4))
def test_an_answer_of_any_shape_is_passed_on(choices):
    restorer = ChoiceRestorer(ORIGINALS)
    for choice in [*choices, {"index": 0, "delta": {}, "finish_reason": "stop"}]:
        before = orjson.dumps(choice)
        chunk = restorer.chunk(read(choice))
        assert chunk.finish_reason == choice.get("finish_reason")
        assert orjson.dumps(choice) == before


def test_an_answer_nested_deeply_is_passed_on():
    deep = "[EMAIL_1]"
    for _ in range(900):
        deep = [deep]
    chunk = read({"index": 0, "delta": {"content": "[EMAIL_12]", "x": deep}})
    assert ChoiceRestorer(ORIGINALS).chunk(chunk).text == "eve@example.com"
