"""Responses in the background: acknowledged means made, whatever happens to the gateway meanwhile."""

from __future__ import annotations

import asyncio

import openai
import orjson
import pytest

from backends.errors import EngineFailed, Overloaded
from backends.fake import FakeBackend, say
from backends.types import Chunk, Usage
from gateway.app import build_generation
from gateway.responses.background import MOST_RUNS
from gateway.responses.store import Store
from gateway.schemas.response_objects import ResponseObject
from tests.gateway.conftest import living
from tests.gateway.test_responses_kept import keys, sdk  # noqa: F401

pytestmark = pytest.mark.anyio


async def until(client, id_, *states):
    """The response, once its status is one of these."""
    async with asyncio.timeout(5):
        while (response := await client.responses.retrieve(id_)).status not in states:
            await asyncio.sleep(0.01)
    return response


@pytest.fixture
def client_of(sdk):  # noqa: F811
    return sdk


async def test_queued_then_in_progress_then_completed(make_app, client_of):
    go = asyncio.Event()
    backend = FakeBackend("m", lambda _: [go, Chunk(0, "Done"), Chunk(0, finish_reason="stop"), Usage(2, 1)])
    async with living(make_app(backend)) as app:
        client = client_of(app)
        made = await client.responses.with_raw_response.create(
            model="m", input="Hi", background=True, metadata={"a": "b"}
        )
        ResponseObject.model_validate_json(made.content)
        response = made.parse()
        assert (response.status, response.background, response.output) == ("queued", True, [])
        running = await until(client, response.id, "in_progress")
        assert running.usage is None
        go.set()
        done = await until(client, response.id, "completed")
        assert (done.output_text, done.metadata, done.usage.output_tokens) == ("Done", {"a": "b"}, 1)
        assert done.created_at == response.created_at
        raw = await client.responses.with_raw_response.retrieve(response.id)
        ResponseObject.model_validate_json(raw.content)
        assert raw.headers["x-outstation-route"] == "local/m"
        # It is gone on from as any other.
        await client.responses.create(model="m", input="And?", previous_response_id=response.id)
    assert [m["content"] for m in backend.requests[1].messages] == ["Hi", "Done", "And?"]


async def test_it_has_a_row_of_its_own_in_the_audit(make_app, client_of, tmp_path):
    app = make_app(FakeBackend("m", say("Done")))
    async with living(app):
        client = client_of(app)
        response = await client.responses.create(
            model="m", input="Hi", background=True, extra_headers={"x-request-id": "req-1"}
        )
        await until(client, response.id, "completed")
    import apsw

    rows = list(apsw.Connection(str(tmp_path / "audit.db")).execute("SELECT body FROM rows WHERE kind = 'decision'"))
    (row,) = (orjson.loads(body) for (body,) in rows)
    assert (row["request_id"], row["endpoint"], row["route"]) == ("req-1.2", "/v1/responses", "local/m")


async def test_headers_hold_for_it_too(make_app, client_of):
    backend = FakeBackend("m", say("Done"))
    async with living(make_app(backend)) as app:
        client = client_of(app)
        response = await client.responses.create(
            model="auto", input="Hi", background=True, reasoning={"effort": "low"},
            extra_headers={"x-outstation-locality": "only_local", "x-outstation-data-classes": "health"},
        )  # fmt: skip
        await until(client, response.id, "completed")
    (request,) = backend.requests
    assert (request.locality, request.declared) == ("only_local", {"health"})
    assert request.template_kwargs == {"reasoning_effort": "low"}


async def test_what_fails_says_so(make_app, client_of):
    backend = FakeBackend("m", lambda _: [Chunk(0, "Hel"), EngineFailed("It broke.")])
    async with living(make_app(backend)) as app:
        client = client_of(app)
        response = await client.responses.create(model="m", input="Hi", background=True)
        failed = await until(client, response.id, "failed")
        assert (failed.error.code, failed.error.message) == ("engine_failed", "It broke.")
        wrong = await client.responses.create(model="gone", input="Hi", background=True)
        assert (await until(client, wrong.id, "failed")).error.code == "model_not_found"


async def test_a_busy_site_is_asked_again(make_app, client_of):
    answers = [[Overloaded("Full.", retry_after=0.01)], [Chunk(0, "Done"), Chunk(0, finish_reason="stop"), Usage(1, 1)]]
    backend = FakeBackend("m", lambda _: answers.pop(0))
    async with living(make_app(backend)) as app:
        client = client_of(app)
        response = await client.responses.create(model="m", input="Hi", background=True)
        assert (await until(client, response.id, "completed", "failed")).output_text == "Done"


async def test_cancelled_it_stays_so(make_app, client_of):
    backend = FakeBackend("m", lambda _: [Chunk(0, "Hel"), 60.0])
    async with living(make_app(backend)) as app:
        client = client_of(app)
        response = await client.responses.create(model="m", input="Hi", background=True)
        await until(client, response.id, "in_progress")
        cancelled = await client.responses.cancel(response.id)
        assert cancelled.status == "cancelled"
        async with asyncio.timeout(5):
            while backend.ended != ["cancelled"] and backend.requests:
                await asyncio.sleep(0.01)
        assert (await client.responses.cancel(response.id)).status == "cancelled"
        assert (await client.responses.retrieve(response.id)).status == "cancelled"
        done = await client.responses.create(model="m", input="Hi", background=True)
        await client.responses.delete(done.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(done.id)


async def test_only_one_in_the_background_can_be_cancelled(make_app, client_of):
    client = client_of(make_app())
    response = await client.responses.create(model="auto", input="Hi")
    with pytest.raises(openai.BadRequestError):
        await client.responses.cancel(response.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.cancel("resp_gone")


async def test_what_has_not_ended_is_not_gone_on_from(make_app, client_of):
    async with living(make_app(FakeBackend("m", lambda _: [60.0]))) as app:
        client = client_of(app)
        response = await client.responses.create(model="m", input="Hi", background=True)
        with pytest.raises(openai.BadRequestError) as caught:
            await client.responses.create(model="m", input="And?", previous_response_id=response.id)
        assert caught.value.param == "previous_response_id"


async def test_no_more_than_a_few_run_at_once(make_app, client_of):
    go = asyncio.Event()
    backend = FakeBackend("m", lambda _: [go, Chunk(0, "Done"), Chunk(0, finish_reason="stop"), Usage(1, 1)])
    async with living(make_app(backend)) as app:
        client = client_of(app)
        made = [await client.responses.create(model="m", input=str(n), background=True) for n in range(6)]
        await until(client, made[3].id, "in_progress")
        assert (await client.responses.retrieve(made[4].id)).status == "queued"
        go.set()
        for response in made:
            await until(client, response.id, "completed")


async def test_a_restart_begins_again_what_had_not_ended(make_app, client_of):
    stuck = FakeBackend("m", lambda _: [Chunk(0, "Hel"), 60.0])
    async with living(make_app(stuck)) as app:
        client = client_of(app)
        made = [await client.responses.create(model="m", input=str(n), background=True) for n in range(6)]
        await until(client, made[0].id, "in_progress")
    backend = FakeBackend("m", say("Done"))
    async with living(make_app(backend)) as app:
        client = client_of(app)
        for response in made:
            done = await until(client, response.id, "completed")
            assert done.output_text == "Done"
    asked = [request.messages[0]["content"] for request in backend.requests]
    assert sorted(asked) == [str(n) for n in range(6)]
    assert set(asked[:4]) == set("0123")  # those that waited longest


async def test_what_takes_the_gateway_down_each_time_is_given_up(make_app, client_of, tmp_path):
    stuck = FakeBackend("m", lambda _: [60.0])
    async with living(make_app(stuck)) as app:
        client = client_of(app)
        response = await client.responses.create(model="m", input="Hi", background=True)
        await until(client, response.id, "in_progress")
    store = Store(tmp_path / "responses.db")
    for _ in range(MOST_RUNS - 1):
        assert store.begin(response.id).status == "in_progress"
    store.close()
    async with living(make_app(stuck)) as app:
        failed = await until(client_of(app), response.id, "failed")
    assert failed.error.code == "interrupted"
    assert len(stuck.requests) == 1


async def test_before_the_start_nothing_is_accepted(make_app, client_of):
    client = client_of(make_app())
    with pytest.raises(openai.InternalServerError) as caught:
        await client.responses.create(model="auto", input="Hi", background=True)
    assert caught.value.status_code == 503


async def test_what_cannot_be_kept_is_not_acknowledged(make_app, client_of, tmp_path):
    (tmp_path / "responses.db").write_bytes(b"no database at all" * 100)
    async with living(make_app()) as app:
        with pytest.raises(openai.InternalServerError) as caught:
            await client_of(app).responses.create(model="auto", input="Hi", background=True)
    assert caught.value.code == "store_unavailable"


async def test_a_key_that_was_taken_back_gets_no_answer(make_app, client_of):
    stuck = FakeBackend("m", lambda _: [60.0])
    async with living(make_app(stuck, config=keys("ann", "bob"))) as app:
        ann = client_of(app, "ann")
        response = await ann.responses.create(model="m", input="Hi", background=True)
        await until(ann, response.id, "in_progress")
    backend = FakeBackend("m", say("Done"))
    async with living(make_app(backend, config=keys("bob"))) as app:
        async with asyncio.timeout(5):
            while await app.shared.archive.open():
                await asyncio.sleep(0.01)
        failed = await app.shared.archive.get(response.id, "ann")
    assert failed.body["error"]["code"] == "invalid_api_key"
    assert backend.requests == []


async def test_a_defect_ends_it_too(make_app, client_of):
    backend = FakeBackend("m", lambda _: [ValueError("secret text")])
    async with living(make_app(backend)) as app:
        client = client_of(app)
        response = await client.responses.create(model="m", input="Hi", background=True)
        failed = await until(client, response.id, "failed")
    assert failed.error.code == "internal_error"
    assert "secret" not in failed.error.message


async def test_a_reload_waits_for_what_runs(make_app, client_of, tmp_path):
    """The old configuration's models stay until the response that began with them has ended."""
    go = asyncio.Event()
    old = FakeBackend("old", lambda _: [go, Chunk(0, "Done"), Chunk(0, finish_reason="stop"), Usage(1, 1)])
    new = FakeBackend("new", say("New"))
    async with living(make_app(old)) as app:
        client = client_of(app)
        response = await client.responses.create(model="old", input="Hi", background=True)
        await until(client, response.id, "in_progress")
        async with asyncio.timeout(5):
            while not app.current.running:
                await asyncio.sleep(0.01)
        before = app.current
        app._put_in_force(build_generation(before.config, app.shared, [new]), before.config)
        assert before.running == 1
        go.set()
        assert (await until(client, response.id, "completed")).output_text == "Done"
        async with asyncio.timeout(5):
            while before.running:
                await asyncio.sleep(0.01)
