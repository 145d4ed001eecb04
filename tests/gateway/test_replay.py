"""Past decisions decided anew: by the same policy they come out the same, by another one as it says."""

from __future__ import annotations

import itertools
import json
import random
import time
from dataclasses import replace
from functools import partial

import orjson
import pytest

from backends.errors import EngineFailed, Unavailable
from backends.fake import FakeBackend, say
from backends.types import Usage
from gateway.app import build_app
from gateway.audit_reader import decisions
from gateway.audit_rows import Decision
from gateway.commands.replay import Listing, Summary
from gateway.config import ConfigError, load_config
from gateway.providers import remote_routes
from gateway.record import read_facts
from gateway.replay import Replay, Replayed
from tests.gateway.conftest import living
from tests.gateway.test_routing import FakeRemote

pytestmark = pytest.mark.anyio

SITE = """
[routing]
locality = "prefer_local"
[aliases]
"gpt-4o-mini" = "auto"
small = "m"
[budget]
site_day = 0.5
[[providers]]
name = "acme"
base_url = "http://127.0.0.1:9/v1"
data = { email = "redact", health = "deny", default = "allow" }
[[providers.models]]
name = "large"
context_length = 100000
input_price = 100
output_price = 100
capabilities = ["tools"]
aliases = ["big"]
[[providers]]
name = "beta"
base_url = "http://127.0.0.1:9/v1"
data = { default = "allow" }
[[providers.models]]
name = "b"
context_length = 100000
input_price = 0
output_price = 0
[[rules]]
name = "thrifty"
when = "request.max_tokens > 900 && site.spent_day > 0.1"
locality = "only_local"
"""
LATER = {"unknown", "signals", "late_signals"}
DOWN = Unavailable("It cannot be reached.", code="provider_unreachable")


@pytest.fixture
def site(tmp_path):
    """An app with a home, the configuration, and two local models and two remote ones that answer as told."""
    file = tmp_path / "outstation.toml"

    def made(text=SITE, local=None, **remote):
        file.write_text(text)
        config = load_config(file, environ={"OUTSTATION_HOME": str(tmp_path)})
        priced = lambda r: [*say("from afar")(r)[:-1], Usage(1000, 500)]  # noqa: E731
        pairs = [(r, FakeRemote(r.name, remote.get(r.provider, priced))) for r in remote_routes(config)]
        for _, backend in pairs:
            backend.capabilities = frozenset({"tools"})
        return build_app(config, [FakeBackend("m", local or say("here")), FakeBackend("n")], remote=pairs)

    return made


@pytest.fixture
def other(tmp_path):
    """Another policy."""

    def read(text):
        (tmp_path / "other.toml").write_text(text)
        environ = {"OUTSTATION_HOME": str(tmp_path)}
        return Replay(load_config(tmp_path / "other.toml", environ=environ, to_serve=False))

    return read


async def ask(app, exchange, **fields):
    headers = fields.pop("headers", {})
    body = {"model": "auto", "messages": [{"role": "user", "content": "x"}], **fields}
    begun = exchange(app, body, **headers)
    await begun.end()
    return begun


async def recorded(app, *asks) -> list[Decision]:
    """Runs these in an open audit and reads their rows."""
    began = time.time() - 1
    async with living(app):
        for one in asks:
            await one()
    return list(decisions(app.current.config.home / "audit.db", began, time.time() + 60))


def bodies():
    """All sorts of requests."""
    tools = [{"type": "function", "function": {"name": "f"}}]
    mail = [{"role": "user", "content": "write to bob.smith@example.org"}]
    axes = (
        ["auto", "gpt-4o-mini", "small", "big", "acme/large", "n", "gone"],
        [{}, {"outstation": {"locality": "prefer_remote"}}, {"outstation": {"locality": "only_local"}}],
        [{}, {"tools": tools}, {"messages": mail}, {"headers": {"x_outstation_data_classes": "health"}}],
        [{}, {"max_tokens": 1000}, {"stream": True}, {"messages": [{"role": "user", "content": "word " * 9000}]}],
    )
    every = [{"model": model, **a, **b, **c} for model, a, b, c in itertools.product(*axes)]
    random.Random(7).shuffle(every)
    return every


@pytest.mark.parametrize("trouble", ["none", "local fails", "cannot count", "acme is down"])
async def test_the_same_policy_decides_the_same(site, other, exchange, trouble):
    """Every first route, every cost, every departure; budgets that ran out and local models that failed included."""
    local = (lambda _: [EngineFailed("It died.")]) if trouble == "local fails" else None
    down = {"acme": lambda _: [DOWN]} if trouble == "acme is down" else {}
    app = site(local=local, **down)
    if trouble == "cannot count":
        app.current.site.backends["m"].count_tokens = EngineFailed("It died.")
    asks = [partial(ask, app, exchange, **body) for body in bodies()[:120]]
    rows = await recorded(app, *asks)
    results = list(other(SITE).decide(rows))
    told = [result for result in results if isinstance(result, Replayed)]
    assert len(told) > 90
    assert [r for r in told if r.changed] == []
    assert all(r.cost_before == r.cost_after and r.left_before == r.left_after for r in told)
    assert {r.before for r in told} >= {"refused", "acme/large", "beta/b" if trouble == "cannot count" else "local/m"}
    # A request for a model that nobody serves was never decided.
    assert {row.model for row in results if isinstance(row, Decision)} <= {"gone"}


async def test_another_policy_changes_what_it_says(site, other, exchange):
    app = site()
    rows = await recorded(
        app,
        partial(ask, app, exchange),
        partial(ask, app, exchange, model="small"),
        partial(ask, app, exchange, outstation={"locality": "prefer_remote"}, model="big"),
        partial(ask, app, exchange, headers={"x_outstation_data_classes": "health"}),
    )
    text = SITE.replace("prefer_local", "prefer_remote").replace("site_day = 0.5", "site_day = 100")
    text = text.replace('default = "allow" }\n[[providers.models]]\nname = "b"', '}\n[[providers.models]]\nname = "b"')
    free, named, big, health = other(text.replace('"gpt-4o-mini"', 'x = "m"\n"gpt-4o-mini"')).decide(rows)
    assert (free.before, free.after) == ("local/m", "beta/b")
    assert (named.before, named.after) == ("local/m", "local/m")
    assert (big.before, big.after, big.changed) == ("acme/large", "acme/large", False)
    assert big.cost_before == big.cost_after == pytest.approx(1500 * 100 / 1e6)
    assert (big.left_before, big.left_after) == (("acme",), ("acme",))
    assert (health.before, health.after, health.left_after) == ("local/m", "local/m", ())
    costly = text.replace("_price = 0", "_price = 1000000")
    free, *_ = other(
        costly.replace("[[rules]]", '[[rules]]\nname = "b"\nwhen = "true"\nroutes = ["beta/b"]\n[[rules]]')
    ).decide(rows)
    assert (free.after, free.left_after) == ("refused", ())
    assert "budget" in free.reason


async def test_only_local_keeps_all_of_it_here(site, other, exchange):
    """Also what a provider answered after the box had failed: no other first route, and still another end."""
    app = site(local=lambda _: [EngineFailed("It died.")])
    app.current.site.backends["n"].script = lambda _: [EngineFailed("It died.")]
    asks = [partial(ask, app, exchange), partial(ask, app, exchange, outstation={"locality": "only_remote"})]
    rows = await recorded(app, *asks)
    assert rows[0].route == "beta/b"
    fell, sent = other('[routing]\nlocality = "only_local"\n').decide(rows)
    assert (fell.before, fell.after, fell.lost, fell.changed) == ("local/m", "local/m", "beta/b", True)
    assert (fell.left_before, fell.left_after, fell.total_after) == (("beta",), (), None)
    assert (sent.after, sent.left_before, sent.left_after) == ("refused", ("beta",), ())


async def test_aliases_are_those_of_the_other_policy(site, other, exchange):
    app = site()
    asks = [
        partial(ask, app, exchange),
        partial(ask, app, exchange, model="small"),
        partial(ask, app, exchange, model="big"),
    ]
    rows = await recorded(app, *asks)
    text = SITE.replace('small = "m"', 'small = "acme/large"').replace('aliases = ["big"]', "")
    text = text.replace('"gpt-4o-mini" = "auto"', 'big = "n"')
    auto, small, big = other(text).decide(rows)
    assert auto.changed is False
    assert (small.before, small.after, small.left_after) == ("local/m", "acme/large", ("acme",))
    assert small.cost_after > 0 == small.cost_before
    assert (big.before, big.after, big.left_after) == ("acme/large", "local/n", ())
    auto, *_ = other(SITE).decide(rows)
    assert auto.after == "local/m"
    auto, *_ = other(SITE.replace("[routing]", '[routing]\ndefault = "n"')).decide(rows)
    assert auto.after == "local/n"


async def test_what_departed_is_counted_as_the_ledger_counts_it(site, other, exchange):
    app = site(acme=lambda _: [Unavailable("Down.", code="provider_down", retry_after=30)], beta=lambda _: [DOWN])
    rows = await recorded(app, partial(ask, app, exchange, outstation={"locality": "only_remote"}))
    assert {code for _, code, _ in rows[0].attempts} == {"provider_down", "provider_unreachable"}
    (result,) = other(SITE).decide(rows)
    assert result.left_before == result.left_after == ("beta",)
    for code in ("egress_denied", "offline", "audit_unavailable"):
        (result,) = other(SITE).decide([replace(rows[0], attempts=(("acme/large", code, 0.1),))])
        assert result.left_before == ()


async def test_money_is_spent_anew(site, other, exchange):
    """A request of 15 cents each: the fourth is over a budget of 50, and over one of 20 it is the second."""
    app = site()
    one = partial(ask, app, exchange, model="acme/large", max_tokens=100)
    rows = await recorded(app, one, one, one, one, one)
    assert [row.status for row in rows] == [200, 200, 200, 200, 429]
    assert [r.after for r in other(SITE).decide(rows)] == ["acme/large"] * 4 + ["refused"]
    less = other(SITE.replace("site_day = 0.5", "site_day = 0.2")).decide(rows)
    assert [r.after for r in less] == ["acme/large"] * 2 + ["refused"] * 3
    more = other(SITE.replace("site_day = 0.5", "site_day = 5")).decide(rows)
    assert [r.after for r in more] == ["acme/large"] * 5
    # What was spent before the first row that is looked at counts as well.
    assert [r.after for r in other(SITE).decide(rows[3:])] == ["acme/large", "refused"]


async def test_a_switch_is_the_policys_and_a_dead_link_the_times(site, other, exchange):
    app = site(SITE.replace("[routing]", "[routing]\noffline = true"))
    rows = await recorded(app, partial(ask, app, exchange, model="acme/large"))
    (result,) = other(SITE).decide(rows)
    assert (result.before, result.after) == ("refused", "acme/large")
    facts = orjson.loads(rows[0].facts)
    (result,) = other(SITE).decide([replace(rows[0], facts=orjson.dumps({**facts, "offline": "no link"}))])
    assert result.after == "refused"


async def test_the_time_of_a_route_that_was_not_counted_takes_nothing_for_cached(site, other, exchange):
    """100 prompt tokens at 100/s, 256 of completion at 1,000/s: the decision assumed a cache, the time does not."""
    app = site()
    (row,) = await recorded(app, partial(ask, app, exchange, outstation={"locality": "prefer_remote"}))
    facts = orjson.loads(row.facts)
    facts["states"]["local/m"] |= {"prefill_rate": 100.0, "decode_rate": 1000.0}
    facts["request"]["locality"] = None
    facts |= {"estimated_tokens": 100, "prompt_tokens": {}, "cached_tokens": {"local/m": 100}}
    (result,) = other(SITE).decide([replace(row, facts=orjson.dumps(facts))])
    assert (result.before, result.after) == ("beta/b", "local/m")
    assert result.total_after > 1.0


async def test_text_that_nobody_searched_is_marked(site, other, exchange):
    app = site("[routing]\n")
    rows = await recorded(app, partial(ask, app, exchange))
    (result,) = other(SITE.replace("prefer_local", "prefer_remote")).decide(rows)
    assert (result.after, result.searched) == ("beta/b", False)
    summary = Summary()
    summary.add(result)
    assert summary.data()["would_leave"]["beta"]["unsearched"] == 1


@pytest.mark.parametrize("facts", [b"", b"{}", b"[]", b"null", b"not json", b'{"request": {}}', b'{"request": 1}'])
def test_rows_without_facts_come_back_as_they_are(other, facts):
    row = Decision("r", 1.0, facts=facts)
    assert list(other(SITE).decide([row])) == [row]


async def test_rows_of_an_older_form_are_passed_over(site, other, exchange):
    app = site()
    (row,) = await recorded(app, partial(ask, app, exchange))
    facts = orjson.loads(row.facts)
    assert read_facts(row.facts).planned == ("local/m", "local/n", "beta/b", "acme/large")
    for name in facts.keys() - LATER:
        older = replace(row, facts=orjson.dumps({k: v for k, v in facts.items() if k != name}))
        assert list(other(SITE).decide([older])) == [older]
    (replayed,) = other(SITE).decide(
        [replace(row, facts=orjson.dumps({k: v for k, v in facts.items() if k not in LATER}))]
    )
    assert isinstance(replayed, Replayed)  # what came later is taken for what it would have been
    newer = replace(row, facts=orjson.dumps({**facts, "spent": {**facts["spent"], "key_year": 1}}))
    assert list(other(SITE).decide([newer])) == [newer]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[aliases]\nx = "gone/large"\n', "no model 'gone/large'"),
        (SITE + '[[rules]]\nname = "r"\nwhen = "true"\nroutes = ["gone/large"]\n', "no route 'gone/large'"),
        ('[[rules]]\nname = "r"\nwhen = "1 +"\ndeny = "x"\n', "rules[0].when"),
    ],
)
def test_a_policy_that_cannot_work_is_refused(other, text, message):
    with pytest.raises(ConfigError) as caught:
        other(text)
    assert message in str(caught.value)


def test_a_listing_is_one_json_object_however_many_rows():
    for count in range(4):
        lines: list[str] = []
        listing = Listing(lines.append)
        for number in range(count):
            listing.add({"n": number})
        listing.end({"decisions": count, "more": {}})
        data = json.loads("\n".join(lines))
        assert data == {"changed": [{"n": number} for number in range(count)], "decisions": count, "more": {}}


async def test_a_hundred_thousand_rows_keep_no_row(site, other, exchange):
    """The summary of many is no larger than that of few, but for two numbers a changed one whose time can be told."""
    app = site()
    (row,) = await recorded(app, partial(ask, app, exchange))
    replay = other(SITE.replace("prefer_local", "prefer_remote"))
    summary = Summary()
    for result in replay.decide(replace(row, request_id=str(n), at=row.at + n) for n in range(300)):
        summary.add(result)
    assert (summary.decisions, summary.changes) == (300, 300)
    assert len(summary.moves) == 1
    assert not any(isinstance(value, list) and len(value) > 2 for value in summary.data().values())
