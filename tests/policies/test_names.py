"""Names: what a model says of pieces becomes words, and words are found wherever they stand."""

import random

import orjson
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from policies.detect import Detector
from policies.detect_given import Given
from policies.detect_text import plain
from policies.name_places import PLACES
from policies.names import OVERLAP, WINDOW, literals, spans_of, texts_of, windows
from policies.redact import redact

NAMES = ("Maria Gonzales", "J. R. van der Berg", "Öztürk", "O'Brien", "Müller-Lüdenscheidt", "An Nguyen")
NAMED = Detector(given=("name",))


def pieces(text, *said):
    return [(text.index(word), text.index(word) + len(word), label, p) for word, label, p in said]


def whole(text, *said):
    return [text[start:end] for start, end in spans_of(text, pieces(text, *said))]


@pytest.mark.parametrize(
    ("text", "said", "names"),
    [
        ("Ask Maria about it", [("Maria", "GIVEN_NAME", 0.5)], ["Maria"]),
        ("Ask Maria about it", [("Maria", "GIVEN_NAME", 0.49)], []),
        ("Ask Maria about it", [("Maria", "CITY", 0.9)], []),
        ("Ask Maria about it", [("Ma", "B-GIVEN_NAME", 0.3), ("Ma", "B-SURNAME", 0.3)], ["Maria"]),
        ("Ask Maria Gonz", [("Maria", "GIVEN_NAME", 0.9), ("Gonz", "SURNAME", 0.15)], ["Maria Gonz"]),
        ("Ask Maria Gonz", [("Maria", "GIVEN_NAME", 0.9), ("Gonz", "SURNAME", 0.14)], ["Maria"]),
        ("Ask Maria, Gonz", [("Maria", "GIVEN_NAME", 0.9), ("Gonz", "SURNAME", 0.3)], ["Maria"]),
        ("by J. R. Smith", [("Smith", "SURNAME", 0.9)], ["J. R. Smith"]),
        ("by i Smith", [("Smith", "SURNAME", 0.9)], ["Smith"]),
        ("Jan van der Berg", [("Jan", "GIVEN_NAME", 0.9), ("Berg", "SURNAME", 0.9)], ["Jan van der Berg"]),
        ("Jan van Amsterdam", [("Jan", "GIVEN_NAME", 0.9)], ["Jan"]),
        ("Ann saw Bob", [("Ann", "GIVEN_NAME", 0.9), ("Bob", "GIVEN_NAME", 0.9)], ["Ann", "Bob"]),
        ("", [], []),
    ],
)
def test_a_name_grows_from_a_sure_word(text, said, names):
    assert whole(text, *said) == names


def test_a_name_counts_as_a_whole_and_by_its_words():
    assert literals(["J. R. van der Berg", "Maria Li's", "Müller-Lüdenscheidt"]) == [
        *("J. R. van der Berg", "Berg", "Maria Li", "Maria", "Li"),
        *("Müller-Lüdenscheidt", "Müller", "Lüdenscheidt"),
    ]


@given(st.text(st.sampled_from("ab \n"), max_size=2000))
def test_windows_hold_every_place_of_the_text_and_every_short_word_whole(text):
    at, ends = 0, 0
    for window in windows(text):
        assert len(window) <= WINDOW
        at = text.index(window, max(0, ends - OVERLAP))
        assert at <= ends
        ends = at + len(window)
    assert ends == len(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ask MARIA GONZALES", ["MARIA GONZALES"]),
        ("Gonzales, GONZALES and gonzales", ["Gonzales", "GONZALES"]),
        ("Gonzales's and Maria_Gonzales, Gonzalesville", ["Gonzales", "Maria", "Gonzales"]),
        ("Maria  Gonzales", ["Maria", "Gonzales"]),
        ("Ma\u200bria, M\\u0061ria", ["Ma\u200bria", "M\\u0061ria"]),
        ("an engineer asked An", ["An"]),
        ("the will of Will", ["Will"]),
    ],
)
def test_given_words_are_found_whole(text, found):
    detector = NAMED.also("name", literals(["Maria Gonzales", "An", "Will"]))
    assert [text[f.start : f.end] for f in detector.find(text)] == found


@given(st.lists(st.text(max_size=6), max_size=6), st.text(max_size=60))
def test_whatever_is_given_what_is_found_is_there(values, text):
    seen = plain(text)
    for cls, start, end in Given.of("name", values).find(seen):
        assert cls == "name"
        assert 0 <= start < end <= len(seen.text)
        assert any(seen.lower[start:end] == value.lower for value in Given.of("name", values).values)


def test_the_detector_itself_learns_nothing():
    raw = {"messages": [{"role": "user", "content": "Ask Maria"}]}
    assert NAMED.also("name", ["Maria"]).classes(raw) == {"name"}
    assert NAMED.classes(raw) == frozenset()
    assert NAMED.also("name", []) is NAMED
    assert "name" in NAMED.findable and "name" not in Detector().findable


def test_what_was_clean_before_is_searched_for_what_is_given():
    detector = Detector(given=("name",))
    raw = {"model": "maria", "messages": []}
    assert detector.classes(raw) == frozenset()
    assert detector.also("name", ["maria"]).classes(raw) == {"name"}


def test_an_address_with_a_name_in_it_is_an_address():
    text = "write to maria@example.com"
    detector = NAMED.also("name", ["maria"])
    assert [(f.cls, text[f.start : f.end]) for f in detector.find(text)] == [("email", "maria@example.com")]
    assert [text[f.start : f.end] for f in detector.find(text, {"name"})] == ["maria"]


def test_which_texts_are_searched():
    raw = {
        "model": "acme/Maria",
        "user": "Maria Li",
        "tools": [{"type": "function", "function": {"name": "call_maria", "description": "Calls somebody."}}],
        "metadata": {"name": "Bob Li", "n": 12345678901},
        "messages": [
            {"role": "user", "name": "Maria", "content": [{"type": "text", "text": "Ask\u200b Bob \\ud83d\\udd11"}]},
            {"role": "tool", "name": "call_maria", "tool_call_id": "call_Maria", "content": "{}"},
        ],
    }
    assert set(texts_of(raw)) == {"Maria Li", "Calls somebody.", "Bob Li", "Maria", "Ask Bob \ufffd\ufffd"}


IMAGE = {"type": "image_url", "image_url": {"url": "https://pictures.example/John-Miller.png"}}
CALL = {"id": "call_John", "type": "function", "function": {"name": "John", "arguments": "{}"}}
OF_THE_WIRE = {
    "model": "acme/John",
    "response_format": {"type": "json_schema", "json_schema": {"name": "John", "schema": {"$ref": "#/$defs/John"}}},
    "tool_choice": {"type": "function", "function": {"name": "John"}},
    "tools": [
        {"type": "function", "function": {"name": "John", "parameters": {"items": [{"$ref": "#/John"}]}}},
    ],
    "messages": [
        {"role": "assistant", "tool_calls": [CALL], "content": None},
        {"role": "tool", "name": "John", "tool_call_id": "call_John", "content": ""},
        {"role": "user", "content": [IMAGE, {"type": "file", "file": {"file_id": "John"}}]},
        {"role": "user", "content": [{"type": "file", "file": {"file_data": "JohnMillerJohnMiller"}}]},
    ],
}  # fmt: skip


def test_only_what_stands_at_its_place_in_its_form_is_not_searched():
    assert texts_of(OF_THE_WIRE) == []
    spaced = orjson.loads(orjson.dumps(OF_THE_WIRE).replace(b"John", b"John Miller"))
    assert set(texts_of(spaced)) == {
        *("John Miller", "call_John Miller", "acme/John Miller", "#/$defs/John Miller", "#/John Miller"),
        *("https://pictures.example/John Miller-Miller.png", "John MillerMillerJohn MillerMiller"),
    }


KEYS = (
    *("id", "url", "data", "pattern", "name", "role", "type", "model", "format", "object", "detail", "tool_choice"),
    *(
        "tool_call_id",
        "file_id",
        "file_data",
        "$ref",
        "reasoning_effort",
        "image_url",
        "function",
        "messages",
        "tools",
        "[]",
    ),
)
PLANTED = "Miller"


@st.composite
def bodies_with_a_name(draw):
    """A body in which a name stands under keys of the wire in odd places."""
    keys = draw(st.lists(st.sampled_from(KEYS) | st.text("abc\0", min_size=1, max_size=3), min_size=1, max_size=6))
    value = draw(st.sampled_from([PLANTED, f"John {PLANTED}", [PLANTED]]))
    for key in reversed(keys):
        value = {key: value} if draw(st.booleans()) else [{"type": "text", key: value}]
    at = draw(st.sampled_from(["metadata", "prompt", "x", "messages", "message", "schema", "image_url"]))
    if at == "message":
        return {"messages": [{"role": "user", "content": "", "extra": value}]}
    if at == "schema":
        return {"tools": [{"type": "function", "function": {"name": "f", "parameters": value}}]}
    if at == "image_url":
        return {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": value}]}]}
    return {at: value}


@settings(max_examples=500, deadline=None)
@given(bodies_with_a_name())
def test_a_name_under_any_key_at_any_depth_is_searched_but_at_the_places_of_the_wire(raw):
    assume(not at_its_place(raw))
    assert any(PLANTED in text for text in texts_of(raw))


def at_its_place(raw):
    """By the list of places alone, and not by the walk."""

    def paths(value, path):
        if isinstance(value, str) and PLANTED in value:
            yield path, value
        for name, item in value.items() if isinstance(value, dict) else ():
            yield from paths(item, f"{path}.{name}")
        for item in value if isinstance(value, list) else ():
            yield from paths(item, f"{path}[]")

    return any(
        form.fullmatch(value) and path.removeprefix(".") in places.split()
        for path, value in paths(raw, "")
        for form, places in PLACES.items()
    )


def test_what_the_gateway_wrote_is_not_searched_and_all_else_is():
    raw = {"messages": [{"content": "Sort: red"}, {"content": "Sort: red."}], "enum": ["red", "Red"]}
    assert set(texts_of(raw, frozenset({"Sort: red", "red"}))) == {"Sort: red.", "Red"}


def test_what_is_no_json_is_not_taken_for_clean():
    with pytest.raises(TypeError):
        texts_of({"metadata": {"x": {"Miller"}}})


@pytest.mark.parametrize("messages", [None, "Maria", [None, "Maria", {"name": 3}]])
def test_an_odd_body_is_no_hindrance(messages):
    assert texts_of({"messages": messages}) in ([], ["Maria"])


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32))
def test_names_never_leave_a_redacted_body(seed):
    rng = random.Random(seed)
    names = rng.sample(NAMES, rng.randint(1, 3))
    words = [w for name in names for w in (name, name.upper(), literals([name])[-1], literals([name])[-1].upper())]
    fill = ["the pump", "an engineer", "12.5 bar", "see", "über", "\n", "(", '"']

    def text():
        return " ".join(rng.choice((rng.choice(words), rng.choice(fill))) for _ in range(rng.randint(1, 12)))

    said = [text() for _ in range(4)]
    raw = {
        "messages": [
            {"role": "user", "content": said[0]},
            {"role": "user", "content": [{"type": "text", "text": said[1]}]},
            {"role": "tool", "tool_call_id": "c", "content": orjson.dumps({"a": [said[2]]}).decode()},
        ],
        "metadata": {"by": said[3]},
    }
    redacted = redact(raw, frozenset({"name"}), NAMED.also("name", literals(names)))
    left = orjson.dumps(redacted.raw).decode() + str(redacted.raw)
    for word in words:
        assert f" {word} " not in f" {left} " and f'"{word}"' not in left
    assert any(word in str(raw) for word in words) == bool(redacted.originals)
