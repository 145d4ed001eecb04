"""What happens to inputs of which a classifier is not sure, on the box."""

import asyncio
from dataclasses import replace
from math import log

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import Overloaded
from backends.fake import FakeBackend, say
from backends.types import Chunk, Features, Image, Request, TokenLogprob, Usage
from gateway.audit_reader import decisions
from gateway.classify.confidence import said_confidence
from gateway.classify.escalation import MOST_QUESTIONS, Escalation, merged
from gateway.classify.question import Abilities, Shown, answered_label, question
from gateway.config import ConfigError
from gateway.schemas.classify import Escalate
from gateway.schemas.task_responses import Classification
from gateway.sse import Folded
from policies.names import texts_of
from tests.gateway.conftest import living
from tests.gateway.small_models import SmallModel, judging, manifest

pytestmark = pytest.mark.anyio
PATH = "/v1/classify"
LABELS = ("pump", "valve")


def half_sure(name="c", **fields):
    """Sure of what drips, and of nothing else."""
    judge = judging(lambda text: {"pump": 0.875, "valve": 0.125} if text == "drips" else {"pump": 0.5, "valve": 0.375})
    return SmallModel(name, judge, manifest=manifest(name=name, confidence=0.625, **fields))


def llm(*said, name="m", **fields):
    return FakeBackend(name, say(*said), **fields)


async def ask(exchange, app, **body):
    begun = exchange(app, {"model": "c", "input": "hums", **body}, PATH)
    await begun.end()
    if begun.status == 200:
        Classification.model_validate_json(begun.body)
    return begun


async def result_of(exchange, app, **body):
    (result,) = (await ask(exchange, app, **body)).json["results"]
    return result


async def test_nobody_else_is_asked_unless_somebody_says_so(make_app, exchange):
    model = llm('{"label": "valve"}')
    result = await result_of(exchange, make_app(model, half_sure()))
    assert (result["source"], result["label"], result["why"]) == ("edge", "pump", "")
    assert model.requests == []


async def test_who_is_sure_asks_nobody(make_app, exchange):
    model = llm('{"label": "valve"}')
    result = await result_of(exchange, make_app(model, half_sure()), input="drips", escalate=True)
    assert (result["source"], result["why"]) == ("edge", "0.875 is at least 0.625")
    assert model.requests == []


async def test_a_language_model_decides_where_the_classifier_is_not_sure(make_app, exchange):
    model = llm('{"label": ', '"valve"}')
    begun = await ask(exchange, make_app(model, half_sure()), input=["drips", "hums"], escalate=True)
    sure, other = begun.json["results"]
    assert sure["source"] == "edge"
    assert other.pop("latency_ms") > 0
    assert other == {
        "index": 1, "model": "c", "version": "7", "label": "valve", "confidence": None, "labels": {"valve": None},
        "source": "local_llm", "route": "local/m", "edge_label": "pump", "edge_confidence": 0.5,
        "why": "0.5 is below 0.625; local/m was asked",
    }  # fmt: skip
    assert begun.headers["x-outstation-route"] == "local/c"
    assert begun.headers["x-outstation-reason"].endswith("1 of 2 unsure, 1 answered by others")
    assert begun.json["usage"] == {"prompt_tokens": 4 + 3, "completion_tokens": 2, "total_tokens": 9}
    (asked,) = model.requests
    assert (asked.kind, asked.sampling.temperature) == ("chat", 0.0)
    assert asked.messages[1]["content"] == "hums"
    assert all(label in asked.messages[0]["content"] for label in LABELS)
    assert asked.raw["response_format"]["json_schema"]["schema"]["properties"]["label"]["enum"] == list(LABELS)
    assert asked.grammar.kind == "json_schema"


async def test_each_question_has_its_row_in_the_audit(make_app, exchange, tmp_path):
    app = make_app(llm('{"label": "valve"}'), half_sure())
    async with living(app):
        begun = await ask(exchange, app, input=["hums", "rattles", "drips"], escalate={"below": 0.6})
    name = begun.headers["x-request-id"]
    rows = {row.request_id: row for row in decisions(tmp_path / "audit.db", 0.0)}
    assert {key: row.route for key, row in rows.items()} == {
        name: "local/c", f"{name}.2": "local/m", f"{name}.3": "local/m",
    }  # fmt: skip
    assert {row.ending for row in rows.values()} == {"success"}
    assert {row.endpoint for row in rows.values()} == {PATH}


async def test_the_confidence_of_a_language_model_is_that_of_the_label_it_wrote(make_app, exchange):
    half, quarter = log(0.5), log(0.25)
    rivals = (TokenLogprob("pu", quarter, ()), TokenLogprob("I", quarter, ()), TokenLogprob("val", half, ()))
    tokens = [('{"label": "', -3.0, ()), ("val", half, rivals), ("ve", -0.25, ()), ('"}', -9.0, ())]
    script = [
        *(Chunk(0, text, logprobs=(TokenLogprob(text, p, (), top),)) for text, p, top in tokens),
        Chunk(0, finish_reason="stop"),
        Usage(1, 4),
    ]
    model = FakeBackend("m", lambda _: script)
    result = await result_of(exchange, make_app(model, half_sure()), escalate=True)
    assert result["confidence"] == pytest.approx(0.5 / 0.75)
    assert result["labels"] == {"valve": result["confidence"]}
    assert model.requests[0].sampling.top_logprobs == 5


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (llm("I think that it is a valve."), "local/m named none of the labels"),
        (llm('{"label": "hose"}'), "local/m named none of the labels"),
        (llm('{"label": "pump", "because": "x"}'), "local/m named none of the labels"),
        (FakeBackend("m", lambda _: [Overloaded("full", retry_after=1)]), "auto: queue_full"),
    ],
)
async def test_what_the_classifier_said_stays(make_app, exchange, model, why):
    result = await result_of(exchange, make_app(model, half_sure()), escalate=True)
    assert (result["source"], result["label"], result["confidence"]) == ("edge", "pump", 0.5)
    assert result["why"] == f"0.5 is below 0.625; {why}"


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"escalate": {"to": "e"}}, "e: wrong_task"),
        ({"escalate": {"to": "c"}}, "c: wrong_task"),
        ({"escalate": {"to": "v"}}, "v: wrong_input"),
        (
            {"escalate": {"to": "m"}, "outstation": {"locality": "only_local", "deadline_ms": 60000}},
            "local/m was asked",
        ),
    ],
)
async def test_who_cannot_be_asked(make_app, exchange, fields, why):
    others = (
        FakeBackend("e", kinds=frozenset({"embedding"})),
        half_sure("v", input="features", features=("a",), tokenizer=None),
    )
    result = await result_of(exchange, make_app(llm('{"label": "pump"}'), half_sure(), *others), **fields)
    assert result["why"] == f"0.5 is below 0.625; {why}"


async def test_without_a_language_model_the_classifier_answers_alone(make_app, exchange):
    result = await result_of(exchange, make_app(half_sure()), escalate=True)
    assert (result["source"], result["why"]) == ("edge", "0.5 is below 0.625; auto: no_model")


LARGER = '[[escalations]]\nmodel = "c"\nto = ["big", "m"]\n'


async def test_a_larger_classifier_comes_first_and_gets_all_that_is_unsure_at_once(make_app, exchange):
    """What it is not sure of either goes on."""
    answers = {"hums": {"pump": 0.125, "valve": 0.875}, "rattles": {"pump": 0.45, "valve": 0.55}}
    big = SmallModel("big", judging(answers.__getitem__), manifest=manifest(name="big", confidence=0.75))
    model = llm('{"label": "pump"}')
    begun = await ask(exchange, make_app(model, half_sure(), big, config=LARGER), input=["hums", "drips", "rattles"])
    hums, drips, rattles = begun.json["results"]
    assert (hums["source"], hums["route"], hums["label"], hums["confidence"]) == ("edge", "local/big", "valve", 0.875)
    assert hums["why"] == "0.5 is below 0.625; local/big: 0.875"
    assert (drips["source"], drips["route"]) == ("edge", "local/c")
    assert (rattles["source"], rattles["label"]) == ("local_llm", "pump")
    assert [request.prompts for request in big.requests] == [("hums", "rattles")]
    assert [request.messages[1]["content"] for request in model.requests] == ["rattles"]


async def test_a_larger_classifier_that_is_surer_is_believed_if_nobody_else_can_be_asked(make_app, exchange):
    answer = judging(lambda _: {"pump": 0.3, "valve": 0.7})
    big = SmallModel("big", answer, manifest=manifest(name="big", confidence=0.75))
    model = FakeBackend("m", lambda _: [Overloaded("full", retry_after=1)])
    result = await result_of(exchange, make_app(model, half_sure(), big, config=LARGER))
    assert (result["label"], result["confidence"], result["route"]) == ("valve", 0.7, "local/big")
    assert result["why"] == "0.5 is below 0.625; local/big: 0.7; m: queue_full"


async def test_only_so_many_inputs_are_put_to_a_language_model(make_app, exchange):
    model = llm('{"label": "valve"}')
    begun = await ask(exchange, make_app(model, half_sure()), input=["hums"] * (MOST_QUESTIONS + 3), escalate=True)
    sources = [result["source"] for result in begun.json["results"]]
    assert sources == ["local_llm"] * MOST_QUESTIONS + ["edge"] * 3
    assert "not asked about more than 32" in begun.json["results"][-1]["why"]
    assert len({request.id for request in model.requests}) == MOST_QUESTIONS


async def test_a_language_model_that_is_too_slow_leaves_the_answer_in_time(make_app, exchange):
    model = FakeBackend("m", lambda _: [asyncio.Event()])
    app = make_app(model, half_sure())
    result = await result_of(exchange, app, escalate=True, outstation={"deadline_ms": 2000})
    assert (result["source"], result["why"]) == ("edge", "0.5 is below 0.625; no time was left")
    assert model.ended == ["cancelled"]


async def test_a_hang_up_ends_the_question_too(make_app, exchange):
    model = FakeBackend("m", lambda _: [asyncio.Event()])
    begun = exchange(make_app(model, half_sure()), {"model": "c", "input": "hums", "escalate": True}, PATH)
    async with asyncio.timeout(5):
        while not model.requests:
            await asyncio.sleep(0.001)
    begun.hang_up.gone = True
    begun.hang_up.tell()
    await begun.end()
    assert model.ended == ["cancelled"]


async def test_of_labels_that_exclude_no_other_a_language_model_may_say_none(make_app, exchange):
    model = llm('{"label": "none of these"}')
    result = await result_of(exchange, make_app(model, half_sure(exclusive=False)), escalate=True)
    assert (result["label"], result["labels"], result["source"]) == (None, {}, "local_llm")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ('[[escalations]]\nmodel = "gone"', "line 2: escalations[0].model: There is no model 'gone'"),
        ('[[escalations]]\nmodel = "c"\nto = "gone"', "line 3: escalations[0].to: There is no model 'gone'"),
        ('[[escalations]]\nmodel = "c"\n' * 2, "line 4: escalations[1].model: the model 'c' has an escalation already"),
        ('[[escalations]]\nmodel = "c"\nto = []', "escalations[0].to: needs at least 1"),
        ('[[escalations]]\nmodel = "c"\nwhat = "all"', "escalations[0].what"),
    ],
)
async def test_an_escalation_that_cannot_work_stops_the_start(make_app, config, message):
    with pytest.raises(ConfigError) as caught:
        make_app(llm(), half_sure(), config=config)
    assert message in str(caught.value)


def test_a_request_narrows_what_the_operator_laid_down():
    laid_down = Escalation(("big", "m"), 0.5, "features")
    assert merged(None, None) is None
    assert merged(laid_down, None) == laid_down
    assert merged(laid_down, False) is None
    assert merged(None, True) == Escalation()
    assert merged(laid_down, True) == laid_down
    assert merged(laid_down, Escalate(to="x", below=0.25)) == Escalation(("x",), 0.25, "features")
    assert merged(laid_down, Escalate(what="prediction")) == replace(laid_down, what="prediction")
    assert merged(laid_down, Escalate(what="raw")) == laid_down
    assert merged(None, Escalate(what="raw")) == Escalation()


BASE = Request("r", "c", "classification", prompts=("secret",), raw={"input": "secret"}, key="k")
ABLE = Abilities(structured=True, logprobs=False)
NAMES = ("bar", "hertz")
PREDICTION = {"pump": 0.51249, "valve": 0.25}


@pytest.mark.parametrize(
    ("what", "thing", "sees"),
    [
        ("raw", "secret", "secret"),
        ("raw", Features((1.5, 50.0)), '{"bar":1.5,"hertz":50.0}'),
        ("raw", {"hertz": 50.0, "bar": 1.5}, '{"bar":1.5,"hertz":50.0}'),
        ("features", Features((1.5, 50.0)), '{"bar":1.5,"hertz":50.0}'),
        ("features", "secret", '{"pump":0.512,"valve":0.25}'),
        ("features", Image(b"secret"), '{"pump":0.512,"valve":0.25}'),
        ("prediction", "secret", '{"pump":0.512,"valve":0.25}'),
        ("prediction", Features((1.5, 50.0)), '{"pump":0.512,"valve":0.25}'),
        ("prediction", Image(b"secret"), '{"pump":0.512,"valve":0.25}'),
    ],
)
def test_a_language_model_sees_what_it_may(what, thing, sees):
    asked = question(BASE, "m", LABELS, Shown(what, thing, PREDICTION, NAMES), ABLE)
    assert asked.messages[1]["content"] == sees
    if what != "raw":
        assert "secret" not in str(asked) + orjson.dumps(asked.raw).decode()
    assert asked.raw["messages"] == list(asked.messages)
    assert asked.key == "k"


@pytest.mark.parametrize("what", ["prediction", "features", "raw"])
@pytest.mark.parametrize("structured", [True, False])
@pytest.mark.parametrize("thing", ["pump", "label", Features((1.5, 50.0)), {"hertz": 50.0, "bar": 1.5}])
def test_all_but_the_text_itself_was_written_here(what, structured, thing):
    """Even where the text reads like a label."""
    able = Abilities(structured=structured, logprobs=False)
    asked = question(BASE, "m", LABELS, Shown(what, thing, PREDICTION, NAMES), able)
    shown = what == "raw" and isinstance(thing, str)
    assert thing in str(asked.raw) if shown else asked.trusted >= {asked.messages[1]["content"]}
    assert texts_of(asked.raw, asked.trusted) == ([thing] if shown else [])


def test_a_picture_needs_a_model_that_sees():
    asked = question(BASE, "m", LABELS, Shown("raw", Image(b"\xff\xd8jpeg"), PREDICTION), ABLE)
    assert asked.needs == {"vision"}
    (part,) = asked.messages[1]["content"]
    assert part["image_url"]["url"].startswith("data:image/jpeg;base64,")


def test_who_cannot_be_held_to_a_schema_is_asked_in_plain_words():
    able = Abilities(structured=False, logprobs=True)
    asked = question(BASE, "m", ("a.b", "c (d)"), Shown("raw", "x", PREDICTION), able)
    assert "response_format" not in asked.raw
    assert asked.raw["logprobs"] is True
    assert "JSON" not in asked.messages[0]["content"]
    assert asked.grammar.source == r"(a\.b)|(c \(d\))"


@pytest.mark.parametrize(
    ("said", "label"),
    [
        ('{"label": "valve"}', "valve"),
        (' {"label":"Valve"}\n', "valve"),
        ("valve", "valve"),
        ("**Valve**.", "valve"),
        ("'pump'", "pump"),
        ("a valve", None),
        ("pump or valve", None),
        ("", None),
        ('{"label": "valve"', None),
        ('{"label": 1}', None),
        ('{"label": "valve", "label2": "x"}', None),
        ('["valve"]', None),
        ("null", None),
    ],
)
def test_the_answer_is_read_strictly(said, label):
    assert answered_label(said, LABELS) == label


@given(st.text(max_size=40))
def test_no_answer_names_what_is_no_label(text):
    assert answered_label(text, LABELS) in (None, *LABELS)


@given(st.lists(st.tuples(st.text(max_size=4), st.floats(-5, 0)), max_size=8), st.text(min_size=1, max_size=4))
def test_a_confidence_is_a_probability_of_the_words_that_were_written(tokens, label):
    folded = Folded(logprobs=[TokenLogprob(text, p, ()) for text, p in tokens])
    confidence = said_confidence(folded, label, [label, "x"])
    if label in "".join(text for text, _ in tokens):
        assert confidence is not None
    assert confidence is None or 0.0 <= confidence <= 1.0


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        # A token that begins before the label, and one that ends after it.
        ([('"pu', 0.5, [('"va', 0.25), ("pu", 0.125)]), ('mp"', 0.5, [("me", 0.5)])], 2 / 3),
        # Where labels go apart later, they are weighed there.
        ([("pump", 0.5, []), (" left", 0.25, [(" right", 0.25), (" up", 0.5)])], 0.5),
        ([("pump", 0.5, [("valve", 0.25)]), (" left", 1.0, [])], 2 / 3),
        ([("pump left.", 0.5, [("valve.", 0.5)])], 0.5),
    ],
)
def test_a_label_is_weighed_against_the_other_labels_alone(tokens, expected):
    told = [
        {"token": t, "logprob": log(p), "top_logprobs": [{"token": o, "logprob": log(q)} for o, q in others]}
        for t, p, others in tokens
    ]
    label = "pump" if len(tokens[0][0]) == 3 else "pump left"
    labels = ["pump", "valve"] if label == "pump" else ["pump left", "pump right", "valve"]
    confidence = said_confidence(Folded(wire={"logprobs": {"content": told}}), label, labels)
    assert confidence == pytest.approx(expected)


@pytest.mark.parametrize("content", [None, [], [{"token": 1, "logprob": 0}], [{"token": "x"}], ["x"], "x"])
def test_a_provider_that_tells_no_probabilities(content):
    assert said_confidence(Folded(wire={"logprobs": {"content": content}}), "x", ["x"]) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.sampled_from(["x", "xx", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["token", "logprob", "top_logprobs"]), inner, max_size=3)
    ),
)


@given(JSON)
def test_whatever_a_provider_says_of_its_words(content):
    confidence = said_confidence(Folded(wire={"logprobs": {"content": content}}), "x", ["x", "xy"])
    assert confidence is None or 0.0 <= confidence <= 1.0
