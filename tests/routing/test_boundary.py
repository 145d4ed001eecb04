"""The site's boundary fails closed: whatever is wrong with it, nothing is sent, and the box goes on answering."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import closing
from functools import partial
from typing import Any

import apsw
import pytest

from backends.fake import FakeBackend, say
from backends.openai_http import OpenAIBackend
from backends.types import Request
from gateway.egress import EgressDenied
from policies.detect import Detector, Finding
from tests.remote.fault_proxy import Act, FaultProxy, delta, hello, refusal, stream, whole
from tests.routing.conftest import KEY, REMOTE, Opened, Whole, provider, until

pytestmark = pytest.mark.anyio

MAIL = "anna.meyer@example.org"
CARD = "4111 1111 1111 1111"
PRIVATE = [{"role": "user", "content": f"Write to {MAIL}."}]
REDACT = 'default = "redact"'


class Blind(Detector):
    """Cannot search."""

    def classes(self, raw: Mapping[str, Any]) -> frozenset[str]:
        raise RecursionError(str(raw))


class Clumsy(Detector):
    """Knows that something is there, and fails when it is to say where."""

    def find(self, text: str, classes: Iterable[str] | None = None, key: str = "") -> list[Finding]:
        raise MemoryError(text)


class Careless(Detector):
    """Finds nothing where there is something: what is left then is noticed afterwards."""

    def find(self, text: str, classes: Iterable[str] | None = None, key: str = "") -> list[Finding]:
        return []


def box() -> FakeBackend:
    return FakeBackend("m", say("here"))


def seen_by(gateway: Whole, detector: Detector) -> None:
    """Lets the gateway search with that one."""
    gateway.app.current.inference.dispatcher.planner.egress._detector = detector


async def answered_here(gateway: Whole, stream: bool = False, **fields: Any) -> str:
    """The box answers. Returns the reason."""
    begun = await gateway.ask(stream=stream, outstation=REMOTE, **fields)
    assert begun.status == 200
    assert b"here" in begun.body
    assert begun.headers["x-outstation-route"] == "local/m"
    return begun.headers["x-outstation-reason"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("detector", [Blind(), Clumsy(), Careless()])
async def test_what_cannot_be_searched_stays(site: Opened, caplog, detector: Detector, stream: bool) -> None:
    config = partial(provider, "acme", data=REDACT)
    async with FaultProxy(usual=hello()) as proxy, site(box(), config=config(proxy.url)) as gateway:
        seen_by(gateway, detector)
        await answered_here(gateway, stream, messages=PRIVATE)
        begun = await gateway.ask(model="acme/large", stream=stream, messages=PRIVATE)
    assert begun.status == 400
    assert begun.json["error"]["code"] in ("privacy_denied", "privacy_scan_failed")
    assert proxy.seen == []
    assert gateway.ledger() == []
    assert MAIL not in caplog.text
    assert MAIL not in begun.body.decode()
    assert MAIL not in begun.headers["x-outstation-reason"]


async def test_a_deny_is_not_undone_by_a_fallback(site: Opened) -> None:
    """The one that may see it fails; the one that may not is not asked instead, not in a second round either."""
    async with FaultProxy(usual=refusal(500)) as friend, FaultProxy(usual=whole()) as stranger:
        config = provider("friend", friend.url, quality=2) + provider("stranger", stranger.url, data='default = "deny"')
        local = FakeBackend("m", capabilities=frozenset())
        async with site(local, config=config) as gateway:
            tools = [{"type": "function", "function": {"name": "f"}}]
            begun = await gateway.ask(messages=PRIVATE, tools=tools, outstation=REMOTE)
            assert begun.status == 503
            clean = await gateway.ask(tools=tools, outstation=REMOTE)
            assert clean.headers["x-outstation-route"] == "stranger/large"
    assert len(friend.seen) >= 2
    assert [MAIL.encode() in seen.body for seen in stranger.seen] == [False]


async def test_each_provider_gets_what_it_may_see_in_one_request(site: Opened) -> None:
    """The first may see it and is busy; the second gets placeholders, and the client its own words."""
    says = stream(delta("To [EMA"), delta("IL_1]"), delta(", [EMAIL_2]"), delta(finish="stop"))
    async with FaultProxy(usual=refusal(503)) as first, FaultProxy(usual=says) as second:
        config = provider("first", first.url, quality=2) + provider("second", second.url, data=REDACT, price=2.0)
        async with site(box(), config=config) as gateway:
            begun = await gateway.ask(messages=PRIVATE, stream=True, outstation=REMOTE)
    assert MAIL.encode() in first.seen[0].body
    assert second.seen[0].json["messages"][0]["content"] == "Write to [EMAIL_1]."
    assert f"To {MAIL}, [EMAIL_2]" == "".join(
        piece.split(b'"')[0].decode() for piece in begun.body.split(b'"delta":{"content":"')[1:]
    )
    (row,) = gateway.decisions()
    assert row.data_classes == ("email",)
    assert row.redacted
    assert [(route, code) for route, code, _ in row.attempts] == [
        ("first/large", "provider_error"),
        ("second/large", "ok"),
    ]
    assert row.cost > 0
    assert [(left.provider, left.redacted, left.classes) for left in gateway.ledger()] == [
        ("first", False, ("email",)),
        ("second", True, ("email",)),
    ]


async def test_each_send_is_in_the_ledger(site: Opened) -> None:
    """Retries too, to the byte; and neither text nor key is anywhere in what is kept."""
    plan = [refusal(429, headers=[("retry-after", "0")]), Act(head="reset")]
    async with FaultProxy(plan=plan, usual=whole()) as one, FaultProxy(plan=[refusal(500)], usual=whole()) as two:
        config = provider("acme", one.url, two.url, price=3.0)
        async with site(box(), config=config) as gateway:
            for _ in range(3):
                begun = await gateway.ask(model="acme/large", messages=PRIVATE)
                assert begun.status == 200
    arrived = [*one.seen, *two.seen]
    left = gateway.ledger()
    assert len(left) == len(arrived) >= 5
    assert sorted(row.bytes for row in left) == sorted(len(seen.body) for seen in arrived)
    assert {row.host for row in left} == {url.split("/")[2] for url in (one.url, two.url)}
    assert {row.request_id for row in left} == {row.request_id for row in gateway.decisions()}
    assert gateway.verified().ok
    for file in gateway.home.glob("audit*"):
        assert MAIL.encode() not in file.read_bytes()
        assert KEY.encode() not in file.read_bytes()


async def test_without_an_audit_nothing_leaves(site: Opened) -> None:
    async with FaultProxy(usual=whole()) as proxy, site(box(), config=provider("acme", proxy.url)) as gateway:
        await asyncio.to_thread(gateway.app.shared.audit.close)
        assert "acme/large failed: audit_unavailable" in await answered_here(gateway)
        begun = await gateway.ask(model="acme/large")
        assert begun.status == 503
        assert begun.json["error"]["code"] == "audit_unavailable"
        assert int(begun.headers["retry-after"]) >= 1
    assert proxy.seen == []


async def test_an_audit_that_cannot_be_opened_lets_nothing_leave_until_it_can(site: Opened, tmp_path) -> None:
    (tmp_path / "audit.db").mkdir()
    async with FaultProxy(usual=whole()) as proxy, site(box(), config=provider("acme", proxy.url)) as gateway:
        assert "audit_unavailable" in await answered_here(gateway, True)
        assert proxy.seen == []
        (tmp_path / "audit.db").rmdir()
        await until(lambda: gateway.app.shared.audit.healthy)
        routes = [(await gateway.ask(outstation=REMOTE)).headers["x-outstation-route"] for _ in range(2)]
        assert routes[-1] == "acme/large"
    assert len(gateway.ledger()) == len(proxy.seen)


async def test_an_audit_that_somebody_locks(site: Opened, tmp_path) -> None:
    async with FaultProxy(usual=whole()) as proxy, site(box(), config=provider("acme", proxy.url)) as gateway:
        with closing(apsw.Connection(str(tmp_path / "audit.db"))) as other:
            other.execute("BEGIN IMMEDIATE")
            await answered_here(gateway, messages=PRIVATE, model="m")  # something to write
            await until(lambda: not gateway.app.shared.audit.healthy, 20)
            before = len(proxy.seen)
            await answered_here(gateway)
            assert len(proxy.seen) == before
            other.execute("ROLLBACK")
        await until(lambda: gateway.app.shared.audit.healthy, 20)
        assert (await gateway.ask(outstation=REMOTE)).headers["x-outstation-route"] == "acme/large"
    assert len(gateway.decisions()) == 3
    assert gateway.verified().ok


async def test_an_audit_that_was_deleted(site: Opened, tmp_path) -> None:
    async with FaultProxy(usual=whole()) as proxy, site(box(), config=provider("acme", proxy.url)) as gateway:
        assert (await gateway.ask(outstation=REMOTE)).headers["x-outstation-route"] == "acme/large"
        for file in tmp_path.glob("audit.db*"):
            file.unlink()
        await gateway.ask(model="m")  # something to write
        await until(lambda: not gateway.app.shared.audit.healthy)
        await answered_here(gateway)
        assert len(proxy.seen) == 1
        await until(lambda: gateway.app.shared.audit.healthy)
        assert (await gateway.ask(outstation=REMOTE)).headers["x-outstation-route"] == "acme/large"
    assert len(gateway.ledger()) == len(proxy.seen) == 2
    assert gateway.verified().ok


async def test_the_switch(site: Opened) -> None:
    """Not even a knock."""
    async with FaultProxy(usual=whole()) as proxy:
        config = "[routing]\noffline = true\n" + provider("acme", proxy.url)
        async with site(box(), config=config) as gateway:
            assert "offline" in await answered_here(gateway)
            begun = await gateway.ask(model="acme/large")
            assert (begun.status, begun.json["error"]["code"]) == (503, "offline")
    assert proxy.connections == 0


async def test_the_switch_holds_for_what_is_under_way(site: Opened) -> None:
    """Decided before, sent after: not sent."""
    asked = asyncio.Event()
    async with FaultProxy(usual=whole()) as proxy:
        local = FakeBackend("m", lambda request: [asked, *say("here")(request)])
        async with site(local, config=provider("acme", proxy.url, quality=1)) as gateway:
            gateway.app.shared.boundary.shut(True)
            asked.set()
            assert "acme/large failed: offline" in await answered_here(gateway)
    assert proxy.seen == []


@pytest.mark.parametrize("cleared_for", ["", "other"])
async def test_a_provider_that_nobody_cleared_is_not_sent_anything(site: Opened, cleared_for: str) -> None:
    """Whatever asked it, and though another was cleared for the same request."""
    async with FaultProxy(usual=whole()) as proxy, FaultProxy(usual=whole()) as other:
        config = provider("acme", proxy.url) + provider("other", other.url)
        async with site(box(), config=config) as gateway:
            works = gateway.app.current.inference.dispatcher._works
            backend = works.backends["acme/large"]
            assert isinstance(backend, OpenAIBackend)
            request = Request("req-1", "acme/large", "chat", messages=tuple(PRIVATE), raw={"messages": PRIVATE})
            route = gateway.app.current.site.resolve("other/large").routes[0]
            clearance = await works.egress.clear(request, route, frozenset(), frozenset(), 0.0, 100)
            with works.egress.boundary.open(clearance, cleared_for), pytest.raises(EgressDenied):
                _ = [event async for event in backend.generate(request)]
    assert proxy.seen == []
    assert gateway.ledger() == []
