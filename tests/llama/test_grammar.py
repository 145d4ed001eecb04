"""Grammars against the real model's vocabulary: whatever is chosen among what is allowed, the result is valid."""

from __future__ import annotations

import json
import random
import re

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends.errors import InvalidRequest
from backends.llama.bindings import Model
from backends.llama.grammar import MOST_SOURCE_BYTES, Grammars, canonical
from backends.types import Grammar

CLOSING = b'"]}'


@pytest.fixture(scope="module")
def model(model_file):
    return Model(model_file, vocab_only=True)


@pytest.fixture(scope="module")
def grammars(model):
    return Grammars(model.grammar_tokenizer, model.n_vocab)


def schema(value):
    return Grammar("json_schema", canonical(value))


def walk(model, constraint, rng, limit=3000):
    """A completion chosen at random among what is allowed, with a leaning towards its end; None: it got too long."""
    text = b""
    short = [t for t in range(model.n_vocab) if 0 < len(model.piece(t)) <= 2 and t not in model.eog]
    for _ in range(limit):
        blocked = constraint.blocked()
        ends = [t for t in model.eog if not blocked[t]]
        if ends and rng.random() < 0.5:
            return text
        choice = [t for t in short if not blocked[t]]
        closing = [t for t in choice if model.piece(t) in (b'"', b"]", b"}", b"],", b'",', b'"}', b"},")]
        if closing and rng.random() < 0.4:
            token = rng.choice(closing)
        elif choice:
            token = rng.choice(choice)
        else:
            allowed = [t for t in range(model.n_vocab) if not blocked[t]]
            assert allowed, f"nothing may follow {text!r}"
            token = rng.choice(allowed)
        if token in model.eog:
            return text
        constraint.take([token])
        text += model.piece(token)
        if constraint.done:
            return text
    return None


leaves = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.builds(
        lambda a, n: {"type": "integer", "minimum": a, "maximum": a + n}, st.integers(-99, 99), st.integers(0, 99)
    ),
    st.just({"type": "number"}),
    st.builds(
        lambda a, n: {"type": "string", "minLength": a, "maxLength": a + n}, st.integers(0, 3), st.integers(0, 9)
    ),
    st.sampled_from([{"type": "string", "pattern": "^[A-Z]{2}-[0-9]{1,4}$"}, {"type": "string", "format": "date"}]),
    st.builds(
        lambda v: {"enum": v}, st.lists(st.sampled_from(["a", "b", 1, None, True, "ä€"]), min_size=1, unique_by=repr)
    ),
    st.builds(lambda v: {"const": v}, st.sampled_from(["x", 7, None, [1, {"k": "v"}]])),
)


def nested(inner):
    names = st.lists(st.sampled_from(["name", "tag", "wert", 'n"q', "größe"]), min_size=1, max_size=4, unique=True)

    def record(keys, values, required, closed):
        made = {"type": "object", "properties": dict(zip(keys, values, strict=False)), "required": keys[:required]}
        return {**made, "additionalProperties": False} if closed else made

    return st.one_of(
        st.builds(record, names, st.lists(inner, min_size=4, max_size=4), st.integers(0, 4), st.just(True)),
        st.builds(
            lambda items, a, n: {"type": "array", "items": items, "minItems": a, "maxItems": a + n},
            inner,
            st.integers(0, 2),
            st.integers(0, 3),
        ),
        st.builds(lambda several: {"anyOf": several}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda target: {"$ref": "#/$defs/t", "$defs": {"t": target}}, leaves),
    )


@given(wanted=st.recursive(leaves, nested, max_leaves=8), seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_allowed_validates(model, grammars, wanted, seed):
    if "$ref" in json.dumps(wanted) and "$ref" not in wanted:
        return  # a reference leads to the root's definitions
    text = walk(model, grammars.compile(schema(wanted)), random.Random(seed))
    if text is not None:
        jsonschema.validate(json.loads(text), wanted)


@pytest.mark.parametrize(
    ("kind", "source", "pattern"),
    [
        ("regex", r"(pump|valve)-[0-9]{3}", r"(pump|valve)-[0-9]{3}"),
        ("lark", 'start: "yes" | "no"', r"yes|no"),
        ("gbnf", 'root ::= "a" ("b" | "c"){2,3}', r"a[bc]{2,3}"),
    ],
)
def test_other_grammars(model, grammars, kind, source, pattern):
    for seed in range(5):
        text = walk(model, grammars.compile(Grammar(kind, source)), random.Random(seed))
        assert re.fullmatch(pattern, text.decode())


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"type": "object", "properties": {"a": {"not": {"type": "string"}}}}, "not"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"if": {"const": 1}, "then": {"const": 2}}, "if"),
        ({"$ref": "https://elsewhere.example/schema.json"}, "elsewhere.example"),
        ({"type": "string", "pattern": "(?=a)b"}, "`pattern`: regex parse error: (?=a)b ^^^ error: look-around"),
        ({"type": "objct"}, "objct"),
        ({"type": "string", "format": "weird"}, "weird"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, "`$ref`: it leads back to itself without end"),
        ({"$ref": "#/$defs/gone"}, "`$ref`: '#/$defs/gone' leads nowhere"),
        ({"type": "integer", "minimum": 5, "maximum": 4}, ""),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "`oneOf`: a value may satisfy two"),
        ({"enum": ["x" * 64] * 5000}, "longer than"),
    ],
)
def test_what_cannot_be_enforced_is_refused_by_name(grammars, wanted, said):
    with pytest.raises(InvalidRequest, match="JSON schema cannot be enforced") as caught:
        grammars.compile(schema(wanted))
    assert said in caught.value.message
    assert caught.value.param == "response_format"
    assert caught.value.code == "unsupported_schema"


def test_a_union_with_a_discriminator_is_enforced(model, grammars):
    """As pydantic writes it."""
    parts = {
        name: {
            "type": "object",
            "properties": {"kind": {"const": name, "type": "string"}, "size": {"type": kind}},
            "required": ["kind", "size"],
            "additionalProperties": False,
        }
        for name, kind in (("bolt", "integer"), ("seal", "boolean"))
    }
    one = {"discriminator": {"propertyName": "kind"}, "oneOf": [{"$ref": f"#/$defs/{name}"} for name in parts]}
    wanted = {"type": "array", "items": one, "minItems": 2, "maxItems": 4, "$defs": parts}
    texts = [walk(model, grammars.compile(schema(wanted)), random.Random(seed)) for seed in range(10)]
    assert any(texts)
    for text in filter(None, texts):
        jsonschema.validate(json.loads(text), wanted)


@pytest.mark.parametrize(
    ("kind", "source"), [("lark", "start: ("), ("gbnf", "root ::= ("), ("regex", "("), ("json_schema", "5")]
)
def test_what_is_no_grammar_is_refused(grammars, kind, source):
    with pytest.raises(InvalidRequest, match="cannot be enforced"):
        grammars.compile(Grammar(kind, source))


def test_a_grammar_is_compiled_once_and_followed_apart(model):
    made = []

    def tokenizer():
        made.append(1)
        return model.grammar_tokenizer()

    grammars = Grammars(tokenizer, model.n_vocab)
    grammars.warm()
    one, other = (grammars.compile(Grammar("lark", 'start: "ab" | "cd"')) for _ in range(2))
    a, c = (model.tokenize(text, special=False, begin=False)[0] for text in ("a", "c"))
    one.take([a])
    assert made == [1]
    assert one.blocked()[c]
    assert not other.blocked()[c]


def test_a_vocabulary_that_cannot_have_grammars_fails_when_one_is_asked_for():
    def tokenizer():
        raise ValueError("no such vocabulary")

    grammars = Grammars(tokenizer, 10)
    grammars.warm()
    with pytest.raises(ValueError, match="no such vocabulary"):
        grammars.compile(Grammar("lark", 'start: "a"'))


def test_what_is_prepared_for_sampling_is_what_the_mask_says(model, grammars):
    """Few tokens one by one, many as an addition; whichever it is, it is the same tokens."""
    kinds = set()
    for source in ('"ab" | "cd"', '/[a-z]+/ "!"', '/(.|\\n)*/ "end"', '"a" /[0-9]{3}/ /[^x]*/'):
        constraint = grammars.compile(Grammar("lark", f"start: {source}"))
        rng = random.Random(1)
        while not constraint.done:
            allowed, free = constraint.allowed(), np.flatnonzero(~constraint.blocked())
            assert len(free)
            if allowed.few is not None:
                assert allowed.few.tolist() == free.tolist()
            else:
                assert np.flatnonzero(allowed.added == 0).tolist() == free.tolist()
                assert len(allowed.added) == model.n_vocab
                assert np.isneginf(allowed.added).sum() == model.n_vocab - len(free)
            kinds.add((source, allowed.few is None))
            token = rng.choice(free.tolist())
            if token in model.eog or rng.random() < 0.05:
                break
            constraint.take([token])
    assert {many for _, many in kinds} == {True, False}


def test_a_token_that_is_not_allowed_ends_it(model, grammars):
    constraint = grammars.compile(Grammar("lark", 'start: "ab"'))
    wrong = model.tokenize("z", special=False, begin=False)[0]
    assert constraint.blocked()[wrong]
    with pytest.raises(ArithmeticError):
        constraint.take([wrong])


def test_a_longer_source_is_not_looked_at(grammars):
    with pytest.raises(InvalidRequest, match="longer than 256 KB"):
        grammars.compile(Grammar("lark", "x" * (MOST_SOURCE_BYTES + 1)))
