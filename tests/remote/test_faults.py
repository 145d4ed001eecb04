"""Each fault × streamed or not × before or after the first byte: the right error, in time, and never a false end."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from backends.errors import BackendError, DeadlineExceeded, EngineFailed, InvalidRequest, Overloaded, Unavailable
from tests.conftest import free_port
from tests.remote.conftest import Answered, BackendMaker, answer, ask
from tests.remote.fault_proxy import DONE, Act, FaultProxy, delta, event, hello, refusal, stream, whole

pytestmark = pytest.mark.anyio

HTML = b"<html><body><h1>502 Bad Gateway</h1></body></html>"
HTML_TYPE = (("content-type", "text/html"),)
GARBAGE = (EngineFailed, "provider_garbage")
SHORT = {"first_token_timeout_s": 0.6, "idle_timeout_s": 0.6, "total_timeout_s": 1.5}
PATIENT = {"first_token_timeout_s": 10.0, "idle_timeout_s": 10.0, "total_timeout_s": 20.0}


def bounds_for(kind: type[BackendError]) -> dict[str, float]:
    """Short ones only where a bound is what has to act: a busy machine must not turn another fault into a late one."""
    return SHORT if kind is DeadlineExceeded else PATIENT


BEFORE: dict[str, tuple[Act, type[BackendError], str]] = {
    "reset": (Act(head="reset"), EngineFailed, "provider_broke"),
    "hang up": (Act(head="hang_up"), EngineFailed, "provider_broke"),
    "stall": (Act(head="stall"), DeadlineExceeded, "provider_timeout"),
    "no HTTP": (Act(raw=b"\x16\x03\x01 what?\r\n\r\n"), EngineFailed, "provider_broke"),
    "half a head": (Act(raw=b"HTTP/1.1 200 OK\r\ncontent-le"), EngineFailed, "provider_broke"),
    "500": (refusal(500), Unavailable, "provider_error"),
    "503": (refusal(503), Unavailable, "provider_error"),
    "408": (refusal(408), Unavailable, "provider_error"),
    "302": (Act(status=302, headers=(("location", "http://127.0.0.1:9/"),), body=()), Unavailable, "provider_error"),
    "429": (refusal(429), Overloaded, "provider_busy"),
    "401": (refusal(401), Unavailable, "provider_key"),
    "402": (refusal(402), Unavailable, "provider_key"),
    "404": (refusal(404), Unavailable, "provider_not_found"),
    "500 in HTML": (Act(status=500, body=(HTML,), headers=HTML_TYPE), Unavailable, "provider_error"),
    "500, then silence": (Act(status=500, body=(b"{",), stall_at=1), Unavailable, "provider_error"),
    "500, then reset": (Act(status=500, body=(b"{..",), reset_at=1), Unavailable, "provider_error"),
    "200 in HTML": (Act(body=(HTML,), headers=HTML_TYPE), EngineFailed, ""),
    "200 with an error": (Act(body=(b'{"error":{"message":"m","code":"x"}}',)), EngineFailed, "provider_error"),
    "200 with a busy": (Act(body=(b'{"error":{"message":"m","code":429}}',)), Overloaded, "provider_busy"),
    "200 with garbage": (Act(body=(b"\xff\xfe{{",)), *GARBAGE),
    "200 with nothing": (Act(body=()), EngineFailed, ""),
    "200 with a list": (Act(body=(b"[1]",)), *GARBAGE),
    "silence after the head": (Act(body=(b" ",), stall_at=1), DeadlineExceeded, "provider_timeout"),
    "reset after the head": (Act(body=(b"  ",), reset_at=1), EngineFailed, "provider_broke"),
}  # fmt: skip


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("fault", BEFORE)
async def test_a_fault_before_the_first_byte(make_backend: BackendMaker, fault: str, streamed: bool) -> None:
    act, kind, code = BEFORE[fault]
    async with FaultProxy(plan=[act]) as bad, FaultProxy(usual=hello() if streamed else whole()) as good:
        alone = await _bounded(make_backend, ask(streamed), bad.url, **bounds_for(kind))
        assert type(alone.error) is kind
        assert alone.events == []
        assert code in ("", alone.error.code)
        bad.plan = [act]
        # The other endpoint answers, and the client learns nothing of it.
        both = await _bounded(make_backend, ask(streamed), bad.url, good.url, **bounds_for(kind))
        assert both.error is None
        assert both.text == "Grüße an alle 🙂"
        assert len(bad.seen) == 2


AFTER: dict[str, tuple[Act, type[BackendError], str]] = {
    "cut": (hello(cut_at=400), EngineFailed, "provider_broke"),
    "reset": (hello(reset_at=400), EngineFailed, "provider_broke"),
    "stall": (hello(stall_at=400), DeadlineExceeded, "provider_timeout"),
    "garbage": (stream(delta("a"), b"data: {{{\n\n", delta("b", "stop"), DONE), *GARBAGE),
    "garbage that is JSON": (stream(delta("a"), event([1]), delta("b", "stop")), *GARBAGE),
    "odd choices": (stream(delta("a"), event({"choices": [3]})), *GARBAGE),
    "odd text": (stream(delta("a"), delta(content={"a": 1}, finish="stop")), *GARBAGE),
    "a strange choice": (stream(delta("a"), delta("b", index=7)), *GARBAGE),
    "text after the end": (stream(delta("a"), delta(finish="stop"), delta("b"), DONE), *GARBAGE),
    "an error": (stream(delta("a"), event({"error": {"message": "m"}}), DONE), EngineFailed, "provider_error"),
    "an end without a finish": (stream(delta("a"), DONE), EngineFailed, "provider_broke"),
    "an end without anything": (stream(delta("a")), EngineFailed, "provider_broke"),
    "one choice of two": (stream(delta("a"), delta(finish="stop", index=1), DONE), EngineFailed, "provider_broke"),
    "HTML": (stream(delta("a"), HTML), EngineFailed, "provider_broke"),
    "an endless event": (stream(delta("a"), *[b"data: " + b"x" * 500_000] * 10), EngineFailed, "provider_broke"),
}  # fmt: skip


@pytest.mark.parametrize("fault", AFTER)
async def test_a_fault_after_the_first_byte_of_a_stream(make_backend: BackendMaker, fault: str) -> None:
    act, kind, code = AFTER[fault]
    n = 2 if fault == "one choice of two" else 1
    async with FaultProxy(plan=[act]) as bad, FaultProxy(usual=hello()) as good:
        broken = await _bounded(make_backend, ask(n=n), bad.url, good.url, **bounds_for(kind))
        assert type(broken.error) is kind
        assert broken.error.code == code
        assert broken.text != ""
        assert not any(chunk.finish_reason and chunk.index == 0 for chunk in broken.chunks) or "after" in fault
        assert good.seen == []  # no splice


WHOLE: dict[str, tuple[Act, type[BackendError], str]] = {
    "cut": (whole(cut_at=100), EngineFailed, "provider_broke"),
    "reset": (whole(reset_at=100), EngineFailed, "provider_broke"),
    "stall": (whole(stall_at=100), DeadlineExceeded, "provider_timeout"),
    "no finish": (Act(body=(b'{"choices":[{"index":0,"message":{"content":"a"}}]}',)), *GARBAGE),
    "no choices": (Act(body=(b'{"choices":[]}',)), *GARBAGE),
    "odd message": (Act(body=(b'{"choices":[{"message":"a","finish_reason":"stop"}]}',)), *GARBAGE),
    "odd usage": (Act(body=(b'{"usage":7,"choices":[{"text":"a","finish_reason":"stop"}]}',)), *GARBAGE),
}  # fmt: skip


@pytest.mark.parametrize("fault", WHOLE)
async def test_a_fault_after_the_first_byte_of_a_whole_answer(make_backend: BackendMaker, fault: str) -> None:
    act, kind, code = WHOLE[fault]
    async with FaultProxy(plan=[act]) as bad, FaultProxy(usual=whole()) as good:
        alone = await _bounded(make_backend, ask(streamed=False), bad.url, **bounds_for(kind))
        assert type(alone.error) is kind
        assert alone.error.code == code
        assert alone.events == []
        bad.plan = [act]
        both = await _bounded(make_backend, ask(streamed=False), bad.url, good.url, **bounds_for(kind))
        assert both.text == "Grüße an alle 🙂"


async def test_a_stream_is_cut_at_every_byte(make_backend: BackendMaker) -> None:
    pieces = hello().body
    assert pieces is not None
    finish_ends = sum(len(piece) for piece in pieces[:5])
    size = sum(len(piece) for piece in pieces)
    async with FaultProxy() as proxy:
        for at in range(0, size, 7):
            proxy.plan = [hello(cut_at=at)]
            cut = await _bounded(make_backend, ask(), proxy.url)
            assert cut.error is not None
            assert cut.error.code == "provider_broke"
            assert cut.finished == (at >= finish_ends)
            assert "Grüße an alle 🙂".startswith(cut.text)


@pytest.mark.parametrize("piece", [1, 2, 3])
async def test_frames_are_split_anywhere(make_backend: BackendMaker, piece: int) -> None:
    async with FaultProxy(plan=[hello(piece=piece)]) as proxy:
        assert (await _bounded(make_backend, ask(), proxy.url)).text == "Grüße an alle 🙂"


@pytest.mark.parametrize("left_out", [b"data: [DONE]\n\n", b"\n\ndata: [DONE]\n\n", b" [DONE]\n\n"])
async def test_a_whole_answer_needs_no_done(make_backend: BackendMaker, left_out: bytes) -> None:
    async with FaultProxy(plan=[hello(leave_out=left_out)]) as proxy:
        answered = await _bounded(make_backend, ask(), proxy.url)
    assert answered.error is None
    assert answered.usage.completion_tokens == 3


async def test_a_slow_stream_is_no_fault_while_it_flows(make_backend: BackendMaker) -> None:
    async with FaultProxy(plan=[hello(piece=60, pause_s=0.05)]) as proxy:
        bounds = {"first_token_timeout_s": 5.0, "idle_timeout_s": 0.5}
        assert (await _bounded(make_backend, ask(), proxy.url, **bounds)).error is None


async def test_a_stream_that_drips_for_ever_ends_at_the_total(make_backend: BackendMaker) -> None:
    async with FaultProxy(plan=[stream(*[delta("a")] * 500, piece=200, pause_s=0.02)]) as proxy:
        dripped = await _bounded(make_backend, ask(), proxy.url, total_timeout_s=0.5)
    assert isinstance(dripped.error, DeadlineExceeded)
    assert dripped.text.startswith("a")


async def test_comments_keep_no_first_token_waiting_for_ever(make_backend: BackendMaker) -> None:
    async with FaultProxy(plan=[stream(*[b": ping\n\n"] * 500, piece=8, pause_s=0.02)]) as proxy:
        pinged = await _bounded(make_backend, ask(), proxy.url, first_token_timeout_s=0.3)
    assert isinstance(pinged.error, DeadlineExceeded)
    assert pinged.events == []


async def test_a_slow_reader_is_not_the_providers_fault(make_backend: BackendMaker) -> None:
    async with FaultProxy(plan=[hello()]) as proxy:
        backend = make_backend(proxy.url, idle_timeout_s=0.1, first_token_timeout_s=0.2)
        texts = []
        async for said in backend.generate(ask()):
            texts.append(getattr(said, "text", ""))
            await asyncio.sleep(0.15)
    assert "".join(texts) == "Grüße an alle 🙂"


async def test_nobody_listens(make_backend: BackendMaker) -> None:
    async with FaultProxy(usual=hello()) as good:
        refused = f"http://127.0.0.1:{free_port()}/v1"
        backend = make_backend(refused)
        alone = await answer(backend, ask())
        assert isinstance(alone.error, Unavailable)
        assert alone.error.code == "provider_unreachable"
        # One such failure is enough: the next request is refused without a try.
        again = await answer(backend, ask())
        assert again.error is not None
        assert again.error.code == "provider_down"
        assert again.error.retry_after is not None and again.error.retry_after > 0
        assert (await answer(make_backend(refused, good.url), ask())).error is None
        nowhere = await answer(make_backend("http://host.invalid/v1"), ask())
        assert nowhere.error is not None
        assert nowhere.error.code == "provider_unreachable"


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_the_clients_own_fault_is_told_in_the_providers_words(make_backend: BackendMaker, status: int) -> None:
    said = refusal(status, "temperature is too hot", code="bad_value", param="temperature")
    async with FaultProxy(plan=[said]) as first, FaultProxy(usual=hello()) as second:
        backend = make_backend(first.url, second.url)
        refused = await answer(backend, ask())
        assert isinstance(refused.error, InvalidRequest)
        assert refused.error.message == "cloud: temperature is too hot"
        assert (refused.error.code, refused.error.param) == ("bad_value", "temperature")
        assert second.seen == []  # it would be refused there too
        assert backend.provider.health() == ("", None)


@pytest.mark.parametrize("form", ["seconds", "date"])
@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_told_and_obeyed(make_backend: BackendMaker, status: int, form: str) -> None:
    now, date = 0.0, format_datetime(datetime.now(UTC) + timedelta(seconds=40), usegmt=True)
    value = "40" if form == "seconds" else date
    async with FaultProxy(plan=[refusal(status, headers=[("retry-after", value)])], usual=hello()) as proxy:
        backend = make_backend(proxy.url, clock=lambda: now)
        busy = await answer(backend, ask())
        assert busy.error is not None
        assert busy.error.retry_after == pytest.approx(40, abs=2)
        for now in (0.0, 35.0):
            assert (await answer(backend, ask())).error is not None
            assert backend.health()[1] == pytest.approx(40 - now, abs=2)
        assert len(proxy.seen) == 1
        now = 41.0
        assert (await answer(backend, ask())).error is None
        assert backend.provider.health() == ("", None)


async def test_three_failures_rest_an_endpoint_until_one_trial_is_well(make_backend: BackendMaker) -> None:
    now = 0.0
    async with FaultProxy(plan=[refusal(500)] * 3 + [refusal(500)], usual=hello()) as proxy:
        backend = make_backend(proxy.url, clock=lambda: now)
        for _ in range(5):
            await answer(backend, ask())
        assert len(proxy.seen) == 3
        assert backend.provider.health() == ("provider_error", 2.0)
        assert backend.state().status == "failed"
        now = 2.5
        await answer(backend, ask())
        assert backend.provider.health() == ("provider_error", 4.0)
        now = 7.0
        assert (await answer(backend, ask())).error is None
        assert backend.provider.health() == ("", None)


async def test_a_cancelled_trial_lets_another_be_made(make_backend: BackendMaker) -> None:
    now = 0.0
    async with FaultProxy(plan=[*[refusal(500)] * 3, Act(head="stall")], usual=hello()) as proxy:
        backend = make_backend(proxy.url, clock=lambda: now)
        for _ in range(3):
            await answer(backend, ask())
        now = 3.0
        proxy.began.clear()
        trial = asyncio.create_task(answer(backend, ask()))
        async with asyncio.timeout(5):
            await proxy.began.wait()
        assert (await answer(backend, ask())).error is not None  # one at a time
        trial.cancel()
        await asyncio.wait([trial])
        assert (await answer(backend, ask())).error is None


async def _bounded(make_backend: BackendMaker, request: object, *urls: str, **bounds: float) -> Answered:
    """No fault makes anybody wait for ever."""
    async with asyncio.timeout(15):
        return await answer(make_backend(*urls, **bounds), request)  # type: ignore[arg-type]
