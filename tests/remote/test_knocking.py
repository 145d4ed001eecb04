"""The background probe: a dead link is known before a request needs it, and so is one that is back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from backends.remote.provider import Knocking
from tests.conftest import free_port
from tests.remote.conftest import BackendMaker, answer, ask
from tests.remote.fault_proxy import FaultProxy, hello, refusal

pytestmark = pytest.mark.anyio

OFTEN = Knocking(ill_s=0.02, idle_s=0.02)


async def _until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.005)


async def test_a_link_that_goes_and_comes_is_noticed_with_nothing_sent(make_backend: BackendMaker) -> None:
    port = free_port()
    backend = make_backend(f"http://127.0.0.1:{port}/v1", knocking=OFTEN)
    await backend.start()
    await _until(lambda: backend.health()[0])
    assert backend.health()[0] == "no connection (ConnectionRefusedError)"
    assert backend.state().status == "failed"
    proxy = FaultProxy(usual=hello(), port=port)
    async with proxy:
        await _until(lambda: not backend.health()[0])
        assert proxy.seen == []
        assert (await answer(backend, ask())).error is None
    await _until(lambda: backend.health()[0])
    assert len(proxy.seen) == 1


async def test_no_request_tries_while_knocks_find_nobody(make_backend: BackendMaker) -> None:
    backend = make_backend(f"http://127.0.0.1:{free_port()}/v1", knocking=Knocking(ill_s=0.01, idle_s=0.01))
    await backend.start()
    await _until(lambda: backend.health()[0])
    error = (await answer(backend, ask())).error
    assert error is not None
    assert error.code == "provider_down"


async def test_a_name_that_leads_nowhere_is_no_link(make_backend: BackendMaker) -> None:
    backend = make_backend("http://host.invalid/v1", knocking=OFTEN)
    await backend.start()
    await _until(lambda: backend.health()[0])
    assert "gaierror" in backend.health()[0]


async def test_a_knock_does_not_heal_what_answers_badly(make_backend: BackendMaker) -> None:
    async with FaultProxy(usual=refusal(429, headers=[("retry-after", "60")])) as proxy:
        backend = make_backend(proxy.url, knocking=OFTEN)
        await answer(backend, ask())
        before = proxy.connections
        await backend.start()
        await _until(lambda: proxy.connections > before + 2)
        assert backend.health()[0] == "provider_busy"


async def test_nothing_knocks_while_nothing_may_leave(make_backend: BackendMaker) -> None:
    asked = 0

    def allowed() -> bool:
        nonlocal asked
        asked += 1
        return False

    async with FaultProxy() as proxy:
        backend = make_backend(proxy.url, knocking=Knocking(0.01, 0.01, allowed))
        await backend.start()
        await _until(lambda: asked > 3)
        assert proxy.connections == 0


async def test_an_endpoint_that_was_just_heard_is_left_in_peace(make_backend: BackendMaker) -> None:
    now = 0.0
    async with FaultProxy(usual=hello()) as proxy:
        backend = make_backend(proxy.url, clock=lambda: now, knocking=Knocking(ill_s=0.01, idle_s=15))
        assert (await answer(backend, ask())).error is None
        await backend.start()
        await asyncio.sleep(0.1)
        assert proxy.connections == 1
        now = 16.0
        await _until(lambda: proxy.connections == 2)


async def test_starting_and_closing_twice_is_starting_and_closing(make_backend: BackendMaker) -> None:
    async with FaultProxy(usual=hello()) as proxy:
        backend = make_backend(proxy.url, knocking=OFTEN)
        await asyncio.gather(*(backend.start() for _ in range(3)))
        assert (await answer(backend, ask())).error is None
        probes = [task for task in asyncio.all_tasks() if task.get_name() == "probe of cloud"]
        assert len(probes) == 1
        async with asyncio.timeout(5):
            await asyncio.gather(*(backend.close() for _ in range(3)))
        assert probes[0].done()


async def test_pace_is_that_of_the_endpoint_that_would_be_asked(make_backend: BackendMaker) -> None:
    async with FaultProxy(usual=hello(piece=130, pause_s=0.02)) as slow, FaultProxy(usual=hello()) as fast:
        backend = make_backend(slow.url, fast.url)
        assert (backend.pace.ttft_s, backend.pace.tokens_per_s) == (0, 0)
        await answer(backend, ask())
        first = backend.pace
        assert first.ttft_s > 0
        assert 0 < first.tokens_per_s < 1000
        assert backend.health() == ("", None, first.ttft_s, first.tokens_per_s)
        slow.usual = refusal(429, headers=[("retry-after", "60")])
        await answer(backend, ask())
        assert backend.pace is not first
        assert backend.pace.ttft_s > 0
