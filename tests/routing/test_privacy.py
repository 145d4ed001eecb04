"""What may leave the site, seen from outside it: every byte that providers received, through retries and fallbacks."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from tests.routing.conftest import Opened
from tests.routing.traffic import Echo, box, config, inspect, run

pytestmark = pytest.mark.anyio

COUNT = 300


@pytest.mark.parametrize("seed", [1])
async def test_no_planted_value_reaches_whom_it_must_not(site: Opened, seed: int) -> None:
    rngs = [random.Random(seed * 10 + i) for i in range(5)]
    async with Echo(rng=rngs[0]) as a, Echo(rng=rngs[1]) as b, Echo(rng=rngs[2]) as c, Echo(rng=rngs[3]) as d:
        echoes = {"open": a, "careful": b, "mixed": c, "strict": d}
        settings = config(**{name: proxy.url for name, proxy in echoes.items()})
        async with site(box(rngs[4]), config=settings) as gateway:
            requests, report = await run(gateway, seed, COUNT)
    inspect(report, requests, **echoes)
    assert report.leaks == []
    assert report.wrong == []
    # Nothing of it was proved by nothing having been sent.
    assert all(echoed.seen for echoed in echoes.values())
    assert sum(len(echoed.seen) for echoed in echoes.values()) >= COUNT // 3
    assert report.restored >= COUNT // 10
    # The books say the same as the other end.
    left = Counter((row.provider, row.bytes) for row in gateway.ledger())
    assert left == Counter((name, len(seen.body)) for name, echoed in echoes.items() for seen in echoed.seen)
    assert len(gateway.decisions()) == COUNT
    assert gateway.verified().ok
