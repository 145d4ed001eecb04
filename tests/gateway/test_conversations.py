"""`/v1/conversations` by the official SDK, with scripted backends: what is kept, gone on from, and forgotten."""

from __future__ import annotations

import openai
import pytest
from openai.types.conversations import Conversation, ConversationItemList

from backends.errors import EngineFailed, InvalidRequest
from backends.fake import FakeBackend, say
from backends.types import Chunk, ToolDelta, Usage
from gateway.responses.archive import Archive
from gateway.responses.conversations import MOST_BYTES, Addition
from gateway.responses.items import items_of
from gateway.schemas.response_objects import ConversationObject, DeletedConversation, ResponseItemList, ResponseObject
from tests.gateway.conftest import living
from tests.gateway.test_responses import ABLE, PATH, WEATHER, events_of
from tests.gateway.test_responses_kept import keys
from tests.gateway.test_routing import Remote

pytestmark = pytest.mark.anyio
USER = {"role": "user", "content": "Hi"}


@pytest.fixture
def sdk(connect):
    """An SDK client of an app."""
    return lambda app, key="none": openai.AsyncOpenAI(
        base_url="http://localhost:8484/v1", api_key=key, http_client=connect(app), max_retries=0
    )


async def texts(client, conversation):
    """(role, text) of its items, the oldest first."""
    items = [item async for item in client.conversations.items.list(conversation.id, order="asc", limit=2)]
    return [(item.role, item.content[0].text) for item in items]


def told(backend):
    """(role, content) of the messages of each request."""
    return [[(message["role"], message["content"]) for message in request.messages] for request in backend.requests]


async def test_made_read_changed_and_deleted(make_app, sdk):
    client = sdk(make_app())
    made = await client.conversations.with_raw_response.create(items=[USER], metadata={"a": "b"})
    ConversationObject.model_validate_json(made.content)
    assert set(made.http_response.json()) == set(Conversation.model_fields)
    conversation = made.parse()
    assert conversation.id.startswith("conv_")
    assert conversation.metadata == {"a": "b"}
    read = await client.conversations.with_raw_response.retrieve(conversation.id)
    assert read.content == made.content
    changed = await client.conversations.update(conversation.id, metadata={"c": "d"})
    assert (await client.conversations.retrieve(conversation.id)).metadata == changed.metadata == {"c": "d"}
    gone = await client.conversations.with_raw_response.delete(conversation.id)
    DeletedConversation.model_validate_json(gone.content)
    assert gone.parse().object == "conversation.deleted"
    for ask in (client.conversations.retrieve, client.conversations.delete, client.conversations.items.list):
        with pytest.raises(openai.NotFoundError) as caught:
            await ask(conversation.id)
        assert caught.value.code == "conversation_not_found"


async def test_without_a_word(make_app, exchange):
    asked = exchange(make_app(), {}, "/v1/conversations")
    await asked.end()
    assert asked.json["metadata"] == {}


async def test_items(make_app, sdk):
    client = sdk(make_app())
    conversation = await client.conversations.create()
    empty = await client.conversations.items.with_raw_response.list(conversation.id)
    assert empty.http_response.json()["data"] == []
    numbers = [{"role": "user", "content": str(number)} for number in range(5)]
    added = await client.conversations.items.with_raw_response.create(conversation.id, items=numbers[:3])
    ResponseItemList.model_validate_json(added.content)
    assert set(added.http_response.json()) == set(ConversationItemList.model_fields)
    listed = added.parse()
    assert [item.content[0].text for item in listed.data] == ["0", "1", "2"]
    assert (listed.first_id, listed.last_id, listed.has_more) == (listed.data[0].id, listed.data[2].id, False)
    await client.conversations.items.create(conversation.id, items=numbers[3:])
    assert [text for _, text in await texts(client, conversation)] == ["0", "1", "2", "3", "4"]
    newest = await client.conversations.items.list(conversation.id, limit=2)
    assert [item.content[0].text for item in newest.data] == ["4", "3"]
    first = listed.data[0]
    assert (await client.conversations.items.retrieve(first.id, conversation_id=conversation.id)).to_dict() == {
        "type": "message", "id": first.id, "role": "user", "status": "completed",
        "content": [{"type": "input_text", "text": "0"}],
    }  # fmt: skip
    left = await client.conversations.items.delete(first.id, conversation_id=conversation.id)
    assert left.id == conversation.id
    for ask in (client.conversations.items.retrieve, client.conversations.items.delete):
        with pytest.raises(openai.NotFoundError) as caught:
            await ask(first.id, conversation_id=conversation.id)
        assert caught.value.code == "item_not_found"
    assert [text for _, text in await texts(client, conversation)] == ["1", "2", "3", "4"]


async def test_an_id_is_there_once(make_app, sdk):
    client = sdk(make_app())
    item = {"type": "message", "id": "msg_mine", "role": "user", "content": "Hi"}
    conversation = await client.conversations.create(items=[item])
    (again,) = (await client.conversations.items.create(conversation.id, items=[item])).data
    assert again.id.startswith("msg_")
    assert again.id != "msg_mine"
    found = await client.conversations.items.retrieve(again.id, conversation_id=conversation.id)
    assert found.content == again.content


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("store", [False, True])
async def test_responses_go_on_from_it_and_add_to_it(make_app, sdk, stream, store):
    backend = FakeBackend("m", say("Hello"))
    client = sdk(make_app(backend))
    conversation = await client.conversations.create(items=[{"role": "user", "content": "One"}])
    answers = []
    for text, name in (("Two", conversation.id), ("Three", {"id": conversation.id})):
        asked = {"model": "m", "input": text, "conversation": name, "store": store, "instructions": "Be brief."}
        if stream:
            events = [event async for event in await client.responses.create(stream=True, **asked)]
            answers.append(events[-1].response)
        else:
            answers.append(await client.responses.create(**asked))
    assert told(backend)[0] == [("system", "Be brief."), ("user", "One"), ("user", "Two")]
    # Instructions are no part of it.
    assert told(backend)[1] == [*told(backend)[0], ("assistant", "Hello"), ("user", "Three")]
    assert [answer.conversation.id for answer in answers] == [conversation.id] * 2
    said = [("user", "One"), ("user", "Two"), ("assistant", "Hello"), ("user", "Three"), ("assistant", "Hello")]
    assert await texts(client, conversation) == said
    last = (await client.conversations.items.list(conversation.id, limit=1)).data[0]
    assert last.id == answers[1].output[0].id


async def test_the_input_may_be_all_there(make_app, sdk):
    backend = FakeBackend("m", say("Hello"))
    client = sdk(make_app(backend))
    conversation = await client.conversations.create(items=[USER])
    response = await client.responses.with_raw_response.create(model="m", conversation=conversation.id)
    assert told(backend) == [[("user", "Hi")]]
    ResponseObject.model_validate_json(response.content)
    assert await texts(client, conversation) == [("user", "Hi"), ("assistant", "Hello")]


async def test_a_call_and_what_it_gave(make_app, sdk):
    call = ToolDelta(0, "call_1", "get_weather", '{"city":"Paris"}')
    steps = [Chunk(0, tools=(call,)), Chunk(0, finish_reason="tool_calls"), Usage(1, 1)]
    backend = FakeBackend("m", lambda _: steps, capabilities=ABLE)
    client = sdk(make_app(backend))
    conversation = await client.conversations.create()
    asked = {"model": "m", "conversation": conversation.id, "tools": [WEATHER]}
    await client.responses.create(input="Weather?", **asked)
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.create(input="And?", **asked)
    assert caught.value.param == "conversation"
    output = {"type": "function_call_output", "call_id": "call_1", "output": "Rain."}
    await client.responses.create(input=[output], **asked)
    assert [message["role"] for message in backend.requests[1].messages] == ["user", "assistant", "tool"]
    items = [item.type async for item in client.conversations.items.list(conversation.id, order="asc")]
    assert items == ["message", "function_call", "function_call_output", "function_call"]


async def test_what_was_told_twice_is_named_and_can_be_removed(make_app, sdk):
    """As by two responses at once, each of which brings what the call gave."""
    client = sdk(make_app())
    call = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "c1", "output": "1"}
    conversation = await client.conversations.create(items=[USER, call, output])
    (second,) = (await client.conversations.items.create(conversation.id, items=[output])).data
    with pytest.raises(openai.BadRequestError, match=f"item {second.id} is the second") as caught:
        await client.responses.create(model="auto", input="Hi", conversation=conversation.id)
    assert caught.value.param == "conversation.call_id"
    await client.conversations.items.delete(second.id, conversation_id=conversation.id)
    await client.responses.create(model="auto", input="Hi", conversation=conversation.id)


@pytest.mark.parametrize("stream", [False, True])
async def test_what_fails_adds_nothing(make_app, exchange, sdk, stream):
    app = make_app(FakeBackend("m", lambda _: [Chunk(0, "Hel"), EngineFailed("It broke.")]))
    client = sdk(app)
    conversation = await client.conversations.create(items=[USER])
    asked = exchange(app, {"model": "m", "input": "Two", "conversation": conversation.id, "stream": stream}, PATH)
    await asked.end()
    if stream:
        assert events_of(asked.body)[-1]["response"]["conversation"] is None
    assert await texts(client, conversation) == [("user", "Hi")]


async def test_what_was_cut_is_part_of_it(make_app, sdk):
    tool = ToolDelta(0, "call_1", "get_weather", '{"ci')
    steps = [Chunk(0, "Let me"), Chunk(0, tools=(tool,)), Chunk(0, finish_reason="length"), Usage(1, 1)]
    client = sdk(make_app(FakeBackend("m", lambda _: steps, capabilities=ABLE)))
    conversation = await client.conversations.create()
    await client.responses.create(model="m", input="Hi", conversation=conversation.id, tools=[WEATHER])
    # But for the call, which nobody could make.
    assert await texts(client, conversation) == [("user", "Hi"), ("assistant", "Let me")]


async def test_in_the_background(make_app, sdk):
    app = make_app(FakeBackend("m", say("Hello")))
    client = sdk(app)
    async with living(app):
        conversation = await client.conversations.create()
        response = await client.responses.create(model="m", input="Hi", conversation=conversation.id, background=True)
        while response.status in ("queued", "in_progress"):
            response = await client.responses.retrieve(response.id)
        assert response.conversation.id == conversation.id
        assert await texts(client, conversation) == [("user", "Hi"), ("assistant", "Hello")]


async def test_one_that_is_deleted_meanwhile_stays_so(make_app, exchange, sdk):
    backend = FakeBackend("m", lambda _: [Chunk(0, "Hel"), 0.2, Chunk(0, finish_reason="stop"), Usage(1, 1)])
    app = make_app(backend)
    client = sdk(app)
    conversation = await client.conversations.create()
    asked = exchange(app, {"model": "m", "input": "Hi", "conversation": conversation.id, "stream": True}, PATH)
    await asked.until_contains(b"Hel")
    await client.conversations.delete(conversation.id)
    await asked.end()
    assert events_of(asked.body)[-1]["response"]["status"] == "completed"
    with pytest.raises(openai.NotFoundError):
        await client.conversations.retrieve(conversation.id)


async def test_each_key_sees_its_own(make_app, sdk):
    app = make_app(config=keys("ann", "bob"))
    ann, bob = sdk(app, "ann"), sdk(app, "bob")
    conversation = await ann.conversations.create(items=[USER])
    item = (await ann.conversations.items.list(conversation.id)).data[0]
    for ask in (bob.conversations.retrieve, bob.conversations.delete, bob.conversations.items.list):
        with pytest.raises(openai.NotFoundError):
            await ask(conversation.id)
    for ask in (bob.conversations.items.retrieve, bob.conversations.items.delete):
        with pytest.raises(openai.NotFoundError):
            await ask(item.id, conversation_id=conversation.id)
    with pytest.raises(openai.NotFoundError):
        await bob.conversations.update(conversation.id, metadata={})
    with pytest.raises(openai.NotFoundError):
        await bob.conversations.items.create(conversation.id, items=[USER])
    with pytest.raises(openai.NotFoundError) as caught:
        await bob.responses.create(model="auto", input="Hi", conversation=conversation.id)
    assert caught.value.param == "conversation"
    reference = {"type": "item_reference", "id": item.id}
    with pytest.raises(openai.BadRequestError):
        await bob.responses.create(model="auto", input=[reference])
    await ann.responses.create(model="auto", input=[reference])
    assert await texts(ann, conversation) == [("user", "Hi")]


async def test_what_its_requests_said_of_their_data_holds(make_app, sdk, exchange):
    """For items that are added by hand as well."""
    remote = Remote(script=say("from afar"))
    app = make_app(FakeBackend("m", say("here")), remote=[remote.pair])
    client = sdk(app)
    headers = {"x-outstation-locality": "only_local", "x-outstation-data-classes": "health"}
    conversation = await client.conversations.create(items=[USER])
    await client.conversations.items.create(conversation.id, items=[USER], extra_headers=headers)
    async with living(app):
        far = {"model": "acme/large", "input": "Hi", "conversation": conversation.id}
        asked = exchange(app, far, PATH)
        await asked.end()
        assert (asked.status, asked.json["error"]["code"]) == (400, "privacy_denied")
        asked = exchange(app, {**far, "model": "auto", "outstation": {"locality": "prefer_remote"}}, PATH)
        await asked.end()
        assert asked.json["error"]["param"] == "outstation.locality"
        asked = exchange(app, {**far, "model": "auto"}, PATH)
        await asked.end()
        assert asked.headers["x-outstation-route"] == "local/m"
    assert remote.backend.requests == []


async def test_a_response_in_it_is_gone_on_from_by_it(make_app, sdk):
    client = sdk(make_app())
    conversation = await client.conversations.create(items=[USER])
    response = await client.responses.create(model="auto", input="Hi", conversation=conversation.id)
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.create(model="auto", input="Hi", previous_response_id=response.id)
    assert conversation.id in str(caught.value)


async def test_what_is_deleted_is_gone_from_the_file(make_app, sdk, tmp_path):
    client = sdk(make_app())
    conversation = await client.conversations.create(items=[{"role": "user", "content": "Zyzzyva-one"}])
    (item,) = (
        await client.conversations.items.create(conversation.id, items=[{**USER, "content": "Zyzzyva-two"}])
    ).data
    files = lambda: b"".join(file.read_bytes() for file in tmp_path.glob("responses.db*"))  # noqa: E731
    assert b"Zyzzyva-two" in files()
    await client.conversations.items.delete(item.id, conversation_id=conversation.id)
    assert b"Zyzzyva-two" not in files()
    assert b"Zyzzyva-one" in files()
    await client.conversations.delete(conversation.id)
    assert b"Zyzzyva" not in files()


WRONG = [
    ({"items": 5}, "items"),
    ({"items": [USER] * 21}, "items"),
    ({"items": [USER, {"role": "robot", "content": "x"}]}, "items[1].role"),
    ({"items": [{"type": "mcp_call"}]}, "items[0].type"),
    ({"items": [{"type": "item_reference", "id": "msg_gone"}]}, "items[0].id"),
    ({"items": [{"type": "reasoning", "content": [{"type": "x"}]}]}, "items[0].content[0].type"),
    ({"metadata": {"a": 1}}, "metadata.a"),
    ({"metadata": {str(n): "x" for n in range(17)}}, "metadata"),
    ({"metadata": {"a": "x" * 513}}, "metadata.a"),
]


@pytest.mark.parametrize(("body", "param"), WRONG, ids=[f"{n}-{param}" for n, (_, param) in enumerate(WRONG)])
async def test_what_makes_no_sense_is_refused_at_its_place(make_app, exchange, tmp_path, body, param):
    asked = exchange(make_app(), body, "/v1/conversations")
    await asked.end()
    assert (asked.status, asked.json["error"]["param"]) == (400, param), asked.body
    assert not list(tmp_path.glob("responses.db*"))


async def test_nothing_is_kept_where_the_operator_wants_nothing_kept(make_app, sdk, tmp_path):
    client = sdk(make_app(config="[responses]\nstore = false\n"))
    with pytest.raises(openai.BadRequestError) as caught:
        await client.conversations.create(items=[USER])
    assert caught.value.code == "unsupported"
    assert not list(tmp_path.glob("responses.db*"))


async def test_what_nobody_added_to_for_long_is_removed(tmp_path):
    now = 1e9
    archive = Archive(tmp_path / "responses.db", keep_days=10, clock=lambda: now)
    old = await archive.begin_conversation("", {}, Addition(items_of("Hi"), now - 20 * 86_400))
    used = await archive.begin_conversation("", {}, Addition(items_of("Hi"), now - 20 * 86_400))
    await archive.extend(used.id, "", Addition(items_of("Hi"), now - 5 * 86_400))
    archive.close()
    archive = Archive(tmp_path / "responses.db", keep_days=10, clock=lambda: now)
    await archive.open()
    assert len((await archive.conversation(used.id, ""))[1]) == 2
    with pytest.raises(Exception, match="no conversation"):
        await archive.conversation(old.id, "")
    archive.close()


async def test_one_that_is_too_long_is_still_listed_and_can_be_shortened(make_app, sdk, tmp_path):
    """It is not gone on from, and nothing is added by hand: all of it would come together in memory."""
    first, second, third = (
        {"type": "message", "id": f"msg_{n}", "role": "user", "content": "x" * (MOST_BYTES // 3)} for n in "123"
    )
    archive = Archive(tmp_path / "responses.db", keep_days=10)
    made = await archive.begin_conversation("", {}, Addition([first, second], 1e10))
    with pytest.raises(InvalidRequest, match="More than 64 MB"):
        await archive.extend_by_hand(made.id, "", Addition([third, {**USER, "type": "message", "id": "msg_4"}], 1e10))
    await archive.extend(made.id, "", Addition([third], 1e10))
    archive.close()
    client = sdk(make_app())
    with pytest.raises(openai.BadRequestError, match="More than 64 MB") as caught:
        await client.responses.create(model="auto", input="Hi", conversation=made.id)
    assert caught.value.param == "conversation"
    page = await client.conversations.items.list(made.id, limit=1)
    await client.conversations.items.delete(page.data[0].id, conversation_id=made.id)
    await client.responses.create(model="auto", input="Hi", conversation=made.id)


async def test_a_file_of_the_first_version_is_taken_over(tmp_path):
    import apsw

    from gateway.responses import store

    db = apsw.Connection(str(tmp_path / "responses.db"))
    db.execute(store._SCHEMA + "PRAGMA user_version = 1;")
    row = ("resp_1", "", 1e9, None, "completed", b'{"status":"completed","output":[]}', b"[]", "", 0, b"{}", None, 0)
    db.execute(f"INSERT INTO responses VALUES ({','.join('?' * len(row))})", row)
    db.close()
    archive = Archive(tmp_path / "responses.db", keep_days=10, clock=lambda: 1e9)
    assert (await archive.get("resp_1", "")).conversation is None
    await archive.begin_conversation("", {}, Addition([], 1e9))
    archive.close()
