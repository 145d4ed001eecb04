"""A classifier that is not sure asks a provider, through a whole gateway: only what policies allow leaves the site."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from backends.fake import FakeBackend, say
from tests.gateway.conftest import Exchange
from tests.gateway.small_models import SmallModel, judging, manifest
from tests.remote.fault_proxy import USAGE, Act, FaultProxy, refusal, whole
from tests.routing.conftest import ALLOW, Opened, Whole, provider

pytestmark = pytest.mark.anyio
PATH = "/v1/classify"
MAIL = "anna.meyer@example.org"
REDACT = 'default = "redact"'
DENY = 'default = "deny"'


def unsure(**fields: Any) -> SmallModel:
    known = manifest(confidence=0.75, **fields)
    return SmallModel("c", judging(lambda _: {"pump": 0.5, "valve": 0.375}), manifest=known)


def says(label: str, **choice: Any) -> Act:
    message = {"role": "assistant", "content": orjson.dumps({"label": label}).decode()}
    said = {"index": 0, "message": message, "finish_reason": "stop", **choice}
    return Act(body=(orjson.dumps({"id": "c1", "choices": [said], "usage": USAGE}),))


async def ask(gateway: Whole, to: str = "acme/large", **fields: Any) -> tuple[Exchange, dict[str, Any]]:
    body = {"model": "c", "input": f"hums, says {MAIL}", "escalate": {"to": to}, **fields}
    begun = await gateway.ask(PATH, **body)
    assert begun.status == 200, begun.body
    return begun, begun.json["results"][0]


async def test_a_provider_decides_and_says_how_sure_it_is(site: Opened) -> None:
    entries = [{"token": t, "logprob": p} for t, p in (('{"label":"', -2.0), ("valve", -0.5), ('"}', -4.0))]
    answer = says("valve", logprobs={"content": entries})
    async with (
        FaultProxy(usual=answer) as proxy,
        site(unsure(), config=provider("acme", proxy.url, price=2.0)) as gateway,
    ):
        begun, result = await ask(gateway)
    assert (result["source"], result["route"], result["label"]) == ("remote", "acme/large", "valve")
    assert result["confidence"] == pytest.approx(1.0)
    assert (result["edge_label"], result["edge_confidence"]) == ("pump", 0.5)
    assert begun.headers["x-outstation-route"] == "local/c"
    sent = proxy.seen[0].json
    assert sent["model"] == "large"
    assert sent["messages"][1]["content"] == f"hums, says {MAIL}"
    assert sent["response_format"]["json_schema"]["schema"]["properties"]["label"]["enum"] == ["pump", "valve"]
    edge, question = sorted(gateway.decisions(), key=lambda row: row.request_id)
    assert question.request_id == f"{edge.request_id}.2"
    assert (edge.route, edge.cost) == ("local/c", 0.0)
    assert question.route == "acme/large"
    assert question.cost > 0
    assert question.data_classes == ("email",)
    (left,) = gateway.ledger()
    assert left.request_id == question.request_id


@pytest.mark.parametrize(
    ("data", "fields", "sees", "why"),
    [
        (ALLOW, {}, f"hums, says {MAIL}", "acme/large was asked"),
        (REDACT, {}, "hums, says [EMAIL_1]", "acme/large was asked"),
        (DENY, {}, None, "acme/large: privacy_denied"),
        (DENY, {"escalate": {"to": "acme/large", "what": "prediction"}}, '{"pump":0.5,"valve":0.375}', "was asked"),
        (DENY, {"input": "hums"}, "hums", "acme/large was asked"),
        # What the request declares holds for all that is made of it.
        (
            DENY,
            {
                "escalate": {"to": "acme/large", "what": "prediction"},
                "input": "hums",
                "outstation": {"data_classes": ["health"]},
            },
            None,
            "acme/large: privacy_denied",
        ),
        (ALLOW, {"outstation": {"locality": "only_local"}}, None, "acme/large: no_route"),
    ],
)
async def test_only_what_policies_allow_leaves(
    site: Opened, data: str, fields: dict[str, Any], sees: str | None, why: str
) -> None:
    async with FaultProxy(usual=says("valve")) as proxy:
        async with site(unsure(), config=provider("acme", proxy.url, data=data)) as gateway:
            _, result = await ask(gateway, **fields)
        assert result["why"].endswith(why)
        assert [seen.json["messages"][1]["content"] for seen in proxy.seen] == ([] if sees is None else [sees])
        assert result["source"] == ("edge" if sees is None else "remote")
        assert len(gateway.ledger()) == len(proxy.seen)
        if sees is not None and MAIL not in sees:
            assert MAIL.encode() not in proxy.seen[0].body


async def test_the_operator_says_how_much_may_be_shown_at_most(site: Opened) -> None:
    rule = '[[escalations]]\nmodel = "c"\nto = "acme/large"\nwhat = "prediction"\n'
    async with (
        FaultProxy(usual=says("valve")) as proxy,
        site(unsure(), config=provider("acme", proxy.url) + rule) as gateway,
    ):
        for escalate in (None, True, {"what": "raw"}, {"to": "acme/large", "what": "raw"}):
            _, result = await ask(gateway, escalate=escalate)
            assert result["source"] == "remote"
    assert len(proxy.seen) == 4
    assert all(MAIL.encode() not in seen.body and b"hums" not in seen.body for seen in proxy.seen)


async def test_a_picture_and_a_vector(site: Opened) -> None:
    image = {"image": "data:image/png;base64,iVBORw0KGgo="}
    async with FaultProxy(usual=says("valve")) as proxy:
        config = provider("acme", proxy.url)
        async with site(unsure(input="image", image={"size": 8}), config=config) as gateway:
            _, blind = await ask(gateway, input=image)
            _, told = await ask(gateway, input=image, escalate={"to": "acme/large", "what": "prediction"})
        assert blind["why"].endswith("acme/large: unsupported_capability")
        assert told["source"] == "remote"
        async with site(unsure(input="features", features=("bar", "hertz")), config=config) as gateway:
            await ask(
                gateway,
                input={"features": {"hertz": 50, "bar": 1.5}},
                escalate={"to": "acme/large", "what": "features"},
            )
        assert proxy.seen[-1].json["messages"][1]["content"] == '{"bar":1.5,"hertz":50.0}'
    assert len(proxy.seen) == 2


@pytest.mark.parametrize(
    ("act", "code"),
    [
        (refusal(400, "no schema here", code="bad_schema"), "bad_schema"),
        (refusal(401), "provider_key"),
        (refusal(500), "provider_error"),
        (Act(head="reset"), "provider_broke"),
        (whole("I cannot help with that."), "invalid_answer"),
    ],
)
async def test_a_provider_that_fails_leaves_the_classifiers_answer(site: Opened, act: Act, code: str) -> None:
    async with FaultProxy(usual=act) as proxy, site(unsure(), config=provider("acme", proxy.url)) as gateway:
        _, result = await ask(gateway)
        assert gateway.app.shared.running_ids == set()
    assert (result["source"], result["label"]) == ("edge", "pump")
    assert code in result["why"]


async def test_the_budget_holds(site: Opened) -> None:
    async with FaultProxy(usual=says("valve")) as proxy:
        config = provider("acme", proxy.url, price=1000.0) + "[budget]\nsite_day = 0.0001\n"
        async with site(unsure(), config=config) as gateway:
            _, result = await ask(gateway)
    assert result["why"].endswith("acme/large: budget_exhausted")
    assert proxy.seen == []


async def test_auto_asks_the_box_first(site: Opened) -> None:
    model = FakeBackend("m", say('{"label": "valve"}'))
    async with (
        FaultProxy(usual=says("pump")) as proxy,
        site(model, unsure(), config=provider("acme", proxy.url)) as gateway,
    ):
        _, here = await ask(gateway, "auto")
        _, there = await ask(gateway, "auto", outstation={"locality": "prefer_remote"}, input="hums")
    assert (here["source"], here["label"]) == ("local_llm", "valve")
    assert (there["source"], there["label"]) == ("remote", "pump")
    assert len(model.requests) == 1


async def test_of_a_large_picture_that_may_not_leave_the_prediction_may(site: Opened) -> None:
    """The picture is neither in what is sent nor in what is searched first."""
    image = {"image": "data:image/png;base64," + "A" * (2 << 20)}
    async with (
        FaultProxy(usual=says("valve")) as proxy,
        site(unsure(input="image", image={"size": 8}), config=provider("acme", proxy.url, data=DENY)) as gateway,
    ):
        _, result = await ask(gateway, input=image, escalate={"to": "acme/large", "what": "prediction"})
        health = {"data_classes": ["health"]}
        _, kept = await ask(
            gateway, input=image, escalate={"to": "acme/large", "what": "prediction"}, outstation=health
        )
    assert result["source"] == "remote"
    assert kept["why"].endswith("acme/large: privacy_denied")
    assert [seen.json["messages"][1]["content"] for seen in proxy.seen] == ['{"pump":0.5,"valve":0.375}']
