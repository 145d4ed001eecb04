"""What goes wrong at the seams: money for what was never sent, an error's words in headers, two ends of one answer."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from backends.errors import EngineFailed
from backends.fake import FakeBackend, say
from tests.gateway.conftest import Exchange
from tests.remote.fault_proxy import DONE, FaultProxy, delta, refusal, stream, whole
from tests.routing.conftest import REMOTE, Opened, provider, until
from tests.routing.test_boundary import MAIL, PRIVATE, REDACT, Clumsy, seen_by

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("why", ["audit", "switch"])
async def test_what_was_never_sent_costs_nothing(site: Opened, why: str) -> None:
    config = partial(provider, "acme", price=1e5)
    async with FaultProxy(usual=whole()) as proxy, site(FakeBackend("m"), config=config(proxy.url)) as gateway:
        if why == "audit":
            await asyncio.to_thread(gateway.app.shared.audit.close)
        else:
            gateway.app.shared.boundary.shut(True)
        assert (await gateway.ask(model="acme/large", max_tokens=1)).status == 503
        assert gateway.app.shared.books.spending.spent("").site_day == 0.0
    assert proxy.seen == []


async def test_a_free_request_does_not_fall_into_a_paid_one_unseen(site: Opened) -> None:
    """There was money when it was decided, and none when the box failed."""
    waits = asyncio.Event()
    local = FakeBackend("m", lambda _: [waits, EngineFailed("It died.", retry_after=0.01)])
    async with FaultProxy(usual=whole()) as proxy:
        config = "[budget]\nsite_day = 1.0\n" + provider("acme", proxy.url, price=1.0)
        async with site(local, config=config) as gateway:
            asking = asyncio.create_task(gateway.ask())
            await until(lambda: local.requests)
            gateway.app.shared.books.spending.reserve("another's", "", 1.0)
            waits.set()
            begun = await asking
    assert begun.status == 503
    assert "not acme/large (budget: " in begun.headers["x-outstation-reason"]
    assert proxy.seen == []
    assert gateway.ledger() == []


async def test_an_attempt_that_the_boundary_stopped_is_in_the_audit(site: Opened) -> None:
    local, config = FakeBackend("m", say("here")), partial(provider, "acme", data=REDACT)
    async with FaultProxy(usual=whole()) as proxy, site(local, config=config(proxy.url)) as gateway:
        seen_by(gateway, Clumsy())
        begun = await gateway.ask(messages=PRIVATE, outstation=REMOTE)
        assert begun.headers["x-outstation-attempts"] == "2"
    (row,) = gateway.decisions()
    assert [(route, code) for route, code, _ in row.attempts] == [("acme/large", "privacy_denied"), ("local/m", "ok")]
    assert not row.redacted
    assert MAIL not in str(row)


@pytest.mark.parametrize("stream_", [False, True])
async def test_a_providers_words_do_not_become_headers(site: Opened, stream_: bool) -> None:
    says = refusal(400, "no", code="bad\r\nset-cookie: a=b\r\n\r\n<html>", param="x\r\ny: z")
    async with FaultProxy(usual=says) as proxy, site(FakeBackend("m"), config=provider("acme", proxy.url)) as gateway:
        begun = await gateway.ask(model="acme/large", stream=stream_)
    assert begun.status == 400
    for value in begun.headers.values():
        assert value.isprintable()
    assert "acme/large failed: " in begun.headers["x-outstation-reason"]


ENDED = {
    "text after the end": stream(delta("a"), delta(finish="stop"), delta("b"), DONE),
    "cut after the end": stream(
        delta("a"), delta(finish="stop"), delta("b" * 99), cut_at=len(delta("a") + delta(finish="stop")) + 9
    ),
}


@pytest.mark.parametrize("fault", ENDED)
async def test_an_answer_that_has_ended_is_not_continued(site: Opened, fault: str) -> None:
    """It would end twice."""
    local = FakeBackend("m", say("here"))
    async with FaultProxy(usual=ENDED[fault]) as proxy, site(local, config=provider("acme", proxy.url)) as gateway:
        begun = await gateway.ask(stream=True, outstation={**REMOTE, "continue_on_break": True})
    assert begun.body.count(b'"finish_reason":"stop"') == 1
    assert b"here" not in begun.body
    assert local.requests == []
    assert begun.body.count(b'data: {"error"') == 1


async def test_the_same_request_id_twice_at_once(site: Opened) -> None:
    """One is cleared with placeholders, the other is not: neither gets the other's clearance."""
    held = asyncio.Event()
    says = stream(delta("[EMAIL_1]"), delta(finish="stop"), held=held)
    config = partial(provider, "acme", data=REDACT)
    async with FaultProxy(usual=says) as proxy, site(FakeBackend("m"), config=config(proxy.url)) as gateway:

        async def ask(text: str) -> Exchange:
            messages = [{"role": "user", "content": text}]
            return await gateway.ask(
                model="acme/large", stream=True, headers={"x_request_id": "same"}, messages=messages
            )

        asking = [asyncio.create_task(ask(text)) for text in (f"Write to {MAIL}.", "Write to me.")]
        await until(lambda: len(proxy.seen) == 2)
        held.set()
        first, second = await asyncio.gather(*asking)
    assert MAIL.encode() in first.body
    assert MAIL.encode() not in second.body
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    assert [(left.request_id, left.redacted) for left in gateway.ledger()] == [
        (first.headers["x-request-id"], True),
        (second.headers["x-request-id"], False),
    ]
