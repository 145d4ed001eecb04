"""Whatever the texts are, the official SDK's own decoder gives them back, and a stream folds to the plain answer."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai._streaming import SSEDecoder

from backends.types import Chunk, TokenLogprob, Usage
from gateway.schemas import responses
from gateway.sse import ChatFrames, CompletionFrames, Folded, Head, error_frame, fold

HEAD = Head("id-1", 1_700_000_000, 'a "quoted" model', 1)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
LOGPROB = st.builds(
    TokenLogprob,
    TEXTS,
    st.floats(-100, 0),
    st.lists(st.integers(0, 255), max_size=4).map(tuple),
    st.lists(st.builds(TokenLogprob, TEXTS, st.floats(-100, 0), st.just((1,))), max_size=2).map(tuple),
)


@st.composite
def answers(draw):
    """Chunks of 1 to 3 choices, interleaved, each choice closed once; and their usage."""
    choices = draw(st.integers(1, 3))
    chunks = draw(
        st.lists(
            st.builds(Chunk, st.integers(0, choices - 1), TEXTS, logprobs=st.lists(LOGPROB, max_size=2).map(tuple))
        )
    )
    reasons = st.sampled_from(["stop", "length"])
    last = [Chunk(index, draw(TEXTS), finish_reason=draw(reasons)) for index in range(choices)]
    return choices, [*chunks, *last], Usage(draw(st.integers(0, 99)), len(chunks), draw(st.integers(0, 9)))


def stream(frames, chunks, usage):
    return frames.opening() + b"".join(map(frames.chunk, chunks)) + frames.closing(usage)


def whole(frames, choices, chunks, usage):
    folded = [Folded() for _ in range(choices)]
    for chunk in chunks:
        fold(folded, chunk)
    return json.loads(frames.body(folded, usage))


def decode(raw):
    events = list(SSEDecoder().iter_bytes(iter([raw])))
    assert events[-1].data == "[DONE]"
    return [json.loads(event.data) for event in events[:-1]]


@given(answers())
def test_a_chat_stream_folds_to_the_plain_answer(answer):
    choices, chunks, usage = answer
    frames = ChatFrames(replace(HEAD, choices=choices, include_usage=True))
    events = decode(stream(frames, chunks, usage))
    body = whole(frames, choices, chunks, usage)
    responses.ChatCompletion.model_validate(body)
    for event in events:
        responses.ChatCompletionChunk.model_validate(event)

    assert events[-1]["choices"] == []
    assert events[-1]["usage"] == body["usage"]
    assert all(event["usage"] is None for event in events[:-1])
    for index, choice in enumerate(body["choices"]):
        parts = [c for event in events for c in event["choices"] if c["index"] == index]
        assert "".join(c["delta"].get("content", "") for c in parts) == choice["message"]["content"]
        assert [c["delta"]["role"] for c in parts if "role" in c["delta"]] == ["assistant"]
        assert "role" in parts[0]["delta"]
        assert [c["finish_reason"] for c in parts if c["finish_reason"]] == [choice["finish_reason"]]
        assert parts[-1]["finish_reason"]
        streamed = [entry for c in parts if c["logprobs"] for entry in c["logprobs"]["content"]]
        assert streamed == ((choice["logprobs"] or {}).get("content") or [])
    assert [c["index"] for event in events for c in event["choices"]][:choices] == list(range(choices))


@given(answers(), st.booleans())
def test_a_completion_stream_folds_to_the_plain_answer(answer, logprobs):
    choices, chunks, usage = answer
    head = replace(HEAD, choices=choices, include_usage=True)
    events = decode(stream(CompletionFrames(head, logprobs), chunks, usage))
    body = whole(CompletionFrames(head, logprobs), choices, chunks, usage)
    responses.Completion.model_validate(body)
    for event in events:
        responses.Completion.model_validate(event)
    for index, choice in enumerate(body["choices"]):
        parts = [c for event in events for c in event["choices"] if c["index"] == index]
        assert "".join(c["text"] for c in parts) == choice["text"]
        assert [c["finish_reason"] for c in parts if c["finish_reason"]] == [choice["finish_reason"]]
        if logprobs:
            for key in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
                streamed = [entry for c in parts if c["logprobs"] for entry in c["logprobs"][key]]
                assert streamed == choice["logprobs"][key]
        else:
            assert choice["logprobs"] is None


@given(answers())
def test_without_include_usage_no_frame_has_a_usage(answer):
    choices, chunks, usage = answer
    for frames in (ChatFrames(replace(HEAD, choices=choices)), CompletionFrames(replace(HEAD, choices=choices))):
        events = decode(stream(frames, chunks, usage))
        assert all("usage" not in event and event["choices"] for event in events)


@given(TEXTS)
def test_an_error_frame_is_one_event_and_no_end(text):
    raw = error_frame(json.dumps({"error": {"message": text}}).encode())
    (event,) = SSEDecoder().iter_bytes(iter([raw]))
    assert json.loads(event.data) == {"error": {"message": text}}


@pytest.mark.parametrize("cut", range(1, 40, 7))
def test_the_decoder_does_not_mind_where_the_bytes_are_cut(cut):
    raw = stream(ChatFrames(HEAD), [Chunk(0, "naïve 🚰\n\ndata: x\r\n"), Chunk(0, finish_reason="stop")], Usage(1, 1))
    pieces = [raw[i : i + cut] for i in range(0, len(raw), cut)]
    events = list(SSEDecoder().iter_bytes(iter(pieces)))
    assert json.loads(events[1].data)["choices"][0]["delta"]["content"] == "naïve 🚰\n\ndata: x\r\n"
    assert events[-1].data == "[DONE]"


def test_a_chunk_with_nothing_to_tell_makes_no_frame():
    assert ChatFrames(HEAD).chunk(Chunk(0, "", tokens=(1,))) == b""
    assert CompletionFrames(HEAD).chunk(Chunk(0, "", tokens=(1,))) == b""


def test_legacy_offsets_count_characters_of_the_completion():
    entries = (TokenLogprob("né", -1.0, (1,)), TokenLogprob(" 🚰", -2.0, (2,)), TokenLogprob("x", -3.0, (3,)))
    body = whole(
        CompletionFrames(HEAD, True), 1, [Chunk(0, "né 🚰x", logprobs=entries, finish_reason="stop")], Usage(1, 3)
    )
    assert body["choices"][0]["logprobs"]["text_offset"] == [0, 2, 4]


@pytest.mark.parametrize("frames", [ChatFrames, CompletionFrames])
def test_what_a_provider_says_besides_comes_with_the_usage(frames):
    counted = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "odd": [1]}
    usage = Usage(1, 2, wire={"citations": ["a"], "system_fingerprint": "fp", "usage": counted})
    (event,) = decode(frames(replace(HEAD, include_usage=True)).closing(usage))
    assert (event["choices"], event["usage"], event["citations"]) == ([], counted, ["a"])
    assert (event["id"], event["model"], event["system_fingerprint"]) == (HEAD.id, HEAD.model, "fp")
    assert decode(frames(HEAD).closing(usage)) == []


@given(TEXTS.filter(bool))
def test_no_finish_reason_can_break_a_frame(reason):
    for frames in (ChatFrames(HEAD), CompletionFrames(HEAD)):
        (event,) = [json.loads(e.data) for e in SSEDecoder().iter_bytes([frames.chunk(Chunk(0, "", (), (), reason))])]
        assert event["choices"][0]["finish_reason"] == reason
