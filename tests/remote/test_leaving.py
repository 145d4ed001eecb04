"""Whoever goes away before anything came: a client that hung up, or one that the endpoint kept waiting too long."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from backends.errors import Unavailable
from backends.openai_http import OpenAIBackend
from backends.remote.breaker import FAILURES
from tests.remote.conftest import KEY, BackendMaker, answer, ask
from tests.remote.fault_proxy import FaultProxy, delta, hello, refusal, stream

pytestmark = pytest.mark.anyio

STALLS = {"head": "stall"}


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


async def given_up(backend: OpenAIBackend, proxy: FaultProxy, clock: Clock, waits_s: float, streamed: bool) -> None:
    """One request, cancelled after that time; nothing has come."""
    proxy.began.clear()
    asking = asyncio.create_task(answer(backend, ask(streamed)))
    await proxy.began.wait()
    clock.now += waits_s
    asking.cancel()
    await asyncio.wait([asking])


@pytest.mark.parametrize("how", [{"head": "stall"}, {"stall_at": 10}])
@pytest.mark.parametrize(
    ("streamed", "waits_s", "blamed"),
    [(True, 2.5, True), (True, 1.5, False), (False, 2.5, False), (False, 9.0, False), (False, 10.5, True)],
)
async def test_who_waited_long_for_nothing_blames_the_endpoint(
    make_backend: BackendMaker, how: dict[str, object], streamed: bool, waits_s: float, blamed: bool
) -> None:
    clock = Clock()
    async with FaultProxy(usual=hello(**how)) as proxy, asyncio.timeout(20):
        backend = make_backend(proxy.url, clock=clock)
        for _ in range(FAILURES):
            assert backend.health()[0] == ""
            await given_up(backend, proxy, clock, waits_s, streamed)
    assert backend.health()[0] == ("provider_timeout" if blamed else "")


async def test_a_slow_endpoint_is_given_longer(make_backend: BackendMaker) -> None:
    clock = Clock()
    async with FaultProxy(usual=hello(**STALLS)) as proxy, asyncio.timeout(20):
        backend = make_backend(proxy.url, clock=clock)
        backend.pace.began(1.5)
        for _ in range(FAILURES):
            await given_up(backend, proxy, clock, 4.0, streamed=True)
        assert backend.health()[0] == ""
        for _ in range(FAILURES):
            await given_up(backend, proxy, clock, 5.0, streamed=True)
        assert backend.health()[0] == "provider_timeout"


async def test_what_the_boundary_kept_long_blames_nobody(make_backend: BackendMaker) -> None:
    clock = Clock()

    def depart(*_: object) -> None:
        clock.now += 60
        raise Unavailable("the ledger is slow", code="audit_unavailable")

    async with FaultProxy(usual=hello()) as proxy:
        backend = make_backend(proxy.url, clock=clock, depart=depart)
        for _ in range(FAILURES):
            assert (await answer(backend, ask())).error is not None
        assert backend.health()[0] == ""


async def test_no_cut_leaves_half_of_the_key(make_backend: BackendMaker) -> None:
    """A provider's words are cut after the key was taken out of them, and its code is searched in small letters."""
    cut = "x" * 1990 + KEY
    broken = stream(delta("a"), b'data: {"error":"' + b"x" * 1965 + KEY.encode() + b'"}\n\n')
    plan = [refusal(400, cut, param=cut[1895:], code=KEY.upper()), broken]
    async with FaultProxy(plan=plan) as proxy:
        backend = make_backend(proxy.url)
        for _ in range(2):
            error = (await answer(backend, ask())).error
            assert error is not None
            assert KEY[:3] not in f"{error.message} {error.param} {error.code}".lower()
            assert len(error.message) <= 2000
            assert len(error.param or "") <= 100
