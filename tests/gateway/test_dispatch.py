"""Routes in order, the commit point, and exactly one outcome for each request."""

import asyncio
import logging
from dataclasses import replace

import pytest

from backends.errors import BadModelFile, DeadlineExceeded, EngineFailed, InvalidRequest, Overloaded, Unavailable
from backends.fake import FakeBackend, say
from backends.types import Chunk, Usage

pytestmark = pytest.mark.anyio
M = [{"role": "user", "content": "x"}]
BROKEN = EngineFailed("The engine died.", retry_after=1)


def outcomes(caplog):
    return [record.fields for record in caplog.records if record.name == "outstation.access"]


@pytest.fixture(autouse=True)
def _log(caplog):
    caplog.set_level(logging.INFO, "outstation.access")


async def ask(app, exchange, **fields):
    begun = exchange(app, {"model": "auto", "messages": M, **fields})
    await begun.end()
    return begun


async def test_before_the_first_chunk_another_route_takes_over(make_app, exchange, caplog):
    first = FakeBackend("a", lambda _: [0.0, BROKEN])
    begun = await ask(make_app(first, FakeBackend("b", say("hi"))), exchange)
    assert begun.status == 200
    assert begun.json["choices"][0]["message"]["content"] == "hi"
    assert begun.json["model"] == "b"
    assert begun.headers["x-outstation-route"] == "local/b"
    assert begun.headers["x-outstation-attempts"] == "2"
    assert begun.headers["x-outstation-reason"] == "auto; local/a failed: engine_failed"
    (fields,) = outcomes(caplog)
    assert (fields["outcome"], fields["attempts"], fields["route"]) == ("success", 2, "local/b")


async def test_after_it_none_does(make_app, exchange, caplog):
    second = FakeBackend("b")
    app = make_app(FakeBackend("a", lambda _: [Chunk(0, "x", (1,)), BROKEN]), second)
    begun = await ask(app, exchange, stream=True)
    assert begun.status == 200
    assert b'"content":"x"' in begun.body
    assert begun.body.count(b'data: {"error"') == 1
    assert begun.body.endswith(b"\n\n")
    assert b"[DONE]" not in begun.body
    assert begun.complete
    assert second.requests == []
    assert [fields["outcome"] for fields in outcomes(caplog)] == ["error"]


async def test_a_client_that_waits_for_the_whole_has_seen_nothing_yet(make_app, exchange, caplog):
    app = make_app(FakeBackend("a", lambda _: [Chunk(0, "x", (1,)), BROKEN]), FakeBackend("b", say("whole")))
    begun = await ask(app, exchange)
    assert begun.json["choices"][0]["message"]["content"] == "whole"
    assert begun.headers["x-outstation-route"] == "local/b"
    assert [fields["outcome"] for fields in outcomes(caplog)] == ["success"]


@pytest.mark.parametrize("error", [Overloaded("full", retry_after=1), InvalidRequest("no")], ids=["busy", "wrong"])
async def test_a_busy_box_does_not_load_another_model_and_a_wrong_request_stays_wrong(make_app, exchange, error):
    second = FakeBackend("b")
    begun = await ask(make_app(FakeBackend("a", lambda _: [error]), second), exchange)
    assert begun.status in (429, 400)
    assert second.requests == []


async def test_a_prompt_that_does_not_fit_goes_to_the_route_where_it_does(make_app, exchange):
    small = FakeBackend("small", context_length=10, count_tokens=10)
    large = FakeBackend("large", context_length=100, count_tokens=10)
    begun = await ask(make_app(small, large), exchange)
    assert begun.headers["x-outstation-route"] == "local/large"
    assert begun.headers["x-outstation-reason"] == "auto; not local/small (capability: prompt 10 of context 10)"
    assert small.requests == []
    assert small.ended == []


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_that_fits_nowhere_is_the_same_error_in_both_modes(make_app, exchange, stream):
    app = make_app(
        FakeBackend("a", context_length=10, count_tokens=500), FakeBackend("b", context_length=99, count_tokens=500)
    )
    begun = await ask(app, exchange, stream=stream)
    assert begun.status == 400
    error = begun.json["error"]
    assert (error["code"], error["n_prompt_tokens"], error["n_ctx"]) == ("context_length_exceeded", 500, 99)


async def test_a_route_that_cannot_even_count_is_passed_over(make_app, exchange):
    gone = FakeBackend("a", count_tokens=Unavailable("It does not load.", retry_after=5))
    begun = await ask(make_app(gone, FakeBackend("b")), exchange)
    assert begun.headers["x-outstation-route"] == "local/b"
    assert "local/a failed: model_unavailable" in begun.headers["x-outstation-reason"]
    begun = await ask(make_app(gone), exchange)
    assert begun.status == 200  # without an alternative there is nothing to count for


@pytest.mark.parametrize("error", [Overloaded("full", retry_after=1), DeadlineExceeded("slow", retry_after=1)], ids=str)
async def test_nor_does_a_box_too_busy_to_count(make_app, exchange, error):
    second = FakeBackend("b")
    begun = await ask(make_app(FakeBackend("a", count_tokens=error), second), exchange)
    assert (begun.status, begun.json["error"]["code"]) in ((429, "queue_full"), (503, "timeout"))
    assert second.requests == []


@pytest.mark.parametrize(
    "script",
    [
        [],
        [Chunk(0, "x", (1,))],
        [Chunk(0, "x", (1,)), Usage(1, 1)],
        [Usage(1, 0)],
        [Chunk(0, "x", (1,), finish_reason="stop")],
    ],
    ids=["nothing", "no end", "unfinished choice", "only usage", "no usage"],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_cut_answer_never_looks_complete(make_app, exchange, script, stream):
    begun = await ask(make_app(FakeBackend("a", lambda _: script)), exchange, stream=stream)
    assert b"[DONE]" not in begun.body
    assert b"engine_failed" in begun.body
    assert begun.status == (200 if stream and isinstance(next(iter(script), None), Chunk) else 503)
    assert begun.complete


@pytest.mark.parametrize("where", [[], [Chunk(0, "x", (1,))]], ids=["before", "after"])
async def test_a_defect_tells_nothing_of_its_inside(make_app, exchange, caplog, where):
    app = make_app(FakeBackend("a", lambda _: [*where, ValueError("the user's secret")]))
    begun = await ask(app, exchange, stream=True)
    assert b'"code":"internal_error"' in begun.body
    assert b"secret" not in begun.body
    assert b"[DONE]" not in begun.body
    assert begun.status == (200 if where else 500)
    assert "ValueError" in caplog.text
    assert "secret" not in caplog.text


async def test_a_bad_model_file_is_not_retried_by_sdks(make_app, exchange):
    begun = await ask(make_app(FakeBackend("a", lambda _: [BadModelFile("Its magic is wrong.")])), exchange)
    assert begun.status == 503
    assert begun.headers["x-should-retry"] == "false"
    assert int(begun.headers["retry-after"]) >= 1


async def test_with_no_model_at_all_auto_says_what_to_do(tmp_path, exchange):
    from gateway.app import build_app
    from gateway.config import load_config

    app = build_app(load_config(environ={"OUTSTATION_HOME": str(tmp_path)}), [])
    begun = await ask(app, exchange)
    assert begun.status == 503
    assert "outstation pull" in begun.json["error"]["message"]


# -- the client goes away --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_hanging_up_before_the_first_chunk(make_app, exchange, caplog, stream):
    backend = FakeBackend("a", lambda _: [asyncio.Event()])
    begun = exchange(make_app(backend), {"model": "a", "messages": M, "stream": stream})
    while not backend.requests:
        await asyncio.sleep(0)
    begun.hang_up.tell()
    await begun.end()
    assert backend.ended == ["cancelled"]
    assert begun.status == 0
    assert [fields["outcome"] for fields in outcomes(caplog)] == ["cancelled"]


@pytest.mark.parametrize("stream", [False, True])
async def test_hanging_up_after_the_first_chunk(make_app, exchange, caplog, stream):
    reached = asyncio.Event()

    def script(_):
        yield Chunk(0, "x", (1,))
        reached.set()
        yield asyncio.Event()

    backend = FakeBackend("a", script)
    begun = exchange(make_app(backend), {"model": "a", "messages": M, "stream": stream})
    await asyncio.wait_for(reached.wait(), 5)
    begun.hang_up.tell()
    await begun.end()
    assert backend.ended == ["cancelled"]
    assert [fields["outcome"] for fields in outcomes(caplog)] == ["cancelled"]
    assert not begun.complete


async def test_hanging_up_during_the_count(make_app, exchange, caplog):
    class Slow(FakeBackend):
        async def count(self, request):
            begun.hang_up.tell()
            await asyncio.sleep(60)
            return 1

    begun = exchange(make_app(Slow("a"), FakeBackend("b")), {"model": "auto", "messages": M})
    await begun.end()
    assert [fields["outcome"] for fields in outcomes(caplog)] == ["cancelled"]


async def test_hanging_up_once_all_is_there_is_a_success(make_app, exchange, caplog):
    begun = exchange(make_app(FakeBackend("a")), {"model": "a", "messages": M, "stream": True})
    begun.hang_up.tell()  # together with everything else: either ending may win, but only one is booked
    await begun.end()
    (fields,) = outcomes(caplog)
    assert fields["outcome"] == ("success" if begun.complete else "cancelled")


# -- bounds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_the_total_bound(make_app, exchange, caplog, stream):
    backend = FakeBackend("a", lambda _: [asyncio.Event()])
    begun = await ask(make_app(backend, config="[limits]\ntotal_timeout_s = 0.05"), exchange, stream=stream)
    assert begun.status == 503
    assert begun.json["error"]["code"] == "timeout"
    assert begun.headers["retry-after"]
    assert backend.ended == ["cancelled"]
    assert [(fields["outcome"], fields["error"]) for fields in outcomes(caplog)] == [("error", "timeout")]


async def test_the_clients_deadline_cuts_a_stream_with_an_error(make_app, exchange):
    backend = FakeBackend("a", lambda _: [Chunk(0, "x", (1,)), asyncio.Event()])
    begun = await ask(make_app(backend), exchange, stream=True, outstation={"deadline_ms": 50})
    assert begun.status == 200
    assert b'"code":"timeout"' in begun.body
    assert b"[DONE]" not in begun.body
    assert backend.ended == ["cancelled"]


async def test_a_server_that_stops_says_so(make_app, exchange, caplog):
    backend = FakeBackend("a", lambda _: [Chunk(0, "x", (1,)), asyncio.Event()])
    begun = exchange(make_app(backend), {"model": "a", "messages": M, "stream": True})
    await begun.until_contains(b'"x"')
    begun.task.cancel()
    await begun.end()
    assert b'"code":"stopping"' in begun.body
    assert b"[DONE]" not in begun.body
    assert backend.ended == ["cancelled"]
    assert [fields["outcome"] for fields in outcomes(caplog)] == ["error"]


async def test_silence_is_filled_with_comments(make_app, exchange):
    from functools import partial

    from starlette.requests import Request as HTTPRequest

    from gateway.outcome import Outcome
    from gateway.routes.chat import chat_endpoint

    go_on = asyncio.Event()
    backend = FakeBackend("a", lambda _: [Chunk(0, "x", (1,)), go_on, *say("y")(_)])
    endpoint = chat_endpoint(replace(make_app(backend).current.inference, ping_after_s=0.02))

    async def app(endpoint, scope, receive, send):
        scope["outcome"] = Outcome("r")
        await (await endpoint(HTTPRequest(scope, receive)))(scope, receive, send)

    begun = exchange(partial(app, endpoint), {"model": "a", "messages": M, "stream": True})
    await begun.until_contains(b": ping\n\n")
    go_on.set()
    await begun.end()
    assert begun.body.endswith(b"data: [DONE]\n\n")
