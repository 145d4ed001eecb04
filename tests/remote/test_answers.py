"""What a provider's JSON becomes: never anything but chunks, a usage or an error of ours."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import BackendError, InvalidRequest, Overloaded, Unavailable
from backends.remote import answers
from backends.types import Chunk

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
    for read in (answers.deltas, answers.whole, answers.usage):
        try:
            said = read(answers.parsed(data, "cloud"), "cloud")  # type: ignore[operator]
        except BackendError:
            continue
        for chunk in said if isinstance(said, list | tuple) else ():
            assert isinstance(chunk, Chunk)
            assert type(chunk.text) is str
            assert type(chunk.index) is int


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


def test_plain_deltas_carry_their_text_alone() -> None:
    plain = {"index": 1, "delta": {"content": "ü"}, "finish_reason": None}
    assert answers.deltas({"choices": [plain]}, "cloud") == (Chunk(1, "ü"),)
    nulls = {"index": 1, "delta": {"role": "assistant", "content": "ü", "tool_calls": None}, "stop_reason": None}
    assert answers.deltas({"choices": [nulls]}, "cloud") == [Chunk(1, "ü")]
    assert answers.deltas({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}, "cloud") == []
    assert answers.deltas({"usage": {}}, "cloud") == ()
