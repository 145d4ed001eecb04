"""`/v1/moderations`: OpenAI's shape from a model that knows a part of its categories, and says so."""

import openai
import pytest

from backends.fake import FakeBackend
from gateway.schemas.moderations import CATEGORIES, MOST_INPUTS, MOST_PARTS
from gateway.schemas.task_responses import Moderation
from tests.gateway.small_models import SmallModel, judging, manifest

pytestmark = pytest.mark.anyio
PATH = "/v1/moderations"
LABELS = ("toxic", "threat", "insult")


def judge(text: object) -> dict[str, float]:
    assert isinstance(text, str)
    return {"toxic": 0.25, "threat": 0.75 if "kill" in text else 0.125, "insult": 0.375 if "idiot" in text else 0.0}


def judges() -> SmallModel:
    known = manifest(
        labels=LABELS,
        exclusive=False,
        thresholds={"insult": 0.25},
        categories={"harassment": "insult", "harassment/threatening": "threat", "violence": "threat"},
    )
    kinds = frozenset({"classification", "moderation"})
    return SmallModel("tox", judging(judge), kinds=kinds, manifest=known)


async def test_with_the_official_sdk(make_app, connect):
    client = openai.AsyncOpenAI(
        base_url="http://localhost:8484/v1",
        api_key="none",
        http_client=connect(make_app(judges(), config='[aliases]\n"omni-moderation-latest" = "tox"')),
    )
    raw = await client.moderations.with_raw_response.create(
        model="omni-moderation-latest", input=["a pump", "I kill you, idiot", "idiot"]
    )
    Moderation.model_validate_json(raw.content)
    answer = raw.parse()
    assert answer.model == "tox"
    assert [result.flagged for result in answer.results] == [False, True, True]
    clean, both, insult = answer.results
    assert both.category_scores.harassment == 0.375
    assert both.category_scores.harassment_threatening == both.category_scores.violence == 0.75
    assert both.categories.violence is True
    assert insult.categories.harassment is True  # by the label's own threshold
    assert insult.categories.violence is False
    assert clean.category_applied_input_types.violence == ["text"]
    assert clean.category_applied_input_types.sexual == []
    assert clean.category_scores.sexual == 0
    assert raw.headers["x-outstation-route"] == "local/tox"


async def test_what_cannot_be_judged_is_named(make_app, exchange):
    begun = exchange(make_app(judges()), {"model": "tox", "input": "a pump"}, PATH)
    await begun.end()
    known = {"harassment", "harassment/threatening", "violence"}
    assert begun.json["outstation"] == {
        "unsupported_categories": [name for name in CATEGORIES if name not in known],
        "labels": [{"toxic": 0.25, "threat": 0.125, "insult": 0.0}],
    }
    for field in ("categories", "category_scores", "category_applied_input_types"):
        assert tuple(begun.json["results"][0][field]) == CATEGORIES


async def test_parts_of_one_input_are_judged_alone_and_the_worst_counts(make_app, exchange):
    backend = judges()
    parts = [{"type": "text", "text": text} for text in ("a pump", "I kill you", "idiot")]
    begun = exchange(make_app(backend), {"model": "tox", "input": parts}, PATH)
    await begun.end()
    (result,) = begun.json["results"]
    assert result["category_scores"]["violence"] == 0.75
    assert result["category_scores"]["harassment"] == 0.375
    assert backend.requests[0].prompts == ("a pump", "I kill you", "idiot")
    assert backend.requests[0].kind == "moderation"


@pytest.mark.parametrize("model", [{}, {"model": None}, {"model": "auto"}])
async def test_without_a_model_the_boxs_own_is_asked(make_app, exchange, model):
    begun = exchange(make_app(FakeBackend("m")), {"input": "x", **model}, PATH)
    await begun.end()
    assert (begun.status, begun.json["error"]["code"]) == (503, "no_model")  # there is none here


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
WRONG = [
    ({"input": None}, "input"),
    ({"input": ""}, "input"),
    ({"input": []}, "input"),
    ({"input": 3}, "input"),
    ({"input": ["a", ""]}, "input[1]"),
    ({"input": ["a", {"type": "text", "text": "b"}]}, "input[1]"),
    ({"input": [{"type": "text", "text": "b"}, "a"]}, "input[1]"),
    ({"input": [IMAGE]}, "input[0]"),
    ({"input": [{"type": "audio", "text": "b"}]}, "input[0].type"),
    ({"input": ["a"] * (MOST_INPUTS + 1)}, "input"),
    ({"input": [{"type": "text", "text": "b"}] * (MOST_PARTS + 1)}, "input"),
    ({"model": "m"}, "model"),
]


@pytest.mark.parametrize(("fields", "param"), WRONG, ids=[str(fields)[:50] for fields, _ in WRONG])
async def test_wrong_requests(make_app, exchange, fields, param):
    backend = judges()
    begun = exchange(make_app(FakeBackend("m"), backend), {"model": "tox", "input": "x", **fields}, PATH)
    await begun.end()
    assert begun.status == 400
    assert begun.json["error"]["param"] == param
    assert begun.headers["x-outstation-route"] == "none"
    assert backend.requests == []


async def test_of_a_picture_it_says_that_it_cannot_be_judged(make_app, exchange):
    parts = [{"type": "text", "text": "b"}, IMAGE]
    begun = exchange(make_app(judges()), {"model": "tox", "input": parts}, PATH)
    await begun.end()
    assert (begun.status, begun.json["error"]["param"]) == (400, "input[1]")
    assert begun.json["error"]["message"] == "`input[1]`: pictures cannot be judged here, only texts."


async def test_a_model_of_which_nothing_is_known_says_no_more_than_that(make_app, exchange):
    """It must not look as if everything were harmless."""
    mute = FakeBackend("tox", judging(judge), kinds=frozenset({"moderation"}))
    begun = exchange(make_app(mute), {"model": "tox", "input": "x"}, PATH)
    await begun.end()
    assert (begun.status, begun.json["error"]["code"]) == (503, "no_manifest")
