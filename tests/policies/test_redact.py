import os
import random
from itertools import repeat

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.detect import Detector
from policies.redact import CannotRedact, redact
from policies.restore import Restorer
from tests.policies import planted

DETECTOR = Detector({"badge": "B-[0-9]{6}"})
ALL = DETECTOR.findable
BODIES = int(os.environ.get("OUTSTATION_TEST_BODIES", "2000"))


def message(content, **more):
    return {"model": "m", "messages": [{"role": "user", "content": content, **more}]}


def restored(value, originals):
    """Everything put back, in JSON strings too, as a client would get it."""
    if isinstance(value, str):
        return Restorer(originals).whole(value)
    if isinstance(value, dict):
        return {name: restored(item, originals) for name, item in value.items()}
    return [restored(item, originals) for item in value] if isinstance(value, list) else value


def test_values_become_placeholders_and_the_rest_stays():
    raw = message("Write to bob@example.com and eve@example.com, cc bob@example.com. Pay DE89370400440532013000.")
    raw["unknown"] = {"x": [1, 2.5, None, True]}
    before = orjson.dumps(raw)
    redacted = redact(raw, ALL, DETECTOR)
    text = redacted.raw["messages"][0]["content"]
    assert text == "Write to [EMAIL_1] and [EMAIL_2], cc [EMAIL_1]. Pay [IBAN_1]."
    assert redacted.originals == {
        "[EMAIL_1]": "bob@example.com",
        "[EMAIL_2]": "eve@example.com",
        "[IBAN_1]": "DE89370400440532013000",
    }
    assert redacted.raw["unknown"] == raw["unknown"]
    assert orjson.dumps(raw) == before


def test_only_the_classes_asked_for_are_replaced():
    redacted = redact(message("bob@example.com B-123456"), frozenset({"badge"}), DETECTOR)
    assert redacted.raw["messages"][0]["content"] == "bob@example.com [BADGE_1]"


def test_a_text_like_a_placeholder_keeps_its_number():
    redacted = redact(message("[EMAIL_1] [email_2] \\u005bEMAIL_4] bob@example.com eve@example.com"), ALL, DETECTOR)
    text = redacted.raw["messages"][0]["content"]
    assert text == "[EMAIL_1] [email_2] \\u005bEMAIL_4] [EMAIL_3] [EMAIL_5]"


def test_tool_arguments_stay_json_and_keep_their_form():
    arguments = '{"to":  "bob\\u0040example.com",\n "cc":["eve@example.com"], "n": 1.10, "s":"a\\"b"}'
    redacted = redact(message(arguments), ALL, DETECTOR)
    text = redacted.raw["messages"][0]["content"]
    assert text == '{"to":  "[EMAIL_1]",\n "cc":["[EMAIL_2]"], "n": 1.10, "s":"a\\"b"}'
    assert redacted.originals["[EMAIL_1]"] == "bob@example.com"


def test_a_secret_with_a_quote_in_it_is_known_by_its_key():
    raw = message('{"password": "a\\"b1xyz"}')
    redacted = redact(raw, ALL, DETECTOR)
    assert redacted.raw["messages"][0]["content"] == '{"password": "[SECRET_1]"}'
    assert redacted.originals == {"[SECRET_1]": 'a"b1xyz'}
    assert DETECTOR.classes(raw) == {"secret"}


def test_a_key_named_twice_hides_nothing():
    redacted = redact(message('{"a": "bob@example.com", "a": "x"}'), ALL, DETECTOR)
    assert "bob" not in orjson.dumps(redacted.raw).decode()


def test_keys_of_tool_results_are_replaced_too():
    redacted = redact(message('{"bob@example.com": {"n": 1}}'), ALL, DETECTOR)
    assert redacted.raw["messages"][0]["content"] == '{"[EMAIL_1]": {"n": 1}}'


@pytest.mark.parametrize(
    "raw",
    [
        {"model": "bob@example.com"},
        {"messages": [{"role": "bob@example.com"}]},
        {"messages": [{"role": "tool", "tool_call_id": "bob@example.com", "content": "x"}]},
        {"messages": [{"role": "user", "name": "bob@example.com", "content": "x"}]},
        {"tools": [{"type": "function", "function": {"name": "bob@example.com"}}]},
        {"tools": [{"function": {"name": "f", "parameters": {"properties": {"bob@example.com": {}}}}}]},
        {"tools": [{"function": {"name": "f", "parameters": {"required": ["bob@example.com"]}}}]},
        {"n": 4111111111111111},
        {"messages": [{"content": '{"n": 4111111111111111}'}]},
        {"messages": [{"content": [{"type": "image_url", "image_url": {"url": "https://e.org/?u=bob@example.com"}}]}]},
        {"x": "data:text/plain,bob@example.com"},
    ],
)
def test_a_value_where_a_placeholder_would_break_the_request_is_refused(raw):
    with pytest.raises(CannotRedact) as refused:
        redact(raw, ALL, DETECTOR)
    assert "bob" not in str(refused.value) and "4111" not in str(refused.value)


@pytest.mark.parametrize("cls", ["media", "health"])
def test_what_cannot_be_found_cannot_be_redacted(cls):
    with pytest.raises(CannotRedact, match=cls):
        redact(message("x"), frozenset({cls}), DETECTOR)


def test_a_body_too_deep_to_walk_is_refused():
    deep = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(CannotRedact):
        redact({"x": deep}, ALL, DETECTOR)


def test_what_a_replacement_brings_to_light_is_refused():
    """Only with the badge gone does its neighbour stand at the beginning of a line."""
    detector = Detector({"badge": "B-[0-9]{6}", "first": r"(?<![B0-9])-x[0-9]"})
    with pytest.raises(CannotRedact, match="first"):
        redact(message("B-123456-x1"), frozenset({"badge", "first"}), detector)


def test_images_stay_as_they_are_when_other_classes_are_redacted():
    url = {"url": "data:image/png;base64," + "iVBORw0KGgo" * 60}
    raw = message([{"type": "image_url", "image_url": url}, {"type": "text", "text": "bob@example.com"}])
    parts = redact(raw, frozenset({"email"}), DETECTOR).raw["messages"][0]["content"]
    assert parts == [{"type": "image_url", "image_url": url}, {"type": "text", "text": "[EMAIL_1]"}]


def test_ten_thousand_placeholders_take_their_time_once():
    text = " ".join(f"u{i}@example.com [EMAIL_{i}]" for i in range(10_000))
    assert len(redact(message(text), ALL, DETECTOR).originals) == 10_000


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.sampled_from(sorted(planted.MAKERS)), max_size=5))
def test_what_was_redacted_can_be_put_back(seed, classes):
    rng = random.Random(seed)
    text = " ".join(planted.sentence(rng, planted.MAKERS[cls](rng)) for cls in classes)
    raw = message(text, extra=[text, {"deep": text}])
    redacted = redact(raw, ALL, DETECTOR)
    assert restored(redacted.raw, redacted.originals) == raw


NAMES = st.text(max_size=3) | st.sampled_from(
    "type role content prompt data url text image_url file name index arguments id password required token".split()
)
TEXTS = st.lists(
    st.text(max_size=5)
    | st.sampled_from(
        'bob@example.com 4111111111111111 +491711234567 B-123456 token:Abc1 [EMAIL_1] [email_2] [ ] { " \\ \\u0040 '
        '\ufffc input_audio image_url data: data:a/b;base64, {"a":"b@c.org"} ["a\\"b@c.org a"b1xyz'.split()
    ),
    max_size=4,
).flatmap(lambda pieces: st.sampled_from(["".join(pieces), " ".join(pieces)]))
VALUES = st.recursive(
    TEXTS
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.booleans()
    | st.none(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(NAMES, inner, max_size=4)
        | inner.map(lambda value: orjson.dumps(value).decode())
    ),
    max_leaves=12,
)


def put_back(sent, raw, originals):
    """Whether what was sent says, with everything put back, what the body says: of JSON, what a program reads in it."""
    if isinstance(raw, str):
        if raw.lstrip()[:1] in ("{", "[", '"'):
            try:
                return put_back(orjson.loads(sent), orjson.loads(raw), originals)
            except orjson.JSONDecodeError:
                pass
        return Restorer(originals).whole(sent) == raw
    if isinstance(raw, dict):
        names = [Restorer(originals).whole(name) for name in sent]
        return names == list(raw) and all(map(put_back, sent.values(), raw.values(), repeat(originals)))
    if isinstance(raw, list):
        return len(sent) == len(raw) and all(map(put_back, sent, raw, repeat(originals)))
    return sent == raw


@settings(max_examples=500, deadline=None)
@given(
    st.dictionaries(NAMES, VALUES, max_size=4), st.just(ALL) | st.frozensets(st.sampled_from(sorted(ALL)), min_size=1)
)
def test_any_body_is_redacted_whole_or_refused(raw, classes):
    before = orjson.dumps(raw)
    try:
        redacted = redact(raw, classes, DETECTOR)
    except CannotRedact:
        return
    finally:
        assert orjson.dumps(raw) == before
    assert put_back(redacted.raw, raw, redacted.originals)


@pytest.mark.parametrize("kind", [["string", "null"], {"a": 1}, 1, None])
def test_a_type_that_is_no_word_stands_in_nobodys_way(kind):
    raw = {"tools": [{"function": {"parameters": {"type": kind, "description": "as bob@example.com"}}}]}
    redacted = redact(raw, ALL, DETECTOR).raw
    assert redacted == {"tools": [{"function": {"parameters": {"type": kind, "description": "as [EMAIL_1]"}}}]}


def test_a_recording_that_holds_a_number_by_chance_stays_as_it_is():
    data = "A" * 300 + "/4111111111111111/" + "A" * 300
    part = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    raw = message([part, {"type": "text", "text": "bob@example.com"}])
    assert redact(raw, ALL, DETECTOR).raw["messages"][0]["content"] == [part, {"type": "text", "text": "[EMAIL_1]"}]


def plain(data):
    """What a reader makes of bytes on the wire: without escapes, invisible characters, separators and capitals."""
    text = data.decode()
    while "\\" in text:
        text = text.replace("\\u200b", "").replace("\\\\", "\\") if "\\\\" in text else text.replace("\\", "")
    return "".join(char for char in text if char.isascii() and char.isalnum()).lower()


def test_nothing_planted_leaves():
    """Every planted value is gone from the bytes that would be sent, or nothing is sent."""
    refused = 0
    for seed in range(BODIES):
        rng = random.Random(seed)
        values = [(cls, planted.MAKERS[cls](rng)) for cls in rng.sample(sorted(planted.MAKERS), rng.randint(1, 4))]
        shown = [planted.disguised(rng, planted.grouped(rng, cls, value)) for cls, value in values]
        raw = planted.body(rng, (planted.sentence(rng, text) for text in shown))
        try:
            sent = orjson.dumps(redact(raw, ALL, DETECTOR).raw)
        except CannotRedact:
            refused += 1
            continue
        for (cls, value), text in zip(values, shown, strict=True):
            assert text.encode() not in sent and value.encode() not in sent, (seed, cls, value)
            assert plain(value.encode()) not in plain(sent), (seed, cls, value)
    assert refused <= BODIES // 1000
