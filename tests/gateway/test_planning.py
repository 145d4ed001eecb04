"""What a plan is made from, and when a prompt is counted for it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

import pytest

from backends.fake import FakeBackend, say
from backends.types import ModelState, PromptCount, Request

pytestmark = pytest.mark.anyio

LONG = "pump " * 800  # some 1,000 tokens by its bytes: ten seconds at the box's rate


@dataclass
class Box(FakeBackend):
    """A local model with rates, on which others wait as the test says."""

    cached: int = 0
    backlog: int = 0
    counted: int = 0
    while_counting: int = 0  # prompt tokens of others who are admitted meanwhile

    async def count(self, request: Request) -> PromptCount:
        self.counted += 1
        await asyncio.sleep(0)
        self.backlog += self.while_counting
        return PromptCount(1000, self.cached)

    def state(self) -> ModelState:
        waiting = 1 if self.backlog else 0
        rates = replace(FakeBackend.state(self), prefill_rate=100.0, decode_rate=100.0, max_sequences=8)
        return replace(rates, waiting=waiting, backlog_tokens=self.backlog)


async def ask(app, exchange, *, deadline_ms: int, content: str = LONG):
    body = {
        "model": "auto",
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 10,
        "outstation": {"deadline_ms": deadline_ms},
    }
    begun = exchange(app, body)
    await begun.end()
    return begun


async def test_a_prompt_that_the_cache_may_hold_is_counted_before_it_is_turned_away(make_app, exchange):
    box = Box("m", say("here"), cached=990)
    begun = await ask(make_app(box), exchange, deadline_ms=2000)
    assert begun.status == 200
    assert box.counted == 1


async def test_a_prompt_that_the_cache_does_not_hold_is_turned_away(make_app, exchange):
    box = Box("m", say("here"))
    begun = await ask(make_app(box), exchange, deadline_ms=2000)
    assert begun.status == 400
    assert box.requests == []


async def test_a_request_that_is_too_late_even_with_a_cached_prompt_is_refused_uncounted(make_app, exchange):
    box = Box("m", say("here"), cached=990, backlog=100_000)
    begun = await ask(make_app(box), exchange, deadline_ms=60, content="Hello")
    assert begun.status in (400, 503)
    assert box.counted == 0
    assert box.requests == []


async def test_who_was_admitted_while_a_prompt_was_counted_is_seen(make_app, exchange):
    box = Box("m", say("here"), cached=900, while_counting=100_000)
    begun = await ask(make_app(box), exchange, deadline_ms=3000)
    assert begun.status == 503
    assert begun.json["error"]["code"] == "capacity"
    assert box.requests == []
