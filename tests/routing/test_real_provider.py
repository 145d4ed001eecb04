"""A provider that we did not write, with another model than the box's, behind the proxy, asked by the official SDK."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import openai
import pytest
import uvicorn
from starlette.types import ASGIApp

from backends.fake import FakeBackend, say
from gateway.connection import Connection
from tests.gateway.conftest import AppMaker
from tests.remote.conftest import REMOTE_MODEL
from tests.remote.fault_proxy import Act, FaultProxy
from tests.routing.conftest import KEY, M, Opened, provider, told, until

pytestmark = pytest.mark.anyio

NAMED = f"acme/{REMOTE_MODEL}"
COUNT = [{"role": "user", "content": "Count from 1 to 9."}]


def config(url: str) -> str:
    return provider("acme", url, model=REMOTE_MODEL, price=1.0)


@asynccontextmanager
async def listening(app: ASGIApp) -> AsyncIterator[openai.AsyncOpenAI]:
    """The official client, on a real socket."""
    options = uvicorn.Config(app, port=0, http=Connection, ws="none", lifespan="on", log_config=None, access_log=False)
    server = uvicorn.Server(options)
    task = asyncio.create_task(server.serve())
    try:
        await until(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="n", max_retries=0) as sdk:
            yield sdk
    finally:
        server.should_exit = True
        await task


@pytest.mark.parametrize("piece", [0, 3])
async def test_streamed_and_plain_say_the_same(site: Opened, real_provider: str, piece: int) -> None:
    async with (
        FaultProxy(real_provider, usual=Act(piece=piece)) as proxy,
        site(FakeBackend("m"), config=config(proxy.url)) as gateway,
        gateway.sdk() as sdk,
    ):
        fields = {"model": NAMED, "messages": COUNT, "temperature": 0, "max_tokens": 8, "seed": 1}
        plain = await told(sdk, False, **fields)
        streamed = await told(sdk, True, **fields, stream_options={"include_usage": True})
    assert plain.error is streamed.error is None
    assert plain.text == streamed.text != ""
    assert plain.finished == streamed.finished == {0: "length"}
    assert plain.usage.completion_tokens == 8
    assert plain.usage.prompt_tokens > 8
    assert streamed.usage is not None
    assert {chunk.model for chunk in streamed.chunks} == {NAMED}
    assert len({chunk.id for chunk in streamed.chunks}) == 1
    first, second = gateway.decisions()
    assert first.cost == pytest.approx(plain.usage.total_tokens / 1e6)
    assert second.cost > 0
    assert {row.route for row in (first, second)} == {NAMED}


async def test_the_legacy_dialect(site: Opened, real_provider: str) -> None:
    async with (
        FaultProxy(real_provider) as proxy,
        site(FakeBackend("m"), config=config(proxy.url)) as gateway,
        gateway.sdk() as sdk,
    ):
        fields = {"model": NAMED, "prompt": "1 2 3 4", "max_tokens": 6, "temperature": 0}
        plain = await sdk.completions.create(**fields)
        text = "".join(
            [c.choices[0].text async for c in await sdk.completions.create(**fields, stream=True) if c.choices]
        )
    assert plain.choices[0].text == text != ""
    assert plain.usage is not None
    assert plain.usage.completion_tokens == 6


@pytest.mark.parametrize("stream", [False, True])
async def test_what_nobody_knows_reaches_it_untouched(site: Opened, real_provider: str, stream: bool) -> None:
    """The key as well; ours never does."""
    strange = {
        "metadata": {"site": "pump 7"},
        "reasoning_effort": "low",
        "vendor": {"deep": [1, 2.5, None, {"ü": "🙂"}]},
        "mirostat_mode": 0,
    }
    message = {**M[0], "name": "anna", "vendor_part": [1]}
    async with (
        FaultProxy(real_provider) as proxy,
        site(FakeBackend("m"), config=config(proxy.url)) as gateway,
        gateway.sdk() as sdk,
    ):
        extra = {**strange, "outstation": {"locality": "only_remote", "deadline_ms": 60_000}}
        seen = await told(sdk, stream, messages=[message], max_tokens=2, extra_body=extra)
    assert seen.error is None
    (request,) = proxy.seen
    assert request.path == "/v1/chat/completions"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert b"outstation" not in request.body
    assert not any("outstation" in name or "openai" in value for name, value in request.headers.items())
    sent = {**strange, "model": REMOTE_MODEL, "messages": [message], "max_tokens": 2, "stream": stream}
    if stream:
        sent["stream_options"] = {"include_usage": True}
    assert request.json == sent


async def test_its_own_400_comes_back_as_one(site: Opened, real_provider: str) -> None:
    async with (
        FaultProxy(real_provider) as proxy,
        site(FakeBackend("m", say("here")), config=config(proxy.url)) as gateway,
        gateway.sdk() as sdk,
    ):
        long = [{"role": "user", "content": "pump " * 3000}]
        seen = await told(sdk, False, model=NAMED, messages=long, max_tokens=4)
        assert isinstance(seen.error, openai.BadRequestError)
        assert (seen.error.code, seen.error.type) == ("context_length_exceeded", "invalid_request_error")
        assert "acme" in seen.error.message
        assert "2048" in seen.error.message
        # Streamed, it says nothing at all under a 200: an answer that never ended.
        seen = await told(sdk, True, model=NAMED, messages=long, max_tokens=4)
        assert isinstance(seen.error, openai.InternalServerError)
        assert seen.error.code == "provider_broke"
        # Too long for one model says nothing of another.
        prefer = {"outstation": {"locality": "prefer_remote"}}
        assert (await told(sdk, False, messages=long, max_tokens=4, extra_body=prefer)).text == "here"
        # It answers 500 to a field of the wrong type: not the request's fault, as far as anyone can tell.
        assert (await told(sdk, False, extra_body={**prefer, "mirostat_mode": "wrong"})).text == "here"
    assert len(proxy.seen) >= 4


@pytest.mark.parametrize(("held_back", "streamed"), [(True, True), (True, False), (False, True)])
async def test_a_client_that_leaves_frees_the_provider(
    make_app: AppMaker, tmp_path: Path, real_provider: str, held_back: bool, streamed: bool
) -> None:
    """Over real sockets, before and after the first byte, within a second."""
    (tmp_path / "key").write_text(KEY)
    usual = Act(head="stall") if held_back else Act()
    async with FaultProxy(real_provider, usual=usual) as proxy, AsyncExitStack() as stack:
        sdk = await stack.enter_async_context(listening(make_app(FakeBackend("m"), config=config(proxy.url))))
        asking = asyncio.create_task(
            sdk.chat.completions.create(model=NAMED, messages=COUNT, stream=streamed, max_tokens=400)
        )
        if held_back:
            async with asyncio.timeout(5):
                await proxy.began.wait()
            asking.cancel()
            await asyncio.wait([asking])
        else:
            stream = await asking
            await anext(aiter(stream))
            await stream.close()
        async with asyncio.timeout(1):
            await proxy.hung_up.wait()


async def test_the_box_takes_over_when_the_provider_dies_between(site: Opened, real_provider: str) -> None:
    async with (
        FaultProxy(real_provider) as proxy,
        site(FakeBackend("m", say("here")), config=config(proxy.url)) as gateway,
        gateway.sdk() as sdk,
    ):
        fields = {"max_tokens": 2, "extra_body": {"outstation": {"locality": "prefer_remote"}}}
        first = await told(sdk, False, **fields)
        await proxy.close()
        second, third = await told(sdk, False, **fields), await told(sdk, True, **fields)
    assert first.text
    assert first.text != "here"
    assert (second.text, third.text) == ("here", "here")
