"""What a provider's JSON becomes: never anything but chunks, a usage or an error of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import BackendError, EngineFailed, InvalidRequest, Overloaded, Unavailable
from backends.remote import answers
from backends.remote.choices import Choices
from backends.types import Chunk, Usage

NAMES = st.sampled_from(
    "choices index delta message text content role finish_reason logprobs usage error code type "
    "prompt_tokens prompt_tokens_details tool_calls".split()
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 600) | st.floats(allow_nan=False) | st.text(max_size=3) | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=12,
)
CHOICE = st.fixed_dictionaries({}, optional={"index": JSON, "delta": JSON, "message": JSON, "text": JSON,
                                             "finish_reason": JSON, "logprobs": JSON})  # fmt: skip
PAYLOAD = JSON | st.fixed_dictionaries({"choices": st.lists(CHOICE, max_size=2)}, optional={"usage": JSON})


@given(PAYLOAD)
def test_no_json_is_too_odd(value: object) -> None:
    data = orjson.dumps(value)
    for kind in ("chat", "completion"):
        for whole in (False, True):
            said = Choices(kind, "cloud")  # type: ignore[arg-type]
            try:
                payload = answers.parsed(data, "cloud")
                chunks = said.whole(payload) if whole else said.deltas(payload)
            except BackendError:
                continue
            assert all(type(chunk.text) is str and type(chunk.index) is int for chunk in chunks)
            assert all(_promised(chunk.wire, whole, kind) for chunk in chunks if chunk.wire is not None)
            usage = answers.usage(said.usage, said.additions) or answers.guessed(7, 7, said.additions)
            assert 0 <= usage.cached_tokens <= usage.prompt_tokens
            orjson.dumps([[[[chunk.wire for chunk in chunks], usage.wire]]])


def _promised(wire: Mapping[str, Any], whole: bool, kind: str) -> bool:
    """Whether a client finds all that it reads."""
    keys = {"index", "logprobs", "finish_reason"} | {
        "text" if kind == "completion" else "message" if whole else "delta"
    }
    if whole and kind == "chat":
        assert wire["message"].keys() >= {"role", "content", "refusal"}
    for call in (wire.get("message") or wire.get("delta") or {}).get("tool_calls", ()):
        assert type((call.get("function") or {}).get("arguments", "")) is str
    return wire.keys() >= keys and (wire["finish_reason"] is not None or not whole)


@given(st.binary(max_size=40), st.integers(400, 599), st.text(max_size=12))
def test_no_refusal_is_too_odd(data: bytes, status: int, wait: str) -> None:
    error = answers.refusal(status, {"retry-after": wait}, data, "cloud")
    kind = {400: InvalidRequest, 413: InvalidRequest, 415: InvalidRequest, 422: InvalidRequest, 429: Overloaded}
    assert type(error) is kind.get(status, Unavailable)
    assert error.retry_after is None or 0 <= error.retry_after <= answers.LONGEST_S


@pytest.mark.parametrize("value", ["", "soon", "nan", "inf", "1e999", "Mon, 99 Foo 2026"])
def test_a_retry_after_that_says_nothing(value: str) -> None:
    assert answers.retry_after({"retry-after": value}) is None


@pytest.mark.parametrize(("value", "seconds"), [("7", 7), ("-3", 0), ("0.5", 0.5), ("9999999", answers.LONGEST_S)])
def test_a_retry_after_in_seconds(value: str, seconds: float) -> None:
    assert answers.retry_after({"retry-after": value}) == seconds


def test_a_retry_after_in_the_past_is_now() -> None:
    assert answers.retry_after({"retry-after": "Sat, 01 Jan 2000 00:00:00 GMT"}) == 0


def read(*choices: object, kind: str = "chat") -> list[Chunk]:
    """The deltas of one stream, an event each."""
    said = Choices(kind, "cloud")  # type: ignore[arg-type]
    return [chunk for choice in choices for chunk in said.deltas({"choices": [choice]})]


def test_plain_deltas_carry_their_text_alone() -> None:
    assert read({"index": 1, "delta": {"content": "ü"}, "finish_reason": None}) == [Chunk(1, "ü")]
    assert read({"delta": {"content": "ü"}}) == [Chunk(0, "ü")]
    nulls = {"index": 1, "delta": {"role": "assistant", "content": "ü", "tool_calls": None}, "stop_reason": None}
    assert read(nulls) == [Chunk(1, "ü")]
    assert read({"index": 0, "delta": {"role": "assistant", "content": "", "tool_calls": []}}) == []
    assert Choices("chat", "cloud").deltas({"usage": {}}) == ()


def test_a_choice_without_a_delta_has_one() -> None:
    (chunk,) = read({"finish_reason": "stop", "filter": {"a": 1}})
    assert chunk.wire == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop", "filter": {"a": 1}}
    (piece,) = read({"text": "a", "filter": {"a": 1}}, kind="completion")
    assert piece.wire == {"index": 0, "text": "a", "logprobs": None, "finish_reason": None, "filter": {"a": 1}}


def calls(*pieces: object, choice: int = 0) -> list[Any]:
    """What is passed on of these `tool_calls`, a delta each."""
    chunks = read(*({"index": choice, "delta": {"tool_calls": piece}} for piece in pieces))
    return [chunk.wire["delta"]["tool_calls"] for chunk in chunks if chunk.wire]


def test_what_comes_once_of_a_tool_call_comes_once() -> None:
    first = {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": "{"}}
    again = {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": "}"}}
    assert calls([first], [again]) == [[first], [{"index": 0, "function": {"arguments": "}"}}]]
    other = {**first, "index": 1, "id": "b"}
    assert calls([first, other], [again]) == [[first, other], [{"index": 0, "function": {"arguments": "}"}}]]
    assert calls([first], [{"index": 0, "id": "a", "function": {"name": "f"}}]) == [[first]]
    empty = {"index": 0, "id": "", "function": {"name": "", "arguments": "}"}}
    assert calls([{"index": 0, "id": "a", "function": {"name": "f"}}], [empty]) == [
        [{"index": 0, "id": "a", "type": "function", "function": {"name": "f"}}],
        [{"index": 0, "function": {"arguments": "}"}}],
    ]


def test_calls_without_numbers_get_some() -> None:
    def call(name: str | None, arguments: str) -> dict[str, Any]:
        return {"id": name, "function": {"name": "f" if name else None, "arguments": arguments}}

    together = calls([call("a", "1"), call("b", "2")])
    assert [[new["index"] for new in said] for said in together] == [[0, 1]]
    in_turn = calls([call("a", "1")], [call(None, "2")], [call("b", "3")], [call(None, "4")], [call("a", "5")])
    assert [new["index"] for (new,) in in_turn] == [0, 0, 1, 1, 0]
    assert [said[0]["index"] for said in calls([{"index": "0", "function": {"arguments": "x"}}])] == [0]


def test_arguments_are_a_string() -> None:
    ((call,),) = calls([{"index": 0, "id": "a", "function": {"name": "f", "arguments": {"to": "ü"}}}])
    assert call["function"]["arguments"] == '{"to":"ü"}'
    (legacy,) = read({"delta": {"function_call": {"name": "f", "arguments": {}}}})
    assert legacy.wire is not None
    assert legacy.wire["delta"] == {"function_call": {"name": "f", "arguments": "{}"}}


def message(**said: Any) -> Any:
    """The choice that a whole message becomes."""
    (chunk,) = Choices("chat", "cloud").whole({"choices": [{"message": said, "finish_reason": "stop"}]})
    return chunk.wire


def test_a_whole_message_has_every_key() -> None:
    said = {"role": "assistant", "content": None, "refusal": None}
    assert message() == {"index": 0, "message": said, "logprobs": None, "finish_reason": "stop"}
    assert message(role="model", content="x", tool_calls=[], function_call=None)["message"] == {**said, "content": "x"}
    function = {"name": "f", "arguments": {"a": 1}}
    made = message(tool_calls=[{"id": "a", "function": function}])["message"]["tool_calls"]
    assert made == [{"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}]


@pytest.mark.parametrize("reason", [7, True, ["stop"], {"a": 1}, 'a"b', "stop\n", "Stop", "x" * 41])
def test_a_finish_reason_is_a_word(reason: object) -> None:
    with pytest.raises(EngineFailed, match="unknown shape"):
        read({"index": 0, "delta": {}, "finish_reason": reason})
    with pytest.raises(EngineFailed, match="unknown shape"):
        Choices("chat", "cloud").whole({"choices": [{"message": {"content": "x"}, "finish_reason": reason}]})


def test_a_finish_reason_that_is_new_passes() -> None:
    assert [chunk.finish_reason for chunk in read({"index": 0, "delta": {}, "finish_reason": "end_turn"})] == [
        "end_turn"
    ]


def test_what_nobody_could_write_is_not_passed_on() -> None:
    deep: Any = 0
    for _ in range(251):
        deep = [deep]
    with pytest.raises(EngineFailed, match="unknown shape"):
        read({"index": 0, "delta": {"content": "x", "vendor": deep}})
    said = Choices("chat", "cloud")
    assert said.deltas({"choices": [], "vendor": [[[deep]]]}) == ()
    assert answers.guessed(4, 4, said.additions).wire is None


def test_additions_of_a_stream_are_kept_up_to_the_last() -> None:
    said = Choices("chat", "cloud")
    for number in (1, 2):
        said.deltas({"choices": [], "citations": [number], "system_fingerprint": None, "obfuscation": "x"})
    said.deltas({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}, "error": None})
    usage = answers.usage(said.usage, said.additions)
    counted = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    assert usage == Usage(1, 2, 0, {"citations": [2], "usage": counted})
    for number in range(500):
        said.deltas({"choices": [], f"x{number}": 1})
    assert len(said.additions) <= 64


@pytest.mark.parametrize(
    ("prompt", "completion", "cached"),
    [
        (-1, 2, 0),
        (1, -2, 0),
        (1, 2, -1),
        (1.5, 2, 0),
        (1, "2", 0),
        (1, True, 0),
        (1, 10**10, 0),
        (None, 2, 0),
        (1, 2, [1]),
    ],
)
def test_a_usage_that_is_no_count_is_not_taken(prompt: object, completion: object, cached: object) -> None:
    said = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
    assert answers.usage(said, {}) is None


@pytest.mark.parametrize("said", [7, [1], "x", {"prompt_tokens_details": 7}])
def test_a_usage_of_another_shape_is_not_taken(said: object) -> None:
    assert answers.usage(said, {"a": 1}) is None
    assert answers.guessed(7, 8, {"a": 1}) == Usage(2, 2, wire={"a": 1})


def test_no_more_is_cached_than_was_sent() -> None:
    said = {
        "prompt_tokens": 5,
        "completion_tokens": 1,
        "total_tokens": "?",
        "prompt_tokens_details": {"cached_tokens": 9},
    }
    usage = answers.usage(said, {})
    assert usage is not None
    assert (usage.cached_tokens, (usage.wire or {})["usage"]["prompt_tokens_details"]) == (5, {"cached_tokens": 5})
    assert (usage.wire or {})["usage"]["total_tokens"] == 6


@pytest.mark.parametrize("code", ["a b", "x" * 41, "", "ü", "a\nb", "[key]", 400, None, {"a": 1}, ["x"]])
def test_a_code_that_is_no_word_is_ours(code: object) -> None:
    data = orjson.dumps({"error": {"message": "no", "code": code}})
    assert answers.refusal(400, {}, data, "cloud").code == "provider_refused"


def test_a_code_that_is_a_word_is_kept() -> None:
    data = orjson.dumps({"error": {"message": "no", "code": "Bad_Tool.v-1", "param": "a\nb"}})
    error = answers.refusal(400, {}, data, "cloud")
    assert (error.code, error.param) == ("bad_tool.v-1", "ab")
