"""What is explained is what then happens; and explaining it runs, sends, pays and records nothing."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass

import pytest

from backends.errors import EngineFailed, Unavailable
from backends.fake import FakeBackend
from backends.types import ModelState
from gateway.audit_reader import ledger
from tests.gateway.conftest import living
from tests.gateway.test_replay import SITE, ask, bodies, recorded, site  # noqa: F401 - a fixture

pytestmark = pytest.mark.anyio
EXPLAIN = "/v1/outstation/explain"
M = [{"role": "user", "content": "x"}]


@dataclass(slots=True)
class Timed(FakeBackend):
    """One whose rates are known."""

    def state(self) -> ModelState:
        return ModelState(self.name, "ready", context_length=4096, prefill_rate=1000.0, decode_rate=100.0)


async def explain(app, exchange, **fields):
    headers = fields.pop("headers", {})
    begun = exchange(app, {"model": "auto", "messages": M, **fields}, EXPLAIN, **headers)
    await begun.end()
    return begun


def first_asked(begun) -> str:
    """The route in front, as the headers of an answer tell it: it was answered by it, or it failed."""
    reasons = begun.headers.get("x-outstation-reason", "").split("; ")
    failed = [reason.split(" failed")[0] for reason in reasons if " failed: " in reason]
    return failed[0] if failed else begun.headers.get("x-outstation-route", "")


@pytest.mark.parametrize("trouble", ["none", "local fails", "acme is down"])
async def test_the_first_route_explained_is_the_first_one_asked(site, exchange, trouble):  # noqa: F811
    app = site(local=(lambda _: [EngineFailed("It died.")]) if trouble == "local fails" else None)
    if trouble == "acme is down":
        app.current.site.backends["acme/large"].down = "no connection"
    seen = set()
    async with living(app):
        for body in bodies()[:100]:
            plan = await explain(app, exchange, **dict(body))
            then = await ask(app, exchange, **dict(body))
            if plan.status != 200:
                assert (plan.status, plan.json) == (then.status, then.json)
            elif plan.json["refused"]:
                assert plan.json["refused"]["status"] == then.status
                assert plan.json["refused"]["code"] == then.json["error"]["code"]
                assert plan.json["refused"]["message"] == then.json["error"]["message"]
                assert plan.json["routes"] == []
                seen.add("refused")
            elif then.status == 200:
                assert plan.json["routes"][0]["route"] == first_asked(then)
                seen.add(plan.json["routes"][0]["route"])
    assert {"refused", "local/n", "beta/b"} <= seen


async def test_it_leaves_no_trace(site, exchange):  # noqa: F811
    app = site()
    began = time.time() - 1

    async def twice():
        for fields in ({}, {"model": "acme/large", "max_tokens": 9}, {"outstation": {"locality": "prefer_remote"}}):
            assert (await explain(app, exchange, **fields)).json["routes"]

    assert await recorded(app, twice) == []
    assert list(ledger(app.current.config.home / "audit.db", began)) == []
    assert all(backend.requests == [] for backend in app.current.site.backends.values())
    assert app.shared.books.spending.spent("").site_day == 0
    assert app.shared.boundary._cleared == {}


async def test_everything_that_decides_is_in_it(site, exchange):  # noqa: F811
    app = site()
    mail = [{"role": "user", "content": "write to bob.smith@example.org"}]
    plan = (await explain(app, exchange, messages=mail, max_tokens=100)).json
    assert plan["object"] == "outstation.plan"
    assert plan["data_classes"] == ["email"]
    here, *_, acme = plan["routes"]
    assert (here["route"], here["prompt_tokens"], here["prompt_tokens_exact"], here["cost_usd"]) == (
        "local/m", 3, True, 0,
    )  # fmt: skip
    assert (acme["route"], acme["redact"], acme["prompt_tokens_exact"]) == ("acme/large", ["email"], False)
    assert acme["cost_usd"] == pytest.approx((acme["prompt_tokens"] + 100) * 100 / 1e6)
    health = {"x_outstation_data_classes": "health"}
    plan = (await explain(app, exchange, messages=M, headers=health)).json
    dropped = {"route": "acme/large", "policy": "privacy", "reason": "holds health", "code": "privacy_denied"}
    assert dropped in plan["dropped"]
    assert plan["refused"] is None


MAIL = "write to bob.smith@example.org and bob.smith@example.org, or to ann@example.org, not to [EMAIL_9]"


async def test_what_would_be_replaced_is_told_in_figures(site, exchange):  # noqa: F811
    app = site(SITE.replace('health = "deny"', 'health = "deny", phone = "redact"'))
    called = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"call": "+49 170 1234567"}'}}
    messages = [{"role": "user", "content": MAIL}, {"role": "assistant", "tool_calls": [called]}]
    begun = await explain(app, exchange, messages=[*messages, {"role": "tool", "tool_call_id": "1", "content": "ok"}])
    rows = {row["route"]: row for row in begun.json["routes"]}
    assert rows["acme/large"]["redact"] == ["email", "phone"]
    assert rows["acme/large"]["placeholders"] == {"email": 2, "phone": 1}
    assert rows["local/m"]["placeholders"] == rows["beta/b"]["placeholders"] == {}
    for value in (b"bob.smith", b"ann@", b"1234567"):
        assert value not in begun.body


async def test_a_request_without_private_data_has_nothing_replaced(site, exchange):  # noqa: F811
    plan = (await explain(site(), exchange)).json
    assert [row["placeholders"] for row in plan["routes"]] == [{}] * len(plan["routes"])


@pytest.mark.parametrize("model", ["auto", "acme/large"])
async def test_a_redaction_that_fails_is_told_as_it_then_happens(site, exchange, model):  # noqa: F811
    """A value in `name` cannot be replaced: the plan has the route, and nothing would be sent on it."""
    app = site(SITE.replace('"prefer_local"', '"prefer_remote"'))
    asked = {"model": model, "messages": [{"role": "user", "name": "bob.smith@example.org", "content": "x"}]}
    plan = (await explain(app, exchange, **asked)).json
    reason = "email cannot be replaced"
    dropped = {"route": "acme/large", "policy": "privacy", "reason": reason, "code": "privacy_denied"}
    assert plan["dropped"] == [dropped]
    assert f"not acme/large (privacy: {reason})" in plan["reasons"]
    async with living(app):
        then = await ask(app, exchange, **asked)
    assert app.current.site.backends["acme/large"].requests == []
    if model == "auto":
        assert plan["refused"] is None
        assert plan["routes"][0]["route"] == then.headers["x-outstation-route"] == "beta/b"
    else:
        assert plan["routes"] == []
        assert plan["refused"]["status"] == then.status == 400
        assert plan["refused"]["code"] == then.json["error"]["code"] == "privacy_denied"
        assert plan["refused"]["message"] == then.json["error"]["message"]


async def test_several_routes_for_which_the_same_is_replaced(site, exchange):  # noqa: F811
    app = site(SITE.replace('data = { default = "allow" }', 'data = { email = "redact", default = "allow" }'))
    plan = (await explain(app, exchange, messages=[{"role": "user", "content": MAIL}])).json
    rows = {row["route"]: row["placeholders"] for row in plan["routes"]}
    assert rows["acme/large"] == rows["beta/b"] == {"email": 2}
    asked = {
        "messages": [{"role": "user", "name": "bob@example.org", "content": "x"}],
        "outstation": {"locality": "only_remote"},
    }
    plan = (await explain(app, exchange, **asked)).json
    then = await ask(app, exchange, **asked)
    told = [drop["route"] for drop in plan["dropped"] if drop["policy"] == "privacy"]
    assert told == ["beta/b", "acme/large"], "in the order in which they would be tried"
    assert plan["refused"]["message"] == then.json["error"]["message"]


async def test_no_time_is_told_that_was_made_up(site, exchange):  # noqa: F811
    """A route that is not in front was not counted, and decided as if all of its prompt were cached."""
    app = site()
    app.current.site.backends.update({name: Timed(name) for name in ("m", "n")})
    first, second, *_ = (await explain(app, exchange)).json["routes"]
    assert (first["prompt_tokens_exact"], second["prompt_tokens_exact"]) == (True, False)
    assert first["ttft_s"] > 0
    assert second["ttft_s"] is second["total_s"] is None


async def test_a_completion_is_explained_too(site, exchange):  # noqa: F811
    app = site()
    begun = exchange(app, {"model": "auto", "prompt": ["1 2 3", "4"]}, EXPLAIN)
    await begun.end()
    assert begun.json["routes"][0]["route"] == "local/m"


async def test_a_prompt_that_cannot_be_counted_is_told(site, exchange):  # noqa: F811
    app = site()
    app.current.site.backends["m"].count_tokens = Unavailable("It does not load.", retry_after=1)
    plan = (await explain(app, exchange)).json
    assert plan["routes"][0]["route"] == "local/n"
    assert "local/m failed: model_unavailable" in plan["reasons"]


WRONG = [
    {"outstation": {"locality": "only_local"}, "headers": {"x_outstation_locality": "only_remote"}},
    {"outstation": {"deadline_ms": 5}, "headers": {"x_outstation_deadline_ms": "6"}},
    {"outstation": {"locality": "nowhere"}},
    {"outstation": {"deadline_ms": 0}},
    {"outstation": {"data_classes": ["Not a class"]}},
    {"outstation": {"locallity": "only_local"}},
    {"headers": {"x_outstation_locality": "here"}},
    {"headers": {"x_outstation_deadline_ms": "-1"}},
    {"headers": {"x_outstation_data_classes": "Health!"}},
    {"n": 9},
    {"stream_options": {"include_usage": True}},
    {"model": "acme/large", "outstation": {"locality": "only_local"}},
    {"model": "m", "outstation": {"locality": "only_remote"}},
]


@pytest.mark.parametrize(("fields", "path"), [*itertools.product(WRONG, [EXPLAIN, "/v1/chat/completions"])])
async def test_contradictory_controls_are_refused_the_same_way(site, exchange, fields, path):  # noqa: F811
    app = site()
    body = {"model": "auto", "messages": M, **fields}
    begun = exchange(app, body, path, **body.pop("headers", {}))
    await begun.end()
    if begun.status == 200:  # a plan that refuses
        assert path == EXPLAIN
        assert begun.json["refused"]["status"] == 400
        assert begun.json["refused"]["code"] == "no_route"
    else:
        assert begun.status == 400
        assert begun.json["error"]["message"]
    assert all(backend.requests == [] for backend in app.current.site.backends.values())


@pytest.mark.parametrize(
    "body", [[], "x", {"model": "auto"}, {"model": 1, "messages": M}, {"model": "gone", "messages": M}]
)
async def test_what_is_no_request_is_refused_as_one(site, exchange, body):  # noqa: F811
    app = site()
    asked, explained = exchange(app, body), exchange(app, body, EXPLAIN)
    await asked.end()
    await explained.end()
    assert 400 <= asked.status == explained.status < 500
    assert asked.json == explained.json
