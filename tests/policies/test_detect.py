import json
import random
import time
from types import MappingProxyType

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.detect import LONGEST_CLEAN, MOST_CLEAN, Clean, Detector
from policies.detect_body import MEDIA, Said
from tests.policies import planted

DETECTOR = Detector()
SEEDS = st.integers(0, 2**32)


def found(text, detector=DETECTOR):
    return [(finding.cls, text[finding.start : finding.end]) for finding in detector.find(text)]


@pytest.mark.parametrize(
    ("text", "cls", "value"),
    [
        ("mail bob.o+x@example.co.uk now", "email", "bob.o+x@example.co.uk"),
        ("<bob@example.com>,", "email", "bob@example.com"),
        ("Zürich: jörg@bücher.example", "email", "jörg@bücher.example"),
        ("ring +49 (0)171 1234567.", "phone", "+49 (0)171 1234567"),
        ("call (555) 123-4567 or", "phone", "(555) 123-4567"),
        ("555-123-4567", "phone", "555-123-4567"),
        ("0049 171 1234567", "phone", "0049 171 1234567"),
        ("030/12345678", "phone", "030/12345678"),
        ("06 12 34 56 78", "phone", "06 12 34 56 78"),
        ("mobile: 612345678", "phone", "612345678"),
        ("to DE89 3704 0044 0532 0130 00 by", "iban", "DE89 3704 0044 0532 0130 00"),
        ("IBANDE89370400440532013000", "iban", "DE89370400440532013000"),
        ("gb29nwbk60161331926819", "iban", "gb29nwbk60161331926819"),
        ("4111-1111-1111-1111 exp 12/27", "payment_card", "4111-1111-1111-1111"),
        ("4111 1111 1111 1111 123", "payment_card", "4111 1111 1111 1111"),
        ("12 4111 1111 1111 1111", "payment_card", "4111 1111 1111 1111"),
        ("3782 822463 10005", "payment_card", "3782 822463 10005"),
        ("4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1", "payment_card", "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1"),
        ("12,4111111111111111,7", "payment_card", "4111111111111111"),
        ("BSN: 123456782", "national_id", "123456782"),
        ("NHS 943 476 5919", "national_id", "943 476 5919"),
        ("AB123456C", "national_id", "AB123456C"),
        ("Kunde ZRMCMZ87B52F842Q hat gestern angerufen", "national_id", "ZRMCMZ87B52F842Q"),
        ("at 06 36 98 20 35 45 12.5", "phone", "06 36 98 20 35"),
        ("at 192.168.1.20:80", "ip", "192.168.1.20"),
        ("[2001:db8::8a2e:370:7334]", "ip", "2001:db8::8a2e:370:7334"),
        ("fe80::1%eth0", "ip", "fe80::1"),
        ("password: hunter2", "secret", "hunter2"),
        ('"Password" = "Tr0ub4dor&3"', "secret", "Tr0ub4dor&3"),
        ("api_key=q8Zx41LmP0vT77ab", "secret", "q8Zx41LmP0vT77ab"),
        ("Authorization: Bearer abcdefGHIJK12345", "secret", "abcdefGHIJK12345"),
        ("postgres://bob:p@ss@db.example.org/x", "secret", "bob:p@ss"),
        ("AKIAIOSFODNN7EXAMPLE", "secret", "AKIAIOSFODNN7EXAMPLE"),
    ],
)
def test_what_is_found(text, cls, value):
    assert found(text) == [(cls, value)]


@pytest.mark.parametrize(
    "text",
    [
        "2025-11-21 15:19:37.123456, 20251121T151937Z, 1763737177, 1763737177123",
        "part 6ES7 315-2EH14-0AB0, 3AXD50000-12345, SN 0012345678",
        "v1.2.3.4, version 1.2.3.4, firmware: 2.8.3.1, 1.2.3.4.5",
        "127.0.0.1, 0.0.0.0, 255.255.255.0, ::1, 12:30:45, std::vector, 00:1a:2b:3c:4d:5e",
        "12.5 m3/h, -40…+85 °C, +1.2345678, 0.4111111111111111, 10 000 000 Pa",
        "max_tokens: 4096, the password is wrong, password: required, secret: ${SECRET}, token = null",
        "key: temperature, the key is under the mat, api_key=API_KEY",
        "@mention, a@b, user@localhost, @1.2.3",
        "1234 5678 9012 3456",
        "ISO 9001:2015, DIN EN 60204-1, IEC 61131-3, RFC 2616",
        "http://localhost:8484/v1, file:///a/b",
        "order 100-200-3000, 3 x 400 V, 1 000 000, 12 34 56 78",
    ],
)
def test_what_technicians_write_is_left_alone(text):
    assert found(text) == []


@settings(max_examples=300, deadline=None)
@given(SEEDS, st.sampled_from(["iban", "payment_card"]), st.text(max_size=20), st.text(max_size=20))
def test_every_valid_iban_and_card_is_found(seed, cls, before, after):
    rng = random.Random(seed)
    value = planted.disguised(rng, planted.grouped(rng, cls, planted.MAKERS[cls](rng)))
    text = f"{before} {value} {after}"
    start = len(before) + 1
    assert any(f.cls == cls and f.start <= start and start + len(value) <= f.end for f in DETECTOR.find(text, {cls}))


@pytest.mark.parametrize("kind", planted.NATIONAL)
def test_every_valid_national_id_is_found(kind):
    rng = random.Random(kind)
    for _ in range(200):
        value = planted.NATIONAL[kind](rng)
        text = planted.sentence(rng, value)
        digits = value.rpartition(" ")[2] if kind in planted.NAMED else value
        assert any(digits in text[f.start : f.end] for f in DETECTOR.find(text, {"national_id"})), text


@settings(max_examples=200, deadline=None)
@given(SEEDS, st.sampled_from(["iban", "payment_card"]))
def test_with_one_digit_changed_it_is_not_found_as_that(seed, cls):
    rng = random.Random(seed)
    value = planted.grouped(rng, cls, planted.MAKERS[cls](rng))
    at = rng.choice([i for i, char in enumerate(value) if char.isdigit() and i > (4 if cls == "iban" else 0)])
    changed = value[:at] + rng.choice([d for d in "0123456789" if d != value[at]]) + value[at + 1 :]
    assert all(text != changed for found_cls, text in found(f"x {changed} y") if found_cls == cls)


@settings(max_examples=300, deadline=None)
@given(SEEDS, st.sampled_from(sorted(planted.MAKERS)))
def test_every_class_is_found_in_disguise(seed, cls):
    rng = random.Random(seed)
    value = planted.disguised(rng, planted.grouped(rng, cls, planted.MAKERS[cls](rng)))
    text = planted.sentence(rng, value)
    hits = [(f.start, f.end) for f in DETECTOR.find(text, {cls})]
    at = text.index(value)
    assert any(start <= at and at + len(value) <= end for start, end in hits), (text, hits)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200))
def test_findings_are_in_order_within_the_text_and_never_overlap(text):
    findings = DETECTOR.find(text + " bob@example.com:4111111111111111 " + text)
    end = 0
    for finding in findings:
        assert end <= finding.start < finding.end
        end = finding.end
    assert end <= 2 * len(text) + 34


PIECES = st.sampled_from(
    "1 85 161 1173 A 2A 3A B 69092 300 456 7612 43217 654321 12345678 756 DE89 GB29NWBK at X Y Z - . / + , : ( ) @ "
    "a@b.co //u:p@x.org password: bsn nhs ssn personnummer key= tel is "
    "\u00e9 \uff10 \u0661 \u200b \u0301 \\n \\u0031 %40 &#49; :: 00".split()
) | st.sampled_from([" ", " ", "\n", "-"])


@settings(max_examples=1000, deadline=None)
@given(
    st.lists(PIECES, max_size=25).map("".join),
    st.sampled_from(["", "password", "bsn"]),
    st.sampled_from(sorted(DETECTOR.findable)),
)
def test_whatever_stands_together_can_be_searched_for_one_class_as_for_all(text, key, cls):
    every = {cls for cls, _, _ in DETECTOR._spans(text, key, DETECTOR.findable)}
    assert (cls in every) == bool(DETECTOR.find(text, {cls}, key))
    assert DETECTOR.among({key: [text]}, frozenset({cls})) <= {cls}


@pytest.mark.parametrize("text", ["161173A69092300", "1 61 17 3A 690 923 00", "1850578006084 36"])
def test_what_is_nearly_an_id_is_no_hindrance(text):
    assert DETECTOR.find(text, {"national_id"}) == []


def test_where_values_overlap_all_is_covered_and_the_most_severe_names_it():
    detector = Detector({"line": "ref [^ ]{1,80}"})
    assert found("ref bob@example.com", detector) == [("line", "ref bob@example.com")]
    assert found("ref 4111111111111111", detector) == [("payment_card", "ref 4111111111111111")]


def test_only_the_classes_asked_for_take_part():
    text = "password: bob@example.com1"
    assert [f.cls for f in DETECTOR.find(text)] == ["secret"]
    assert [f.cls for f in DETECTOR.find(text, {"email"})] == ["email"]


def test_a_key_names_the_value_below_it():
    assert DETECTOR.find("hunter2") == []
    (finding,) = DETECTOR.find("hunter2", key="password")
    assert (finding.cls, finding.start, finding.end) == ("secret", 0, 7)


@pytest.mark.parametrize(
    "text",
    [
        "bob\\u0040example.com",
        "bob\\\\u0040example.com",
        "bob%40example.com",
        "bob&#64;example.com",
        "bob\\@example.com",
        "bob\x00@example.com",
        "bob＠example．com",
        "bob@exa\u00admple.com",
        "bob@\U000e0041example.com",
        "\U0001d41bob@example.com",
    ],
)
def test_escapes_are_read_as_what_they_stand_for(text):
    assert found(f"to {text}!") == [("email", text)]


CARD = 4111111111111111


@pytest.mark.parametrize(
    "raw",
    [
        {"n": CARD},
        {"n": float(CARD)},
        {"n": [[{"x": -CARD}]]},
        {str(CARD): 1},
        {"messages": [{"content": [{"type": "text", "text": f"it is {CARD}"}]}]},
        {"arguments": orjson.dumps({"a": orjson.dumps({"b": [CARD]}).decode()}).decode()},
        {"arguments": '{"a":"\\u0034111 1111\\u00201111\\n1111"}'},
        {"arguments": '{"a": "x", "a": "4111111111111111"'},
        {"arguments": '{"a": "\\ud835\\udfdc111111111111111'},
        {"arguments": '{"a": "\\ud835\\udfdc111111111111111\\ud83d\\udd1'},
        {"arguments": '{"a": "\\ud835\\udfdc111111111111111\\'},
    ],
)
def test_a_card_is_found_wherever_it_is_in_a_body(raw):
    assert "payment_card" in DETECTOR.classes(raw)


def test_the_key_in_a_body_counts_too():
    assert DETECTOR.classes({"metadata": {"password": "hunter2"}}) == {"secret"}
    assert DETECTOR.classes({"metadata": {"bsn": 123456782}}) == {"national_id"}


@pytest.mark.parametrize(
    "raw",
    [
        {"messages": [{"content": [{"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}]}]},
        {"messages": [{"content": [{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]}]},
        {"messages": [{"content": [{"type": "file", "file": {"file_id": "f"}}]}]},
        {"x": "data:image/png;base64,iVBORw0KGgo="},
        {"prompt": [1, 2, 3]},
        {"prompt": [[1, 2], [3]]},
    ],
)
def test_what_cannot_be_searched_is_a_class_of_its_own(raw):
    assert DETECTOR.classes(raw) == {MEDIA}


def test_what_only_looks_like_an_encoded_file_is_searched():
    assert DETECTOR.classes({"x": "A" * 300 + "/ghp_" + "b3" * 20}) == {"secret"}
    audio = {"type": "input_audio", "input_audio": {"data": "A" * 300 + "/ghp_" + "b3" * 20, "format": "wav"}}
    assert DETECTOR.classes({"x": [audio]}) == {MEDIA}


@pytest.mark.parametrize("kind", [["string", "null"], {"a": 1}, 1, None])
def test_a_type_that_is_no_word_is_searched_as_anything_else(kind):
    schema = {"type": "object", "properties": {"to": {"type": kind, "description": "bob@example.com"}}}
    raw = {"tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]}
    assert DETECTOR.classes(raw) == {"email"}


def test_an_ordinary_body_has_no_class():
    raw = {"model": "m", "messages": [{"role": "user", "content": "How do I reset the pump?"}], "seed": 1763737177123}
    assert DETECTOR.classes(raw) == frozenset()


def test_own_classes():
    detector = Detector({"badge": "B-[0-9]{6}", "email": "MAIL[0-9]+"})
    assert found("B-123456 and MAIL7", detector) == [("badge", "B-123456"), ("email", "MAIL7")]
    assert detector.classes({"x": ["B-123456"]}) == {"badge"}
    assert {"badge", "email", "iban"} <= detector.findable and MEDIA not in detector.findable


def test_own_classes_are_found_across_windows():
    detector = Detector({"badge": "B-[0-9]{6}"})
    for before in range(700, 1100, 3):
        assert [f.start for f in detector.find("x" * before + "B-123456" + "y" * 900)] == [before]


@pytest.mark.parametrize(
    "pattern", ["(", "", "a*", "(a+)+b", "(a|a)*b", "(a|ab)*c", "(.*,)*x", "a+b+c+d+e+", r"(a)\1", "x" * 1001]
)
def test_an_expression_that_cannot_be_used_is_refused_by_name(pattern):
    with pytest.raises(ValueError, match="badge"):
        Detector({"badge": pattern})


@pytest.mark.parametrize("name", ["media", "default", "Bad", "a b"])
def test_a_class_name_that_cannot_be_used_is_refused(name):
    with pytest.raises(ValueError, match=name):
        Detector({name: "x"})


HOSTILE = [
    "1",
    "@",
    "-",
    "1 ",
    "11 ",
    "4111 ",
    "a@",
    "a@a.",
    "+1",
    "(1",
    "0",
    ":",
    "a:",
    "\\",
    "\\u",
    "eyJ",
    "://",
    "://a:",
]
HOSTILE += [
    "-----BEGIN PRIVATE KEY",
    "-----BEGIN PRIVATE KEY-----",
    "password",
    "password:",
    "bearer ",
    "1.1.1.1.",
    "DE89",
]
HOSTILE += [
    "a.",
    "\u200b",
    "1\u200b",
    "&#",
    "[",
    '"',
    "{",
    "AKIA",
    "sk-",
    "tel",
    "tel:1",
    "0.",
    "00",
    "A1",
    "xox-",
    ".1",
]


def cpu_seconds(text):
    """Of the faster of two searches: another process does not count, a collection of garbage might."""
    seconds = []
    for _ in range(2):
        detector = Detector()  # one that has not searched yet remembers no text as clean
        start = time.process_time()
        detector.classes({"x": text})
        seconds.append(time.process_time() - start)
    return min(seconds)


SHAPES = {
    "strings that none ends": ('["', '\\"', ""),
    "a string that is cut off in an escape": ('["', '\\"', "\\"),
    "strings within a string that none ends": ('["[', '\\\\\\"', ""),
    "strings of one sign": ("[", '"\\"', ""),
    "names": ("{", '"a\\n":"b\\n",', ""),
    "a string that is none": ('["\\n', "\x01", ""),
    "a string that is no more one at its end": ('["', "\\n", "\x01"),
    "no file": ("data:", "a", ""),
    "no file either": ("data:a/", ";a", ""),
}


@pytest.mark.parametrize("piece", HOSTILE)
def test_hostile_text_costs_in_proportion_to_its_length(piece):
    """Eight times the text: quadratic would be sixty-four times the work."""
    small, large = (cpu_seconds(piece * (size // len(piece))) for size in (20_000, 160_000))
    assert large < 24 * small + 0.05


@pytest.mark.parametrize("shape", SHAPES)
def test_hostile_shapes_cost_in_proportion_to_their_length(shape):
    head, piece, tail = SHAPES[shape]
    small, large = (cpu_seconds(head + piece * (size // len(piece)) + tail) for size in (4_000, 32_000))
    assert large < 24 * small + 0.05


def nested(text, depth, end='"]'):
    for _ in range(depth):
        text = '["' + text.replace("\\", "\\\\").replace('"', '\\"') + end
    return text


@pytest.mark.parametrize("depth", [1, 8, 12])
@pytest.mark.parametrize("end", ['"]', ""])
def test_json_in_json_is_not_searched_again_at_each_level(depth, end):
    text = "4111 " * 10_000
    assert cpu_seconds(nested(text, depth, end)) < 5 * cpu_seconds(text) + 0.05


@pytest.mark.parametrize("value", ["bob@example.com", "\ud835\udfdc111111111111111", "\ud835\udfdc111 1111\n1111 1111"])
@pytest.mark.parametrize("filler", ["", "All is well. " * 200])
@pytest.mark.parametrize("detector", [DETECTOR, Detector({"badge": "B-[0-9]{6}"})])
def test_what_is_in_json_in_json_is_found(value, filler, detector):
    text = orjson.dumps([value.encode("utf-16", "surrogatepass").decode("utf-16")]).decode()
    for _ in range(4):
        text = json.dumps([filler + text, text + filler])
        assert detector.classes({"x": text}) == {"email" if "@" in value else "payment_card"}


def test_a_result_of_json_that_was_cut_off_costs_in_proportion_to_its_length():
    rows = orjson.dumps([{"id": i, "text": f'He said "hi" {i} times.\n'} for i in range(8000)]).decode()
    small, large = (cpu_seconds(orjson.dumps([rows[:size]]).decode()[:size]) for size in (20_000, 160_000))
    assert large < 24 * small + 0.05


def test_a_name_over_many_values_is_looked_at_once():
    """As much text again and again: quadratic would be sixty-four times the work."""
    seconds = [cpu_seconds([{"p" * size: ["a1b2"] * (size // 10)}]) for size in (8_000, 64_000)]
    assert seconds[1] < 24 * seconds[0] + 0.05


def test_what_is_no_json_is_not_taken_for_clean():
    with pytest.raises(TypeError):
        Detector().classes({"a": MappingProxyType({"b": "bob@example.org"})})


def test_what_was_clean_is_not_searched_again_until_it_is_forgotten():
    clean, said = Clean(), Said("The pump hums.")
    assert said not in clean
    clean.add(said)
    assert said in clean
    assert Said("The pump hums.", "password") not in clean, "under another key it may be a secret"
    for number in range(MOST_CLEAN):
        clean.add(Said(f"text {number}"))
    assert said in clean, "seen again, it stays"
    for number in range(3 * MOST_CLEAN):
        clean.add(Said(f"other {number}"))
    assert said not in clean
    clean.add(Said("x" * (LONGEST_CLEAN + 1)))
    assert Said("x" * (LONGEST_CLEAN + 1)) not in clean


def test_a_text_in_which_something_was_found_is_found_again():
    detector, raw = Detector(), {"messages": [{"role": "user", "content": "write to bob@example.org"}]}
    assert detector.classes(raw) == detector.classes(raw) == {"email"}
    clean = {"messages": [{"role": "user", "content": "The pump hums."}]}
    assert detector.classes(clean) == detector.classes(clean) == frozenset()
