"""Each fault of a provider × streamed or not × before or after the first byte, through the whole gateway, and what the
official client makes of it."""

from __future__ import annotations

from contextlib import AsyncExitStack

import openai
import pytest

from backends.errors import DeadlineExceeded, EngineFailed, Overloaded
from backends.fake import FakeBackend, say
from backends.types import Chunk
from tests.conftest import free_port
from tests.gateway.conftest import Exchange
from tests.remote.fault_proxy import Act, FaultProxy, hello, refusal, whole
from tests.remote.test_faults import AFTER, BEFORE, WHOLE
from tests.routing.conftest import REMOTE, SHORT, Opened, provider, replayed, told, until

pytestmark = pytest.mark.anyio

GREETING = "Grüße an alle 🙂"
SOON = EngineFailed("The box is down.", retry_after=0.05)


def box(*texts: str) -> FakeBackend:
    return FakeBackend("m", say(*(texts or ("here",))))


async def judged(begun: Exchange, streamed: bool, text: str) -> None:
    """A whole answer, to a reader of bytes and to the official client."""
    assert begun.status == 200
    assert b'"error"' not in begun.body
    assert begun.body.count(b"data: [DONE]\n\n") == streamed
    seen = await told(replayed(begun), streamed)
    assert (seen.text, seen.finished, seen.error) == (text, {0: "stop"}, None)


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("fault", BEFORE)
async def test_before_the_first_byte_the_box_answers(site: Opened, fault: str, streamed: bool) -> None:
    act, _, code = BEFORE[fault]
    async with FaultProxy(plan=[act]) as bad, site(box(), config=provider("acme", bad.url, **SHORT)) as gateway:
        begun = await gateway.ask(stream=streamed, outstation=REMOTE)
        await judged(begun, streamed, "here")
        assert begun.headers["x-outstation-route"] == "local/m"
        assert begun.headers["x-outstation-attempts"] == "2"
        assert f"acme/large failed: {code}" in begun.headers["x-outstation-reason"]
    (row,) = gateway.decisions()
    assert (row.ending, row.route, row.status, len(row.attempts)) == ("success", "local/m", 200, 2)
    assert len(gateway.ledger()) == len(bad.seen) == 1
    assert gateway.verified().ok


@pytest.mark.parametrize("fault", WHOLE)
async def test_a_whole_answer_that_is_cut_was_seen_by_nobody(site: Opened, fault: str) -> None:
    async with (
        FaultProxy(plan=[WHOLE[fault][0]]) as bad,
        site(box(), config=provider("acme", bad.url, **SHORT)) as gateway,
    ):
        begun = await gateway.ask(outstation=REMOTE)
        await judged(begun, False, "here")
        assert begun.headers["x-outstation-route"] == "local/m"


@pytest.mark.parametrize("fault", AFTER)
async def test_after_the_first_byte_it_ends_with_an_error(site: Opened, fault: str) -> None:
    act, _, code = AFTER[fault]
    local, n = box(), 2 if fault == "one choice of two" else 1
    async with FaultProxy(plan=[act]) as bad, site(local, config=provider("acme", bad.url, **SHORT)) as gateway:
        begun = await gateway.ask(stream=True, n=n, outstation=REMOTE)
    assert begun.status == 200
    assert begun.complete
    assert begun.headers["x-outstation-route"] == "acme/large"
    assert begun.body.count(b'data: {"error"') == 1
    assert b"[DONE]" not in begun.body
    assert b"here" not in begun.body
    assert local.requests == []
    seen = await told(replayed(begun), True)
    assert seen.error is not None
    assert seen.error.code == code
    assert seen.text
    assert "stop" not in seen.finished.values() or "after" in fault or n == 2
    (row,) = gateway.decisions()
    assert (row.ending, row.error, row.route) == ("error", code, "acme/large")


async def test_a_stream_cut_at_any_byte_is_never_spliced(site: Opened) -> None:
    """Before the first delta the box answers; after it, there is an error, wherever it was cut."""
    pieces = hello().body
    assert pieces is not None
    size, opens = sum(map(len, pieces)), len(pieces[0]) + len(pieces[1])
    cuts = range(0, size - len(pieces[-1]), 29)
    async with FaultProxy(plan=[]) as bad, site(box(), config=provider("acme", bad.url, price=1.0)) as gateway:
        for at in cuts:
            # A good one between, or the breaker opens.
            bad.plan = [hello(cut_at=at), hello()]
            cut = await gateway.ask(stream=True, outstation=REMOTE)
            assert (b"here" in cut.body) == (cut.headers["x-outstation-route"] == "local/m") == (at < opens)
            assert (b"[DONE]" in cut.body) == (at < opens)
            assert (b'"error"' in cut.body) == (at >= opens)
            good = await gateway.ask(stream=True, outstation=REMOTE)
            await judged(good, True, GREETING)
    assert len(gateway.ledger()) == len(bad.seen) == 2 * len(cuts)
    assert len(gateway.decisions()) == 2 * len(cuts)


@pytest.mark.parametrize("streamed", [True, False])
async def test_nobody_listens_there(site: Opened, streamed: bool) -> None:
    config = provider("acme", f"http://127.0.0.1:{free_port()}/v1")
    async with site(box(), config=config) as gateway:
        begun = await gateway.ask(stream=streamed, outstation=REMOTE)
    await judged(begun, streamed, "here")
    assert begun.headers["x-outstation-route"] == "local/m"
    assert "acme/large" in begun.headers["x-outstation-reason"]


# -- the other way round ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize(
    "failure", [EngineFailed("It died.", retry_after=1), Overloaded("Full.", retry_after=1), DeadlineExceeded("Late.")]
)
async def test_what_the_box_cannot_do_the_provider_does(site: Opened, streamed: bool, failure: Exception) -> None:
    usual = hello() if streamed else whole()
    local = FakeBackend("m", lambda _: [failure])
    async with FaultProxy(usual=usual) as good, site(local, config=provider("acme", good.url)) as gateway:
        begun = await gateway.ask(stream=streamed)
    await judged(begun, streamed, GREETING)
    assert begun.headers["x-outstation-route"] == "acme/large"
    assert begun.headers["x-outstation-attempts"] == "2"


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_box_that_breaks_off_midway(site: Opened, streamed: bool) -> None:
    """What nobody has seen is replaced; what was seen is not."""
    local = FakeBackend("m", lambda _: [Chunk(0, "The pump", (1,)), SOON])
    async with FaultProxy(usual=whole()) as good, site(local, config=provider("acme", good.url)) as gateway:
        begun = await gateway.ask(stream=streamed)
    assert len(good.seen) == (not streamed)
    if not streamed:
        await judged(begun, False, GREETING)
        return
    assert begun.body.count(b'data: {"error"') == 1
    assert b"[DONE]" not in begun.body


BOTH = {
    "reset": Act(head="reset"),
    "stall": Act(head="stall"),
    "500": refusal(500),
    "429": refusal(429),
    "429 for long": refusal(429, headers=[("retry-after", "40")]),
    "401": refusal(401),
    "404": refusal(404),
}


@pytest.mark.parametrize(("locality", "streamed"), [("prefer_local", True), ("prefer_remote", False)])
@pytest.mark.parametrize("fault", BOTH)
async def test_with_both_down_the_client_learns_when_to_come_again(
    site: Opened, fault: str, streamed: bool, locality: str
) -> None:
    local = FakeBackend("m", lambda _: [SOON])
    async with FaultProxy(usual=BOTH[fault]) as bad, site(local, config=provider("acme", bad.url, **SHORT)) as gateway:
        begun = await gateway.ask(stream=streamed, outstation={"locality": locality})
    assert begun.status == 503 or (begun.status == 429 and "429" in fault)
    assert begun.headers["content-type"] == "application/json"
    assert int(begun.headers["retry-after"]) >= 1
    assert {"message", "type", "param", "code"} <= begun.json["error"].keys()
    seen = await told(replayed(begun), streamed)
    assert isinstance(seen.error, openai.InternalServerError | openai.RateLimitError)
    assert len(gateway.ledger()) == len(bad.seen) <= 2
    (row,) = gateway.decisions()
    assert (row.ending, row.status, row.cost) == ("error", begun.status, 0.0)


async def test_a_provider_that_comes_back_is_asked_again(site: Opened) -> None:
    """It is left alone while it is down, and no request pays for finding out that it is well again."""
    async with FaultProxy(plan=[refusal(500)] * 3, usual=whole()) as proxy, AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(site(box(), config=provider("acme", proxy.url)))
        for _ in range(3):
            assert (await gateway.ask(outstation=REMOTE)).headers["x-outstation-route"] == "local/m"
        resting = await gateway.ask(outstation=REMOTE)
        assert resting.headers["x-outstation-attempts"] == "1"
        assert len(proxy.seen) == 3
        (remote,) = [route for route in gateway.app.current.site.routes() if route.location == "remote"]
        await until(lambda: not gateway.app.current.site.health(remote).reason)
        begun = await gateway.ask(outstation=REMOTE)
        assert begun.headers["x-outstation-route"] == "acme/large"
