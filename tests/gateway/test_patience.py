"""When a route has had its chance: the next one gets its turn while it still has the time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

import pytest

from backends.errors import Overloaded
from backends.fake import FakeBackend, say
from backends.types import Chunk, ModelState, Usage
from policies.base import Route

pytestmark = pytest.mark.anyio

THERE = Route("acme/large", "acme/large", "remote", 100_000, provider="acme")
SLOW = Chunk(0, "slow", tokens=(1,))


@dataclass
class Provider(FakeBackend):
    """Of a known pace: seconds to the first token, and tokens/s."""

    pace: tuple[float, float] = (0.0, 0.0)

    def health(self) -> tuple[str, float | None, float, float]:
        return "", None, *self.pace


@dataclass
class Rated(FakeBackend):
    """A box that needs half a second for the ten tokens of these requests."""

    def state(self) -> ModelState:
        return replace(FakeBackend.state(self), prefill_rate=1e6, decode_rate=20.0, max_sequences=8)


def both(make_app, pace, *steps, box=FakeBackend):
    """The box plays `steps`; the provider answers at once, whatever it says of its pace."""
    box = box("m", lambda _: [*steps, Chunk(0, finish_reason="stop"), Usage(1, 1)])
    return make_app(box, remote=[(THERE, Provider(THERE.name, say("from afar"), pace=pace))])


async def ask(make_app, exchange, pace, *steps, stream=False, deadline_ms=1000, box=FakeBackend):
    """A request to `both`."""
    return await ask_app(both(make_app, pace, *steps, box=box), exchange, stream=stream, deadline_ms=deadline_ms)


async def ask_app(app, exchange, *, stream=False, deadline_ms=1000):
    controls = {"outstation": {"deadline_ms": deadline_ms}, "max_tokens": 10, "stream": stream}
    begun = exchange(app, {"model": "auto", "messages": [{"role": "user", "content": "x"}], **controls})
    await begun.end()
    return begun


async def test_a_whole_answer_that_stalls_is_handed_over_while_the_provider_has_the_time(make_app, exchange):
    begun = await ask(make_app, exchange, (0.1, 100.0), SLOW, asyncio.Event())
    assert begun.status == 200
    assert begun.headers["x-outstation-route"] == "acme/large"
    assert begun.headers["x-outstation-attempts"] == "2"
    assert "local/m failed: first_token_timeout" in begun.headers["x-outstation-reason"]


async def test_the_attempt_that_lost_its_turn_failed(make_app, exchange):
    app = both(make_app, (0.1, 100.0), SLOW, asyncio.Event())
    await ask_app(app, exchange)
    told = app.shared.metrics.text().decode()
    assert 'outstation_attempts_total{result="first_token_timeout",route="local/m"} 1.0' in told
    assert 'outstation_attempts_total{result="ok",route="acme/large"} 1.0' in told


async def test_a_stream_that_does_not_begin_is_handed_over(make_app, exchange):
    begun = await ask(make_app, exchange, (0.1, 100.0), asyncio.Event(), stream=True)
    assert begun.headers["x-outstation-route"] == "acme/large"
    assert b"from afar" in begun.body


async def test_nobody_is_interrupted_for_a_provider_that_would_be_late(make_app, exchange):
    begun = await ask(make_app, exchange, (100.0, 1.0), 0.3, SLOW, deadline_ms=500)
    assert begun.headers["x-outstation-route"] == "local/m"
    assert begun.status == 200


async def test_a_whole_answer_is_not_given_up_for_a_provider_of_unknown_pace(make_app, exchange):
    begun = await ask(make_app, exchange, (0.0, 0.0), SLOW, 0.6)
    assert begun.headers["x-outstation-route"] == "local/m"


async def test_nobody_is_interrupted_before_the_time_that_the_box_was_given(make_app, exchange):
    begun = await ask(make_app, exchange, (0.0, 20.0), SLOW, 0.35, box=Rated)
    assert begun.headers["x-outstation-route"] == "local/m"
    assert begun.headers["x-outstation-attempts"] == "1"


@pytest.mark.parametrize(("tokens_per_s", "attempts"), [(12.5, "1"), (100.0, "2")])
async def test_a_busy_provider_is_asked_again_only_if_it_could_still_be_in_time(
    make_app, exchange, tokens_per_s, attempts
):
    busy = Overloaded("The provider acme has too many requests.", code="provider_busy", retry_after=0.3)
    provider = Provider(THERE.name, lambda _: [busy], pace=(0.0, tokens_per_s))
    app = make_app(FakeBackend("m"), remote=[(THERE, provider)])
    controls = {"outstation": {"deadline_ms": 1000, "locality": "only_remote"}, "max_tokens": 10}
    begun = exchange(app, {"model": "auto", "messages": [{"role": "user", "content": "x"}], **controls})
    await begun.end()
    assert begun.status == 429
    assert begun.headers["x-outstation-attempts"] == attempts
