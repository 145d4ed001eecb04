"""What is kept of responses: read, gone on from, listed, deleted, each key its own; and when it cannot be kept."""

from __future__ import annotations

import hashlib
import stat
from dataclasses import replace

import openai
import pytest

from backends.errors import InvalidRequest
from backends.fake import FakeBackend, say
from backends.types import Chunk, ToolDelta, Usage
from gateway.responses.archive import Archive
from gateway.responses.conversations import MOST_BYTES, Addition
from gateway.responses.store import Kept
from gateway.schemas.response_objects import ResponseItemList, ResponseObject
from tests.gateway.conftest import living
from tests.gateway.test_responses import ABLE, PATH, WEATHER, events_of
from tests.gateway.test_routing import Remote

pytestmark = pytest.mark.anyio
USER = {"role": "user", "content": "Hi"}
DENY = (
    '[[providers]]\nname = "acme"\nbase_url = "https://acme.example/v1"\ndata = { health = "deny" }\n'
    '[[providers.models]]\nname = "large"\ncontext_length = 1000\ninput_price = 1\noutput_price = 2\n'
)


@pytest.fixture
def sdk(connect):
    """An SDK client of an app."""
    return lambda app, key="none": openai.AsyncOpenAI(
        base_url="http://localhost:8484/v1", api_key=key, http_client=connect(app), max_retries=0
    )


def keys(*names: str) -> str:
    rows = [(name, hashlib.sha256(name.encode()).hexdigest()) for name in names]
    return "".join(f'[[keys]]\nname = "{name}"\nsha256 = "{digest}"\n' for name, digest in rows)


async def test_a_response_is_read_back_as_it_was(make_app, sdk):
    client = sdk(make_app(FakeBackend("m", say("Hello"))))
    made = await client.responses.with_raw_response.create(model="auto", input="Hi", metadata={"a": "b"})
    response = made.parse()
    assert response.store is True
    read = await client.responses.with_raw_response.retrieve(response.id)
    assert read.content == made.content
    for name in ("x-outstation-route", "x-outstation-reason", "x-outstation-attempts"):
        assert read.headers[name] == made.headers[name]


async def test_a_streamed_response_is_kept_before_its_end_is_told(make_app, sdk, exchange):
    app = make_app(FakeBackend("m", say("Hello")))
    asked = exchange(app, {"model": "m", "input": "Hi", "stream": True}, PATH)
    await asked.end()
    last = events_of(asked.body)[-1]["response"]
    read = await sdk(app).responses.with_raw_response.retrieve(last["id"])
    assert read.http_response.json() == last


async def test_the_conversation_goes_on(make_app, sdk):
    backend = FakeBackend("m", say("Hello"), capabilities=ABLE)
    client = sdk(make_app(backend))
    first = await client.responses.create(model="m", instructions="Be brief.", input="One")
    second = await client.responses.create(
        model="m", input=[{"role": "user", "content": "Two"}], previous_response_id=first.id
    )
    third = await client.responses.create(
        model="m", instructions="Be long.", input="Three", previous_response_id=second.id, store=False
    )
    told = [[(m["role"], m["content"]) for m in request.messages] for request in backend.requests]
    assert told[0] == [("system", "Be brief."), ("user", "One")]
    # Instructions are not taken over.
    assert told[1] == [("user", "One"), ("assistant", "Hello"), ("user", "Two")]
    assert told[2] == [("system", "Be long."), *told[1], ("assistant", "Hello"), ("user", "Three")]
    assert second.previous_response_id == first.id
    # What is not kept cannot be gone on from.
    with pytest.raises(openai.NotFoundError) as caught:
        await client.responses.create(model="m", input="Four", previous_response_id=third.id)
    assert (caught.value.code, caught.value.param) == ("response_not_found", "previous_response_id")


async def test_a_calls_output_goes_back_in(make_app, sdk):
    call = ToolDelta(0, "call_1", "get_weather", '{"city":"Paris"}')
    steps = [Chunk(0, reasoning="Hm."), Chunk(0, tools=(call,)), Chunk(0, finish_reason="tool_calls"), Usage(1, 1)]
    backend = FakeBackend("m", lambda _: steps, capabilities=ABLE)
    client = sdk(make_app(backend))
    first = await client.responses.create(model="m", input="Weather?", tools=[WEATHER])
    output = {"type": "function_call_output", "call_id": "call_1", "output": "Rain."}
    await client.responses.create(model="m", input=[output], previous_response_id=first.id, tools=[WEATHER])
    (_, _, tool) = messages = backend.requests[1].messages
    assert [message["role"] for message in messages] == ["user", "assistant", "tool"]
    assert (tool["tool_call_id"], tool["content"]) == ("call_1", "Rain.")
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.create(model="m", input="And?", previous_response_id=first.id)
    assert caught.value.param == "previous_response_id"
    assert "call_1" in str(caught.value)


async def test_a_call_that_was_cut_off_is_not_gone_on_from(make_app, sdk):
    steps = [Chunk(0, tools=(ToolDelta(0, "c", "get_weather", '{"ci'),)), Chunk(0, finish_reason="length"), Usage(1, 1)]
    backend = FakeBackend("m", lambda _: steps, capabilities=ABLE)
    client = sdk(make_app(backend))
    first = await client.responses.create(model="m", input="Weather?", tools=[WEATHER])
    assert (first.status, first.output[0].status) == ("incomplete", "incomplete")
    await client.responses.create(model="m", input="Again.", previous_response_id=first.id)
    assert [message["role"] for message in backend.requests[1].messages] == ["user", "user"]


async def test_references_to_kept_items(make_app, sdk):
    backend = FakeBackend("m", say("Hello"))
    client = sdk(make_app(backend))
    first = await client.responses.create(model="m", input="One")
    await client.responses.create(
        model="m", input=[{"type": "item_reference", "id": first.output[0].id}, {"role": "user", "content": "Two"}]
    )
    assert [m["content"] for m in backend.requests[1].messages] == ["Hello", "Two"]
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.create(model="m", input=[USER, {"type": "item_reference", "id": "msg_gone"}])
    assert caught.value.param == "input[1].id"


async def test_input_items_page_by_page(make_app, sdk):
    client = sdk(make_app())
    items = [{"role": "user", "content": f"{number}"} for number in range(5)]
    response = await client.responses.create(model="auto", input=items)
    first = await client.responses.input_items.list(response.id, limit=2)
    assert [item.content[0].text for item in first.data] == ["4", "3"]
    assert first.has_more is True
    assert [item.content[0].text async for item in first] == ["4", "3", "2", "1", "0"]
    up = await client.responses.input_items.with_raw_response.list(response.id, order="asc")
    ResponseItemList.model_validate_json(up.content)
    listed = up.http_response.json()
    assert [item["content"][0]["text"] for item in listed["data"]] == ["0", "1", "2", "3", "4"]
    assert (listed["first_id"], listed["last_id"]) == (listed["data"][0]["id"], listed["data"][-1]["id"])
    before = await client.responses.input_items.list(
        response.id, order="asc", extra_query={"before": listed["data"][2]["id"]}
    )
    assert len(before.data) == 2
    for query in ({"limit": 0}, {"limit": 101}, {"after": "msg_gone"}, {"order": "up"}):
        with pytest.raises(openai.BadRequestError) as caught:
            await client.responses.input_items.list(response.id, extra_query=query)
        assert caught.value.param in query


async def test_what_is_deleted_is_gone_from_the_file(make_app, sdk, tmp_path):
    client = sdk(make_app(FakeBackend("m", say("Zyzzyva-answer"))))
    response = await client.responses.create(model="m", input="Zyzzyva-question")
    later = await client.responses.create(model="m", input="More", previous_response_id=response.id)
    files = lambda: b"".join(file.read_bytes() for file in tmp_path.glob("responses.db*"))  # noqa: E731
    assert b"Zyzzyva-question" in files()
    deleted = await client.responses.with_raw_response.delete(response.id)
    assert deleted.http_response.json() == {"id": response.id, "object": "response", "deleted": True}
    assert b"Zyzzyva-question" not in files()
    for ask in (client.responses.retrieve, client.responses.delete, client.responses.input_items.list):
        with pytest.raises(openai.NotFoundError):
            await ask(response.id)
    # Nothing is cut off silently: a conversation without its beginning is none.
    with pytest.raises(openai.NotFoundError) as caught:
        await client.responses.create(model="m", input="More", previous_response_id=later.id)
    assert response.id in str(caught.value)


async def test_the_file_is_its_owners_only(make_app, sdk, tmp_path):
    await sdk(make_app()).responses.create(model="auto", input="Hi")
    modes = {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.glob("responses.db*")}
    assert modes == {0o600}


@pytest.mark.parametrize("how", ["request", "config"])
async def test_nothing_is_kept_where_nobody_wants_it(make_app, sdk, tmp_path, how):
    config = "[responses]\nstore = false\n" if how == "config" else ""
    client = sdk(make_app(config=config))
    fields = {"store": False} if how == "request" else {}
    response = await client.responses.create(model="auto", input="Hi", **fields)
    assert response.store is False
    assert not list(tmp_path.glob("responses.db*"))
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(response.id)
    if how == "config":
        with pytest.raises(openai.BadRequestError) as caught:
            await client.responses.create(model="auto", input="Hi", background=True)
        assert caught.value.param == "background"


async def test_each_key_sees_its_own(make_app, sdk):
    app = make_app(config=keys("ann", "bob"))
    ann, bob = sdk(app, "ann"), sdk(app, "bob")
    response = await ann.responses.create(model="auto", input="Hi")
    assert (await ann.responses.retrieve(response.id)).id == response.id
    for ask in (bob.responses.retrieve, bob.responses.delete, bob.responses.cancel, bob.responses.input_items.list):
        with pytest.raises(openai.NotFoundError):
            await ask(response.id)
    with pytest.raises(openai.NotFoundError):
        await bob.responses.create(model="auto", input="Hi", previous_response_id=response.id)
    reference = {"type": "item_reference", "id": response.output[0].id}
    with pytest.raises(openai.BadRequestError):
        await bob.responses.create(model="auto", input=[reference])
    assert (await ann.responses.retrieve(response.id)).id == response.id


async def test_what_had_to_stay_here_stays_here(make_app, exchange):
    remote = Remote(script=say("from afar"))
    app = make_app(FakeBackend("m", say("here")), remote=[remote.pair])
    async with living(app):
        first = exchange(app, {"model": "auto", "input": "Hi", "outstation": {"locality": "only_local"}}, PATH)
        await first.end()
        previous = first.json["id"]
        second = exchange(app, {"model": "acme/large", "input": "And?", "previous_response_id": previous}, PATH)
        await second.end()
        assert second.status == 400
        third = exchange(
            app, {"model": "auto", "input": "And?", "previous_response_id": previous}, PATH,
            x_outstation_locality="prefer_remote",
        )  # fmt: skip
        await third.end()
        assert (third.status, third.json["error"]["param"]) == (400, "outstation.locality")
    assert remote.backend.requests == []


async def test_what_was_declared_once_holds_for_the_whole_conversation(make_app, exchange):
    remote = Remote(script=say("from afar"))
    app = make_app(FakeBackend("m", say("here")), config=DENY, remote=[remote.pair])
    async with living(app):
        first = exchange(app, {"model": "m", "input": "Hi"}, PATH, x_outstation_data_classes="health")
        await first.end()
        previous = first.json["id"]
        second = exchange(app, {"model": "acme/large", "input": "And?", "previous_response_id": previous}, PATH)
        await second.end()
        assert (second.status, second.json["error"]["code"]) == (400, "privacy_denied")
        third = exchange(app, {"model": "acme/large", "input": "And?"}, PATH)
        await third.end()
        assert third.status == 200
    assert len(remote.backend.requests) == 1


@pytest.mark.parametrize("through", ["a response", "a conversation"])
@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"x_outstation_locality": "only_local"}, "no_route"),
        ({"x_outstation_data_classes": "health"}, "privacy_denied"),
    ],
)
async def test_an_item_that_is_referred_to_stays_where_it_had_to(make_app, exchange, headers, code, through):
    remote = Remote(script=say("from afar"))
    app = make_app(FakeBackend("m", say("here")), config=DENY, remote=[remote.pair])
    reference = {"type": "item_reference", "id": "msg_1"}

    async def ask(body, path=PATH, **headers):
        asked = exchange(app, body, path, **headers)
        await asked.end()
        return asked

    async with living(app):
        await ask({"model": "m", "input": [{**USER, "id": "msg_1"}]}, **headers)
        later = {"input": [reference, USER]}
        if through == "a conversation":
            made = await ask({"items": [reference]}, "/v1/conversations")
            later = {"input": "Hi", "conversation": made.json["id"]}
        refused = await ask({"model": "acme/large", **later})
        assert (refused.status, refused.json["error"]["code"]) == (400, code)
        assert (await ask({"model": "auto", **later})).headers["x-outstation-route"] == "local/m"
    assert remote.backend.requests == []


async def test_an_item_in_two_conversations_is_held_to_what_holds_in_either(tmp_path):
    made = Archive(tmp_path / "responses.db", 30)
    try:
        item = {"type": "message", "id": "msg_1"}
        for declared, local_only in (({"health"}, False), (set(), True)):
            await made.begin_conversation("ann", {}, Addition([item], 1.0, frozenset(declared), local_only))
        assert await made.item("msg_1", "ann") == (item, {"health"}, True)
        assert await made.item("msg_1", "bob") is None
    finally:
        made.close()


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_cannot_be_kept_is_given_and_says_so(make_app, exchange, tmp_path, stream):
    (tmp_path / "responses.db").write_bytes(b"no database at all" * 100)
    asked = exchange(make_app(), {"model": "auto", "input": "Hi", "stream": stream}, PATH)
    await asked.end()
    response = events_of(asked.body)[-1]["response"] if stream else asked.json
    assert (response["status"], response["store"]) == ("completed", False)
    ResponseObject.model_validate(response)


async def test_what_cannot_be_read_is_no_404(make_app, sdk, tmp_path):
    (tmp_path / "responses.db").write_bytes(b"no database at all" * 100)
    client = sdk(make_app())
    with pytest.raises(openai.InternalServerError) as caught:
        await client.responses.retrieve("resp_1")
    assert (caught.value.status_code, caught.value.code) == (503, "store_unavailable")
    assert str(tmp_path) not in str(caught.value)


@pytest.fixture
def archive(tmp_path):
    """With a clock that is set by hand."""
    clock = [1_000_000.0]
    found = Archive(tmp_path / "responses.db", 30, clock=lambda: clock[0])
    yield found, clock
    found.close()


def kept(id_, created, previous=None):
    body = {"id": id_, "status": "completed", "output": [{"type": "message", "id": f"msg_{id_}"}], "background": False}
    return Kept(id_, "", created, previous, body, [{"type": "message", "id": f"in_{id_}"}])


async def test_old_responses_are_removed_unless_a_younger_one_goes_on_from_them(archive, tmp_path):
    made, clock = archive
    await made.add(kept("old", 0.0))
    await made.add(kept("root", 0.0))
    await made.add(kept("middle", 1.0, "root"))
    await made.add(kept("tip", 900_000.0, "middle"))
    made.close()
    clock[0] = 31 * 86_400.0
    again = Archive(tmp_path / "responses.db", 30, clock=lambda: clock[0])
    try:
        assert [one.id for one in await again.chain("tip", "")] == ["root", "middle", "tip"]
        assert await again.item("in_old", "") is None
        assert (await again.item("in_root", "")).item["id"] == "in_root"
    finally:
        again.close()
    clock[0] = 62 * 86_400.0
    last = Archive(tmp_path / "responses.db", 30, clock=lambda: clock[0])
    try:
        for id_ in ("tip", "middle", "root"):
            with pytest.raises(Exception, match=f"no response '{id_}'"):
                await last.get(id_, "")
    finally:
        last.close()


async def test_a_chain_that_is_too_long_is_not_gone_on_from(archive):
    made, _ = archive
    third = [{"type": "message", "id": "i", "content": "x" * (MOST_BYTES // 3)}]
    for id_, previous in (("a", None), ("b", "a"), ("c", "b")):
        await made.add(replace(kept(id_, 1.0, previous), input=third))
    assert len(await made.chain("b", "")) == 2
    with pytest.raises(InvalidRequest, match="More than 64 MB") as caught:
        await made.chain("c", "")
    assert caught.value.param == "previous_response_id"


async def test_too_large_a_file_loses_its_oldest(archive, tmp_path):
    made, clock = archive
    for number in range(60):
        one = kept(f"r{number}", float(number))
        await made.add(replace(one, input=[{"type": "message", "id": f"i{number}", "content": "x" * 20_000}]))
    made.close()
    clock[0] = 1000.0
    again = Archive(tmp_path / "responses.db", 30, 600_000, lambda: clock[0])
    try:
        for _ in range(5):
            newest = await again.get("r59", "")
        assert newest.id == "r59"
        assert await again.item("i39", "") is None
        assert await again.item("i40", "") is not None
    finally:
        again.close()


async def test_a_second_gateway_cannot_use_the_same_file(archive, tmp_path):
    made, _ = archive
    await made.add(kept("one", 0.0))
    other = Archive(tmp_path / "responses.db", 30)
    try:
        with pytest.raises(Exception, match="another process has it locked"):
            await other.get("one", "")
    finally:
        other.close()


ACME = (
    '[[providers]]\nname = "acme"\nbase_url = "https://acme.example/v1"\ndata = { email = "redact" }\n'
    '[[providers.models]]\nname = "large"\ncontext_length = 1000\ninput_price = 1\noutput_price = 2\n'
)


async def asked_after(make_app, exchange, first, config=ACME):
    """What a provider is sent, and the answer, when it goes on from a conversation on the box."""
    remote = Remote(script=say("from afar"))
    app = make_app(FakeBackend("m", say("here")), config=config, remote=[remote.pair])
    async with living(app):
        one = exchange(app, {"model": "m", "input": first}, PATH)
        await one.end()
        two = exchange(app, {"model": "acme/large", "input": "And?", "previous_response_id": one.json["id"]}, PATH)
        await two.end()
    return remote.backend.requests, two


async def test_what_was_said_before_is_redacted_as_what_is_said_now(make_app, exchange):
    (request,), answer = await asked_after(make_app, exchange, "I am jo@example.org.")
    assert answer.status == 200
    assert [message["content"] for message in request.raw["messages"]] == ["I am [EMAIL_1].", "here", "And?"]


async def test_a_conversation_too_long_to_be_searched_stays_here(make_app, exchange):
    """A short request with a long history is as long as both."""
    requests, answer = await asked_after(make_app, exchange, "long " * 250_000)
    assert (answer.status, answer.json["error"]["code"]) == (400, "privacy_scan_failed")
    assert requests == []
