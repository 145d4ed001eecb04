"""Calls are held to their grammar in every family's format, whether its marks are control tokens or text; what the
grammar allows is what the parser understands, and what models really write is allowed."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from backends.errors import InvalidRequest
from backends.llama.bindings import Model
from backends.llama.constraint import Constraint
from backends.llama.family import Calls, Family, Opening
from backends.llama.grammar import Grammars, canonical
from backends.llama.talk import Parser
from backends.types import Grammar, NamedTool
from tests.llama.listening import BY_NAME, WRITE, Heard, each, heard, recordings, talk
from tests.llama.vocabulary import write_vocabulary

ENDS = ("<|call|>", "<|return|>")
MOST_TOKENS = 3000

STATUS = {
    "type": "object",
    "properties": {"id": {"enum": ["P-1", "P-2"]}, "all": {"type": "boolean"}},
    "required": ["id"],
    "additionalProperties": False,
}
STOP = {
    "type": "object",
    "properties": {"delay": {"$ref": "#/$defs/seconds"}, "why": {"anyOf": [{"type": "null"}, {"const": 7}]}},
    "required": ["delay", "why"],
    "additionalProperties": False,
    "$defs": {"seconds": {"type": "integer", "minimum": 0, "maximum": 9}},
}
SCHEMAS = {"get_status": STATUS, "stop": STOP}
TOOLS = [{"type": "function", "function": {"name": n, "parameters": s}} for n, s in SCHEMAS.items()]


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Every family's marks are control tokens."""
    marks = {mark for family in BY_NAME.values() for mark in talk(family).control_marks(tools=True)}
    path = tmp_path_factory.mktemp("vocabulary") / "marked.gguf"
    return Model(write_vocabulary(path, [*sorted(marks), *ENDS], "<|return|>"), vocab_only=True)


@pytest.fixture(scope="module")
def plain(model_file: Path) -> Model:
    """None is: a real vocabulary of another family."""
    return Model(model_file, vocab_only=True)


def grammars_of(model: Model, family: Family) -> Grammars:
    return Grammars(model.grammar_tokenizer, model.n_vocab, model.control_token, talk(family))


def follows(model: Model, constraint: Constraint, text: str) -> bool:
    """Whether all of a text is allowed, and may end there."""
    for token in model.tokenize(text, special=True, begin=False):
        if constraint.blocked()[token]:
            return False
        constraint.take([token])
    return constraint.done or not all(constraint.blocked()[token] for token in model.eog)


def walk(model: Model, constraint: Constraint, rng: random.Random) -> str | None:
    """A completion chosen at random among what is allowed, control tokens and ends first; None: it got too long."""
    control = {token for token in range(model.n_vocab) if model._is_control(token)} - model.eog
    short = [token for token in range(model.n_vocab) if len(model.piece(token)) <= 2 and token not in model.eog]
    text = b""
    for _ in range(MOST_TOKENS):
        blocked = constraint.blocked()
        ends = [token for token in model.eog if not blocked[token]]
        marks = [token for token in control if not blocked[token]]
        if ends and rng.random() < 0.5:
            return text.decode()
        allowed = marks if marks and rng.random() < 0.5 else [token for token in short if not blocked[token]]
        allowed = allowed or marks or [token for token in range(model.n_vocab) if not blocked[token]]
        closing = [token for token in allowed if model.piece(token) in (b"}", b"]", b'"', b"<")]
        token = rng.choice(closing if closing and rng.random() < 0.4 else allowed)
        if token in model.eog:
            return text.decode()
        constraint.take([token])
        text += model.piece(token)
        if constraint.done:
            return text.decode()
    return None


def check_calls(got: Heard) -> None:
    assert got.unfinished == []
    for name, arguments in got.calls:
        jsonschema.validate(arguments, SCHEMAS[name])


@each
@pytest.mark.parametrize("vocabulary", ["marked", "plain"])
def test_what_is_allowed_where_a_call_is_required_is_calls(
    family: Family, vocabulary: str, request: pytest.FixtureRequest
) -> None:
    if family.always and vocabulary == "plain":
        vocabulary = "marked"  # thoughts whose end is spelled letter by letter do not end at random
    model: Model = request.getfixturevalue(vocabulary)
    grammars, finished = grammars_of(model, family), 0
    for seed in range(6):
        choice: Any = "required" if seed % 2 else NamedTool("stop")
        calls = Calls.asked(TOOLS, choice, parallel=seed % 3 == 0)
        opening: Opening = "may think" if family.always else "answer"
        text = walk(model, grammars.compile(calls.grammar(), opening), random.Random(seed))
        if text is None:
            continue
        finished += 1
        got = heard(Parser(talk(family), calls, "may think"), text)
        check_calls(got)
        assert got.calls
        assert choice == "required" or [name for name, _ in got.calls] == ["stop"]
        if not family.always:
            assert (got.said, got.thought) == ("", "")
    assert finished >= 3


@pytest.mark.parametrize(("family", "one"), recordings())
@pytest.mark.parametrize("vocabulary", ["marked", "plain"])
def test_what_models_wrote_is_allowed(
    family: Family, one: dict[str, Any], vocabulary: str, request: pytest.FixtureRequest
) -> None:
    if "impossible" in one or not one["tools"]:
        return
    model: Model = request.getfixturevalue(vocabulary)
    calls = Calls.asked(one["tools"], "auto", parallel=True)
    text = one["text"].removesuffix(ENDS[0]).removesuffix(ENDS[1])
    assert follows(model, grammars_of(model, family).compile(calls.grammar(), "may think"), text)


@each
@pytest.mark.parametrize("vocabulary", ["marked", "plain"])
def test_other_functions_and_other_arguments_are_not_allowed(
    family: Family, vocabulary: str, request: pytest.FixtureRequest
) -> None:
    model: Model = request.getfixturevalue(vocabulary)
    grammars = grammars_of(model, family)
    for choice in ("auto", "required"):
        calls = Calls.asked(TOOLS, choice, parallel=True)
        for call, right in (
            (("get_status", {"id": "P-1"}), True),
            (("get_status", {"id": "P-3"}), False),
            (("get_status", {}), False),
            (("start", {"id": "P-1"}), False),
        ):
            text = WRITE[family.name]([call], None).removesuffix(ENDS[0])
            for before in ("", "I see.\n") if choice == "auto" and family.open else ("",):
                asked = grammars.compile(calls.grammar(), "may think")
                assert follows(model, asked, before + text) is right, (call, choice)


@each
def test_several_calls_only_where_they_are_wanted(family: Family, marked: Model) -> None:
    call = ("get_status", {"id": "P-1"})
    text = WRITE[family.name]([call, call], None).removesuffix(ENDS[0])
    if family.name in ("llama3", "gpt-oss"):
        return  # one at a time
    for parallel in (True, False):
        calls = Calls.asked(TOOLS, "required", parallel=parallel)
        assert follows(marked, grammars_of(marked, family).compile(calls.grammar()), text) is parallel


# -- thoughts before what must have a form -----------------------------------------------------------------------------

SCHEMA = Grammar(
    "json_schema", canonical({"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]})
)


HM = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"


@pytest.mark.parametrize(
    ("family", "opening", "text", "right"),
    [
        ("hermes", "may think", '{"ok": true}', True),
        ("hermes", "may think", '<think>\nHm.\n</think>\n\n{"ok": true}', True),
        ("hermes", "thinking", 'Hm.\n</think>\n\n{"ok": true}', True),
        ("hermes", "thinking", '{"ok": true}', False),
        ("hermes", "may think", "<think>\nHm.\n</think>\n\nYes.", False),
        ("hermes", "answer", '<think>Hm.</think>{"ok": true}', False),
        ("gpt-oss", "may think", '<|channel|>final<|message|>{"ok": true}', True),
        ("gpt-oss", "may think", HM + '<|channel|>final <|constrain|>json<|message|>{"ok": true}', True),
        ("gpt-oss", "may think", "<|channel|>final<|message|>Yes.", False),
        ("gpt-oss", "answer", '{"ok": true}', True),
    ],
)
@pytest.mark.parametrize("vocabulary", ["marked", "plain"])
def test_a_thought_may_come_before_a_form(
    family: str, opening: Opening, text: str, right: bool, vocabulary: str, request: pytest.FixtureRequest
) -> None:
    model: Model = request.getfixturevalue(vocabulary)
    assert follows(model, grammars_of(model, BY_NAME[family]).compile(SCHEMA, opening), text) is right


@pytest.mark.parametrize("kind", ["regex", "lark", "gbnf"])
def test_before_other_grammars_too(kind: Any, marked: Model) -> None:
    source = {"regex": "yes|no", "lark": 'start: "yes" | "no"', "gbnf": 'root ::= "yes" | "no"'}[kind]
    grammars = grammars_of(marked, BY_NAME["hermes"])
    for text, right in (("<think>Hm.</think>\n\nno", True), ("no", True), ("<think>Hm.</think>maybe", False)):
        assert follows(marked, grammars.compile(Grammar(kind, source), "may think"), text) is right


@each
def test_a_thought_may_come_before_a_call(family: Family, marked: Model) -> None:
    thought = "<think>\nHm.\n</think>\n\n"
    if family.always:
        thought = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
    text = thought + WRITE[family.name]([("get_status", {"id": "P-2"})], None).removesuffix(ENDS[0])
    for choice in ("auto", "required"):
        calls = Calls.asked(TOOLS, choice, parallel=True)
        assert follows(marked, grammars_of(marked, family).compile(calls.grammar(), "may think"), text)


def test_a_text_that_xml_cannot_be_held_to_is_refused_where_it_is_strict(marked: Model) -> None:
    parameters = {"type": "object", "properties": {"day": {"type": "string", "format": "date"}}}
    function = {"name": "f", "parameters": parameters}
    for strict in (True, False):
        calls = Calls.asked([{"function": {**function, "strict": strict}}], "required", parallel=False)
        grammars = grammars_of(marked, BY_NAME["qwen-xml"])
        if strict:
            with pytest.raises(InvalidRequest, match=r"function 'f' cannot be enforced.*'format'") as caught:
                grammars.compile(calls.grammar())
            assert caught.value.code == "unsupported_schema"
        else:
            assert grammars.compile(calls.grammar())


@each
def test_a_form_beside_tools(family: Family, marked: Model) -> None:
    calls = Calls.asked(TOOLS, "auto", parallel=True, otherwise=SCHEMA)
    grammars, final = grammars_of(marked, family), "<|channel|>final<|message|>" if family.always else ""
    call = WRITE[family.name]([("get_status", {"id": "P-1"})], None).removesuffix(ENDS[0])
    for text, right in ((final + '{"ok": true}', True), (call, True), (final + "Yes.", False), (final + "{}", False)):
        assert follows(marked, grammars.compile(calls.grammar(), "may think"), text) is right, text


def test_a_form_beside_tools_that_cannot_be_enforced_is_refused_as_the_form(marked: Model) -> None:
    form = Grammar("json_schema", canonical({"type": "array", "uniqueItems": True}))
    calls = Calls.asked(TOOLS, "auto", parallel=True, otherwise=form)
    with pytest.raises(InvalidRequest, match=r"JSON schema cannot be enforced.*uniqueItems") as caught:
        grammars_of(marked, BY_NAME["hermes"]).compile(calls.grammar(), "may think")
    assert caught.value.param == "response_format"
    with pytest.raises(InvalidRequest, match="cannot be combined"):
        Calls.asked(TOOLS, "auto", parallel=True, otherwise=Grammar("regex", "a", "grammar"))
