"""Between the box and a provider: who is asked, in which order, what is tried again, and what is never spliced."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

import pytest

from backends.errors import DeadlineExceeded, EngineFailed, InvalidRequest, Overloaded, Unavailable
from backends.fake import FakeBackend, say
from backends.types import Chunk, Usage
from policies.base import Price, Route
from tests.gateway.conftest import living

pytestmark = pytest.mark.anyio
M = [{"role": "user", "content": "x"}]
DOWN = Unavailable("The provider acme cannot be reached.", code="provider_unreachable", retry_after=30)
BROKE = EngineFailed("The provider acme broke off.", code="provider_broke", retry_after=30)
TOOL_CALL = {
    "index": 0,
    "delta": {
        "tool_calls": [{"index": 0, "id": "call_7", "type": "function", "function": {"name": "f", "arguments": ""}}]
    },
    "finish_reason": None,
}


@dataclass(slots=True)
class FakeRemote(FakeBackend):
    """A scripted provider's model."""

    down: str = ""

    def health(self) -> tuple[str, float | None, float, float]:
        return self.down, 5.0 if self.down else None, 0.0, 0.0


@dataclass
class Remote:
    """A route and what answers on it."""

    name: str = "acme/large"
    script: object = field(default_factory=lambda: say("from afar"))
    price: Price | None = None
    capabilities: frozenset[str] = frozenset({"tools"})

    def __post_init__(self):
        self.backend = FakeRemote(self.name, self.script, capabilities=self.capabilities)
        provider = self.name.partition("/")[0]
        self.route = Route(
            self.name, self.name, "remote", 1_000_000, self.capabilities, provider=provider, price=self.price
        )

    @property
    def pair(self):
        return self.route, self.backend


@pytest.fixture(autouse=True)
def _log(caplog):
    caplog.set_level(logging.INFO, "outstation.access")


def site(make_app, local, *remote, config=""):
    return make_app(*([local] if local else []), config=config, remote=[r.pair for r in remote])


async def ask(app, exchange, **fields):
    headers = fields.pop("headers", {})
    begun = exchange(app, {"model": "auto", "messages": M, **fields}, **headers)
    await begun.end()
    return begun


def text(begun):
    return begun.json["choices"][0]["message"]["content"]


async def test_the_box_answers_first(make_app, exchange):
    acme = Remote()
    begun = await ask(site(make_app, FakeBackend("m", say("here")), acme), exchange)
    assert text(begun) == "here"
    assert begun.headers["x-outstation-route"] == "local/m"
    assert acme.backend.requests == []


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "failure",
    [EngineFailed("It died.", retry_after=1), Overloaded("Full.", retry_after=1), DeadlineExceeded("Late.")],
)
async def test_what_the_box_cannot_do_goes_to_the_provider(make_app, exchange, stream, failure):
    begun = await ask(site(make_app, FakeBackend("m", lambda _: [failure]), Remote()), exchange, stream=stream)
    assert begun.status == 200
    assert b"from afar" in begun.body
    assert begun.headers["x-outstation-route"] == "acme/large"
    assert begun.headers["x-outstation-attempts"] == "2"
    assert f"local/m failed: {failure.code}" in begun.headers["x-outstation-reason"]


@pytest.mark.parametrize("stream", [False, True])
async def test_and_the_other_way_round(make_app, exchange, stream):
    app = site(make_app, FakeBackend("m", say("here")), Remote(script=lambda _: [DOWN]))
    begun = await ask(app, exchange, stream=stream, headers={"x_outstation_locality": "prefer_remote"})
    assert begun.status == 200
    assert begun.headers["x-outstation-route"] == "local/m"
    assert b"here" in begun.body


async def test_a_provider_that_says_the_request_is_wrong_ends_it(make_app, exchange):
    local = FakeBackend("m")
    app = site(make_app, local, Remote(script=lambda _: [InvalidRequest("acme: bad tool", code="bad_tool")]))
    begun = await ask(app, exchange, outstation={"locality": "prefer_remote"})
    assert begun.status == 400
    assert begun.json["error"]["code"] == "bad_tool"
    assert local.requests == []


@pytest.mark.parametrize("locality", ["only_local", "only_remote"])
async def test_only_means_only(make_app, exchange, locality):
    """Not even when the one that is allowed fails."""
    local, acme = FakeBackend("m", lambda _: [BROKE]), Remote(script=lambda _: [DOWN])
    begun = await ask(site(make_app, local, acme), exchange, outstation={"locality": locality})
    assert begun.status == 503
    assert bool(local.requests) is (locality == "only_local")
    assert bool(acme.backend.requests) is (locality == "only_remote")


async def test_a_named_model_is_never_exchanged_for_another(make_app, exchange):
    acme = Remote()
    begun = await ask(site(make_app, FakeBackend("m", lambda _: [BROKE]), acme), exchange, model="m")
    assert begun.status == 503
    assert acme.backend.requests == []
    begun = await ask(site(make_app, FakeBackend("m", say("here")), acme), exchange, model="acme/large")
    assert text(begun) == "from afar"


async def test_what_the_box_cannot_do_at_all_is_not_tried_there(make_app, exchange):
    local, acme = FakeBackend("m"), Remote()
    tools = [{"type": "function", "function": {"name": "f"}}]
    begun = await ask(site(make_app, local, acme), exchange, tools=tools)
    assert begun.headers["x-outstation-route"] == "acme/large"
    assert "not local/m (capability: no tools)" in begun.headers["x-outstation-reason"]
    assert local.requests == []


async def test_a_prompt_too_long_for_the_box_goes_out(make_app, exchange):
    local = FakeBackend("m", context_length=100, count_tokens=5000)
    begun = await ask(site(make_app, local, Remote()), exchange)
    assert begun.headers["x-outstation-route"] == "acme/large"
    assert local.requests == []


async def test_offline_nothing_leaves(make_app, exchange):
    acme = Remote()
    app = site(make_app, FakeBackend("m", lambda _: [BROKE]), acme, config="[routing]\noffline = true\n")
    begun = await ask(app, exchange)
    assert begun.status == 503
    assert acme.backend.requests == []
    assert (await ask(app, exchange, model="acme/large")).json["error"]["code"] == "offline"


async def test_a_provider_that_is_known_to_be_down_costs_nobody_time(make_app, exchange):
    acme = Remote()
    acme.backend.down = "no connection"
    begun = await ask(
        site(make_app, FakeBackend("m", say("here")), acme), exchange, outstation={"locality": "prefer_remote"}
    )
    assert text(begun) == "here"
    assert acme.backend.requests == []


async def test_a_provider_that_wants_a_moment_is_asked_again(make_app, exchange):
    acme = Remote()
    acme.backend.script = lambda request: (
        [Overloaded("Busy.", code="provider_busy", retry_after=0.05)]
        if len(acme.backend.requests) == 1
        else say("now")(request)
    )
    begun = await ask(site(make_app, None, acme), exchange, model="acme/large")
    assert text(begun) == "now"
    assert begun.headers["x-outstation-attempts"] == "2"


async def test_one_that_wants_longer_is_not_waited_for(make_app, exchange):
    acme = Remote(script=lambda _: [Overloaded("Busy.", code="provider_busy", retry_after=20)])
    begun = await ask(site(make_app, None, acme), exchange, model="acme/large")
    assert begun.status == 429
    assert begun.headers["retry-after"] == "20"
    assert len(acme.backend.requests) == 1


async def test_retries_have_a_budget(make_app, exchange):
    acme = Remote(script=lambda _: [Unavailable("Down.", code="provider_error", retry_after=0.01)])
    app = site(make_app, None, acme)
    for _ in range(30):
        assert (await ask(app, exchange, model="acme/large", outstation={"deadline_ms": 4000})).status == 503
    assert 40 <= len(acme.backend.requests) <= 45


async def test_a_first_token_too_late_gives_the_next_route_its_turn(make_app, exchange):
    slow = Remote(script=lambda _: [asyncio.Event()])
    app = site(make_app, FakeBackend("m", say("here")), slow)
    begun = await ask(app, exchange, stream=True, outstation={"locality": "prefer_remote", "deadline_ms": 600})
    assert begun.status == 200
    assert b"here" in begun.body
    assert slow.backend.ended == ["cancelled"]


# -- after the commit point ------------------------------------------------------------------------------------------


async def test_after_the_first_byte_nothing_is_spliced(make_app, exchange):
    local = FakeBackend("m")
    app = site(make_app, local, Remote(script=lambda _: [Chunk(0, "The pump "), BROKE]))
    begun = await ask(app, exchange, stream=True, outstation={"locality": "prefer_remote"})
    assert begun.body.count(b'data: {"error"') == 1
    assert b"[DONE]" not in begun.body
    assert local.requests == []


async def test_unless_the_client_asked_for_it(make_app, exchange):
    local = FakeBackend("m", say("is on."))
    app = site(make_app, local, Remote(script=lambda _: [Chunk(0, "The pump "), BROKE]))
    control = {"locality": "prefer_remote", "continue_on_break": True}
    begun = await ask(app, exchange, stream=True, max_tokens=20, outstation=control)
    before, _, after = begun.body.partition(b": outstation: acme/large broke off, local/m goes on from here\n\n")
    assert b"The pump " in before
    assert b"is on." in after
    assert begun.body.endswith(b"data: [DONE]\n\n")
    (request,) = local.requests
    assert request.continuation == "The pump "
    assert request.sampling.max_tokens == 19


async def test_a_tool_call_is_not_continued(make_app, exchange):
    local = FakeBackend("m")
    app = site(make_app, local, Remote(script=lambda _: [Chunk(0, "", wire=TOOL_CALL), BROKE]))
    control = {"locality": "prefer_remote", "continue_on_break": True}
    begun = await ask(app, exchange, stream=True, outstation=control)
    assert begun.body.count(b'data: {"error"') == 1
    assert local.requests == []


async def test_hanging_up_ends_the_attempt(make_app, exchange):
    acme = Remote(script=lambda _: [Chunk(0, "x"), asyncio.Event()])
    app = site(make_app, None, acme)
    begun = exchange(app, {"model": "acme/large", "messages": M, "stream": True})
    await begun.until_contains(b'"x"')
    begun.hang_up.tell()
    await begun.end()
    assert acme.backend.ended == ["cancelled"]


# -- the rest of a conversation --------------------------------------------------------------------------------------


async def test_the_result_of_a_tool_call_goes_back_to_who_asked_for_it(make_app, exchange):
    done = Chunk(0, "", finish_reason="tool_calls")
    first = Remote("acme/large", lambda _: [BROKE] if first.backend.requests[1:] == [] else say("a")(_))
    second = Remote("beta/b", lambda r: [Chunk(0, "", wire=TOOL_CALL), done, Usage(1, 1)])
    app = site(make_app, None, first, second)
    tools = [{"type": "function", "function": {"name": "f"}}]
    begun = await ask(app, exchange, tools=tools, stream=True)
    assert begun.headers["x-outstation-route"] == "beta/b"
    call = {"id": "call_7", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        *M,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_7", "content": "42"},
    ]
    begun = await ask(app, exchange, tools=tools, messages=messages)
    assert begun.headers["x-outstation-route"] == "beta/b"


async def test_money_is_reserved_settled_and_limited(make_app, exchange):
    acme = Remote(price=Price(1.0, 1.0, 1.0), script=lambda r: [*say("x" * 10)(r)[:-1], Usage(500_000, 400_000)])
    local = FakeBackend("m", say("here"), context_length=300_000, count_tokens=200_000)
    app = site(make_app, local, acme, config="[budget]\nsite_day = 1.0\n")
    control = {"locality": "prefer_remote"}
    first = await ask(app, exchange, max_tokens=100, outstation=control)
    assert first.headers["x-outstation-route"] == "acme/large"
    assert app.shared.books.spending.spent("").site_day == pytest.approx(0.9)
    long = [{"role": "user", "content": "x " * 400_000}]
    second = await ask(app, exchange, messages=long, max_tokens=100, outstation=control)
    assert second.headers["x-outstation-route"] == "local/m"
    assert "budget" in second.headers["x-outstation-reason"]
    third = await ask(app, exchange, messages=long, max_tokens=100, model="acme/large")
    assert third.json["error"]["code"] == "budget_exhausted"


async def test_an_attempt_that_was_cut_is_charged_for_what_came(make_app, exchange):
    acme = Remote(price=Price(0.0, 1e6, 0.0), script=lambda _: [Chunk(0, "a"), Chunk(0, "b"), BROKE])
    app = site(make_app, None, acme)
    await ask(app, exchange, model="acme/large", stream=True)
    assert app.shared.books.spending.spent("").site_day == pytest.approx(2.0)


async def test_a_whole_answer_that_was_cut_is_charged_in_full(make_app, exchange):
    """The provider may have computed all of it, and nobody saw a token."""
    acme = Remote(price=Price(0.0, 1e6, 0.0))

    def script(request):
        app.shared.boundary.depart(request.id, "acme", "host", 10)
        return [BROKE]

    acme.backend.script = script
    app = site(make_app, None, acme)
    async with living(app):
        await ask(app, exchange, model="acme/large", max_tokens=7)
        assert app.shared.books.spending.spent("").site_day == pytest.approx(7.0)


async def test_what_never_left_costs_nothing(make_app, exchange):
    acme = Remote(price=Price(1e6, 1e6, 1e6), script=lambda _: [BROKE])
    app = site(make_app, None, acme)
    await ask(app, exchange, model="acme/large")
    assert app.shared.books.spending.spent("").site_day == 0.0


async def test_a_budget_is_not_given_out_twice(make_app, exchange):
    """All are counted at the same time; each sees what those before it have reserved."""
    acme = Remote(price=Price(0.0, 1e6, 0.0), script=lambda r: [0.05, *say("x")(r)])
    local = FakeBackend("m", lambda _: [Overloaded("Full.", retry_after=1)])
    app = site(make_app, local, acme, config="[budget]\nsite_day = 35.0\n")
    control = {"locality": "prefer_remote"}
    asked = [ask(app, exchange, max_tokens=10, outstation=control) for _ in range(20)]
    statuses = [begun.status for begun in await asyncio.gather(*asked)]
    assert statuses.count(200) == 3
    assert len(acme.backend.requests) == 3


async def test_what_an_answer_may_cost_is_learned_from_those_before_it(make_app, exchange):
    """Without `max_tokens`: as long as nine in ten are, of this provider's model."""
    acme = Remote(price=Price(0.0, 1.0, 0.0), script=lambda r: [*say("x")(r)[:-1], Usage(3, 900)])
    app = site(make_app, None, acme)

    async def cost():
        begun = exchange(app, {"model": "acme/large", "messages": M}, "/v1/outstation/explain")
        await begun.end()
        return begun.json["routes"][0]["cost_usd"]

    assert await cost() == pytest.approx(256 / 1e6)
    for _ in range(20):
        await ask(app, exchange, model="acme/large")
    assert await cost() == pytest.approx(900 / 1e6)


async def test_several_prompts_are_priced_together(make_app, exchange):
    acme = Remote(price=Price(1e6, 0.0, 0.0))
    app = site(make_app, None, acme, config="[budget]\nsite_day = 100.0\n")
    long = "word " * 40  # about fifty tokens
    for prompts, status in (([long], 200), ([long] * 4, 429)):
        begun = exchange(app, {"model": "acme/large", "prompt": prompts, "max_tokens": 1}, "/v1/completions")
        await begun.end()
        assert begun.status == status


async def test_a_failed_connection_costs_nothing(make_app, exchange):
    acme = Remote(price=Price(1e6, 1e6, 1e6), script=lambda _: [DOWN])
    app = site(make_app, None, acme)
    await ask(app, exchange, model="acme/large")
    assert app.shared.books.spending.spent("").site_day == 0.0


async def test_headers_that_contradict_each_other_are_refused(make_app, connect):
    client = connect(site(make_app, FakeBackend("m"), Remote()))
    body = {"model": "auto", "messages": M}
    twice = [("x-outstation-locality", "prefer_remote"), ("x-outstation-locality", "only_local")]
    refused = await client.post("/v1/chat/completions", json=body, headers=twice)
    assert refused.status_code == 400
    assert refused.headers["x-outstation-route"] == "none"


async def test_data_classes_may_come_in_several_headers(make_app, connect):
    app = site(make_app, FakeBackend("m"), Remote(), config="[privacy]\ndefault = 'allow'\n")
    classes = [("x-outstation-data-classes", "badge, one"), ("x-outstation-data-classes", "health")]
    answer = await connect(app).post("/v1/outstation/explain", json={"model": "auto", "messages": M}, headers=classes)
    assert answer.json()["data_classes"] == ["badge", "health", "one"]


async def test_all_of_several_providers_out_of_reach_is_no_link(make_app, exchange):
    acme, beta = Remote(), Remote("beta/b")
    acme.backend.down, beta.backend.down = "no connection", "no connection (gaierror)"
    app = site(make_app, FakeBackend("m"), acme, beta)
    assert app.current.site.offline.startswith("no link")
    assert (await ask(app, exchange, model="beta/b")).json["error"]["code"] == "offline"
    beta.backend.down = ""
    assert app.current.site.offline == ""


# -- explained -------------------------------------------------------------------------------------------------------


async def test_a_plan_is_explained_and_not_run(make_app, exchange):
    local, acme = FakeBackend("m"), Remote(price=Price(1.0, 2.0, 1.0))
    app = site(make_app, local, acme)
    begun = exchange(app, {"model": "auto", "messages": M}, "/v1/outstation/explain")
    await begun.end()
    assert begun.status == 200
    assert [route["route"] for route in begun.json["routes"]] == ["local/m", "acme/large"]
    assert begun.json["routes"][0]["prompt_tokens_exact"] is True
    assert begun.json["routes"][1]["cost_usd"] > 0
    assert local.requests == acme.backend.requests == []


async def test_a_refusal_is_explained_with_every_reason(make_app, exchange):
    app = site(make_app, FakeBackend("m"), Remote(), config="[routing]\noffline = true\n")
    body = {"model": "auto", "messages": M, "tools": [{"type": "function", "function": {"name": "f"}}]}
    begun = exchange(app, body, "/v1/outstation/explain")
    await begun.end()
    assert begun.json["routes"] == []
    assert {(d["route"], d["policy"]) for d in begun.json["dropped"]} == {
        ("local/m", "capability"),
        ("acme/large", "availability"),
    }
    refused = exchange(app, body)
    await refused.end()
    assert refused.status == begun.json["refused"]["status"] == 503
    message = refused.json["error"]["message"]
    assert "local/m: capability" in message and "acme/large: availability" in message
