"""Answers from documents, over bare ASGI with scripted models: what is told to whom, what leaves, and what is said."""

from __future__ import annotations

import asyncio
from hashlib import sha256

import orjson
import pytest

from backends.errors import EngineFailed
from backends.types import Chunk, ToolDelta, Usage
from gateway.audit_reader import decisions
from gateway.documents.prompt import AND_FUNCTIONS, NOTHING_FOUND, OR_SAY
from gateway.schemas.response_objects import ResponseObject
from gateway.schemas.responses import ChatCompletion, ChatCompletionChunk
from rag.context import INSTRUCTIONS
from rag.types import Embedder
from tests.gateway.conftest import living
from tests.gateway.grounded_site import LETTERS_A_TOKEN, MANUAL, NAME, OTHER, PATHS, QUESTION, grounded_site, model
from tests.gateway.small_models import SmallModel
from tests.gateway.test_responses import WEATHER, events_of

pytestmark = pytest.mark.anyio
NOT_SAID = "The documents do not say."
BLOCK = f"<document>\n[1] {NAME}, page 1, Manual\n{MANUAL}\n</document>"
DIALECTS = pytest.mark.parametrize("dialect", ["chat", "response"])
STREAMS = pytest.mark.parametrize("stream", [False, True])


@pytest.fixture
def site(make_app, tmp_path):
    return grounded_site(make_app, tmp_path)


@pytest.fixture
def rows(tmp_path):
    """The audit's, once the app has ended."""
    return lambda: list(decisions(tmp_path / "audit.db", 0.0))


@pytest.fixture
def ask(exchange):
    """One request, to its end."""

    async def asked(made, dialect="chat", question=QUESTION, *, path=None, headers=None, body=None, **fields):
        body = body or made.body(dialect, question, **fields)
        begun = exchange(made.app, body, path or PATHS[dialect], **(headers or {}))
        await begun.end()
        return begun

    return asked


def chunks_of(body):
    return [orjson.loads(line[6:]) for line in body.decode().split("\n\n") if line.startswith("data: {")]


def answer_of(begun, dialect, *, stream=False):
    """(text, what is said of the documents, its quotes)."""
    if dialect == "chat":
        if stream:
            chunks = chunks_of(begun.body)
            for chunk in chunks:
                ChatCompletionChunk.model_validate(chunk)
            told = [chunk["outstation"] for chunk in chunks if "outstation" in chunk]
            assert chunks[-1].get("outstation") is told[-1]
            text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
            return text, told[0], told[0]["citations"]
        ChatCompletion.model_validate(begun.json)
        told = begun.json["outstation"]
        return begun.json["choices"][0]["message"]["content"], told, told["citations"]
    response = events_of(begun.body)[-1]["response"] if stream else begun.json
    ResponseObject.model_validate(response)
    call, message = response["output"]
    part = message["content"][0]
    quotes = [{**one, **one["outstation"]} for one in part["annotations"]]
    return part["text"], call, quotes


def system_of(request):
    first = request.messages[0]
    assert first["role"] == "system"
    return first["content"]


@DIALECTS
@STREAMS
async def test_an_answer_is_made_from_the_passages_and_quotes_them(site, ask, rows, dialect, stream):
    local = model("The pump P-7 is sealed ", "by a gasket of 45 mm [1].")
    made = site(local)
    async with living(made.app):
        await made.fill(MANUAL)
        begun = await ask(made, dialect, stream=stream)
    text, told, quotes = answer_of(begun, dialect, stream=stream)
    assert text == "The pump P-7 is sealed by a gasket of 45 mm [1]."
    (request,) = local.requests
    assert system_of(request) == INSTRUCTIONS
    assert request.messages[-1]["content"] == f"{BLOCK}\n\n{QUESTION}"
    (quote,) = quotes
    assert (quote["file_id"], quote["filename"], quote["page"]) == (made.file_ids[0], NAME, 1)
    assert quote["quote"] == MANUAL[quote["start"] : quote["end"]] == "The pump P-7 is sealed by a gasket of 45 mm"
    assert text[quote["index"] - 3 : quote["index"]] == "[1]"
    assert quote["marked"] is True
    assert begun.headers["x-outstation-route"] == "local/m"
    assert "documents: 1 passage of 1 file (" in begun.headers["x-outstation-reason"]
    if dialect == "chat":
        assert told["documents"]["question"] == QUESTION
        assert told["documents"]["answered"] is True
        (found,) = told["documents"]["results"]
        assert (found["number"], found["given"], found["filename"]) == (1, True, NAME)
        assert told["unsupported"] == []
    (row,) = rows()
    assert (row.ending, row.route, row.data_classes) == ("success", "local/m", ("documents",))
    assert any(reason.startswith("documents: ") for reason in row.reasons)
    assert [name for name, code, _ in row.attempts] == ["local/m"]


async def test_the_events_of_a_response_come_in_their_order(site, ask):
    made = site(model("It is a gasket of 45 mm [1]."))
    async with living(made.app):
        await made.fill(MANUAL, attributes={"unit": "P-7"})
        begun = await ask(made, "response", stream=True, include=["file_search_call.results"])
    events = events_of(begun.body)
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "file_search_call.in_progress",
        "file_search_call.searching",
        "file_search_call.completed",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.annotation.added",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    added, done = events[2]["item"], events[6]["item"]
    assert (added["status"], added["results"], done["status"]) == ("in_progress", None, "completed")
    assert done["queries"] == [QUESTION]
    (found,) = done["results"]
    assert (found["file_id"], found["filename"], found["text"]) == (made.file_ids[0], NAME, MANUAL)
    assert found["attributes"] == {"unit": "P-7"}
    assert 0 < found["score"] <= 1
    assert events[10]["annotation_index"] == 0
    assert events[10]["annotation"] == events[-1]["response"]["output"][1]["content"][0]["annotations"][0]
    assert events[-1]["response"]["output"][0] == done


@DIALECTS
@STREAMS
async def test_the_documents_do_not_say(site, ask, rows, dialect, stream):
    local = model()
    made = site(local)
    async with living(made.app):
        await made.fill(MANUAL)
        begun = await ask(made, dialect, OTHER, stream=stream)
    text, told, quotes = answer_of(begun, dialect, stream=stream)
    assert (begun.status, text, quotes) == (200, NOT_SAID, [])
    assert local.requests == []
    assert begun.headers["x-outstation-route"] == "local/documents"
    assert begun.headers["x-outstation-attempts"] == "0"
    assert "which do not say" in begun.headers["x-outstation-reason"]
    assert (told["documents"] if dialect == "chat" else told["outstation"])["answered"] is False
    (row,) = rows()
    assert (row.ending, row.route, row.data_classes, row.attempts) == (
        "success",
        "local/documents",
        ("documents",),
        (),
    )


async def test_every_choice_is_told_and_the_words_are_the_sites_own(site, ask):
    made = site(model(), config='[documents]\nnot_found_text = "Steht nicht drin."')
    async with living(made.app):
        await made.fill(MANUAL)
        begun = await ask(made, question=OTHER, n=2)
        found = await ask(made, n=2)
    assert [choice["message"]["content"] for choice in begun.json["choices"]] == ["Steht nicht drin."] * 2
    assert {one["choice"] for one in found.json["outstation"]["citations"]} == {0, 1}
    (request,) = made.app.current.site.backends["m"].requests
    assert NOT_SAID not in system_of(request)


@pytest.mark.parametrize(
    ("setting", "fields", "silence"),
    [
        ("model", {}, ""),
        ("say", {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}, OR_SAY + NOT_SAID),
        ("say", {"response_format": {"type": "json_object"}}, OR_SAY + NOT_SAID),
        ("model", {"response_format": {"type": "json_object"}}, ""),
    ],
)
async def test_a_model_that_is_asked_all_the_same_is_told_that_nothing_was_found(site, ask, setting, fields, silence):
    local = model("{}")
    made = site(local, config=f'[documents]\nnot_found = "{setting}"')
    async with living(made.app):
        await made.fill(MANUAL)
        begun = await ask(made, question=OTHER, **fields)
    assert begun.status == 200, begun.body
    (request,) = local.requests
    assert system_of(request) == "\n".join(filter(None, [NOTHING_FOUND, silence]))
    assert request.messages[-1]["content"] == OTHER
    assert "gasket" not in str(request)
    assert begun.json["outstation"]["documents"]["answered"] is False
    assert [one["given"] for one in begun.json["outstation"]["documents"]["results"]] == [False]


async def test_what_a_threshold_leaves_out_is_not_told(site, ask):
    """The documents say it, and none of it may be shown: the answer is not made up from nothing."""
    local = model()
    made = site(local)
    async with living(made.app):
        await made.fill(MANUAL)
        begun = await ask(made, outstation={"ranking_options": {"score_threshold": 1.0}})
    assert answer_of(begun, "chat")[0] == NOT_SAID
    assert local.requests == []


async def test_a_prompt_without_words_searches_nothing(site, ask):
    local = model("Hello.")
    made = site(local)
    async with living(made.app):
        await made.fill(MANUAL)
        begun = await ask(made, messages=[{"role": "system", "content": "Be brief."}])
        image = {"type": "input_image", "image_url": "data:image/png;base64,eA=="}
        other = await ask(made, "response", input=[{"role": "user", "content": [image]}])
    assert "outstation" not in begun.json
    assert [item["type"] for item in other.json["output"]] == ["message"]
    assert [request.messages[0]["content"] for request in local.requests] == [
        "Be brief.",
        local.requests[1].messages[0]["content"],
    ]
    assert made.embedding.requests == []


async def test_functions_may_be_called_beside_the_documents(site, ask):
    call = ToolDelta(0, "call_1", "get_weather", "{}")
    local = model()
    local.script = lambda _: [Chunk(0, tools=(call,)), Chunk(0, finish_reason="tool_calls"), Usage(3, 1)]
    made = site(local)
    async with living(made.app):
        await made.fill(MANUAL)
        begun = await ask(made, "response", tools=[WEATHER])
    assert [item["type"] for item in begun.json["output"]] == ["file_search_call", "function_call"]
    (request,) = local.requests
    assert system_of(request) == f"{INSTRUCTIONS}\n{AND_FUNCTIONS}"
    assert [tool["function"]["name"] for tool in request.tools] == ["get_weather"]


async def test_a_model_that_says_nothing_leaves_a_message(site, ask):
    local = model()
    local.script = lambda _: [Chunk(0, finish_reason="stop"), Usage(3, 0)]
    made = site(local)
    async with living(made.app):
        await made.fill(MANUAL)
        begun = await ask(made, "response")
    assert [item["type"] for item in begun.json["output"]] == ["file_search_call", "message"]


FUNCTION = {"type": "function", "name": "get_weather"}
SEARCH = {"type": "file_search"}


def allowed(mode, *tools):
    return {"type": "allowed_tools", "mode": mode, "tools": list(tools)}


@pytest.mark.parametrize(
    ("choice", "functions", "searched", "told"),
    [
        ("auto", True, True, "auto"),
        ("none", True, False, "none"),
        ("none", False, False, None),
        ("required", True, True, "auto"),
        ("required", False, True, None),
        (SEARCH, True, True, None),
        (SEARCH, False, True, None),
        (FUNCTION, True, True, {"type": "function", "function": {"name": "get_weather"}}),
        (allowed("auto", SEARCH, FUNCTION), True, True, "auto"),
        (allowed("required", SEARCH, FUNCTION), True, True, "auto"),
        (allowed("required", SEARCH), True, True, None),
        (allowed("required", FUNCTION), True, False, "required"),
    ],
)
async def test_the_choice_of_tools(site, ask, choice, functions, searched, told):
    local = model()
    made = site(local)
    async with living(made.app):
        await made.fill(MANUAL)
        begun = await ask(made, "response", tool_choice=choice, tools=[WEATHER] if functions else [])
    assert begun.status == 200, begun.body
    assert [item["type"] for item in begun.json["output"]][:-1] == (["file_search_call"] if searched else [])
    assert begun.json["tool_choice"] == choice
    (request,) = local.requests
    assert ("gasket of 45" in str(request.messages)) is searched
    assert request.raw.get("tool_choice") == told
    assert ("tools" in request.raw) is (functions and choice != allowed("required", SEARCH))


@pytest.mark.parametrize(
    ("dialect", "fields", "status", "code", "param"),
    [
        ("chat", {"outstation": {"vector_store_ids": ["vs_gone"]}}, 404, "not_found", "outstation.vector_store_ids"),
        ("chat", {"outstation": {"vector_store_ids": ["vs \0'"]}}, 404, "not_found", "outstation.vector_store_ids"),
        ("chat", {"outstation": {"vector_store_ids": []}}, 400, "invalid_request", "outstation.vector_store_ids"),
        (
            "chat",
            {"outstation": {"filters": {"type": "eq", "key": "a"}}},
            400,
            "invalid_request",
            "outstation.filters.value",
        ),
        ("chat", {"outstation": {"max_num_results": 51}}, 400, "invalid_request", "outstation.max_num_results"),
        (
            "chat",
            {"outstation": {"vector_store_ids": None, "max_num_results": 5}},
            400,
            "invalid_request",
            "outstation.max_num_results",
        ),
        ("response", {"tool_choice": FUNCTION}, 400, "invalid_request", "tool_choice"),
        ("response", {"tools": [{"type": "file_search", "vector_store_ids": ["x"]}]}, 400, "invalid_request", "tools"),
        ("response", {"tools": [{"type": "web_search"}]}, 400, "unsupported", "tools[1].type"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_what_is_refused(site, ask, dialect, fields, status, code, param):
    local = model()
    made = site(local)
    async with living(made.app):
        await made.fill(MANUAL)
        begun = await ask(made, dialect, **fields)
    error = begun.json["error"]
    assert (begun.status, error["code"], error["param"]) == (status, code, param), error
    assert local.requests == []


@STREAMS
@pytest.mark.parametrize("trouble", ["gone", "expired", "another embedder", "embedder died", "broken filter"])
async def test_a_store_that_cannot_be_searched(site, ask, rows, trouble, stream):
    """The tool at fault is named by its place in the request, whatever became of the others."""
    local = model()
    made = site(local)
    async with living(made.app):
        await made.fill(MANUAL, days=1, pinned=Embedder("e", "f" * 64, 8) if trouble == "another embedder" else None)
        search = {"type": "file_search", "vector_store_ids": [made.store_id]}
        if trouble == "gone":
            search["vector_store_ids"] = ["vs_gone"]
        elif trouble == "expired":
            await made.app.shared.library.run(_expire)
        elif trouble == "embedder died":
            made.embedding.script = lambda _: [EngineFailed("It died.", retry_after=1)]
        elif trouble == "broken filter":
            search["filters"] = {"type": "and", "filters": [{"type": "like", "key": "a", "value": "b"}]}
        body = {"model": "auto", "input": QUESTION, "tools": [search, WEATHER], "stream": stream}
        begun = await ask(made, "response", body=body)
    status, code, param = {
        "gone": (404, "not_found", "tools[0].vector_store_ids"),
        "expired": (400, "vector_store_expired", "tools[0].vector_store_ids"),
        "another embedder": (400, "embedder_mismatch", "tools[0].vector_store_ids"),
        "embedder died": (503, "engine_failed", None),
        "broken filter": (400, "invalid_request", "tools[0].filters.filters[0].type"),
    }[trouble]
    error = begun.json["error"]
    assert (begun.status, error["code"], error["param"]) == (status, code, param), error
    assert begun.headers["content-type"] == "application/json"
    assert begun.headers["x-outstation-route"] == "none"
    assert local.requests == []
    if trouble == "another embedder":
        assert "outstation reindex" in error["message"]
    if trouble == "embedder died":
        assert begun.headers["retry-after"] == "1"
    assert [row.error for row in rows()] in ([code], [])


def _expire(store):
    with store.stores._engine.write() as cursor:
        cursor.run("UPDATE stores SET expired = 1", ())


async def test_a_key_that_may_not_use_documents(site, ask):
    local = model()
    made = site(
        local,
        config=f"""
[[keys]]
name = "kiosk"
sha256 = "{sha256(b"secret").hexdigest()}"
documents = "none"
[[keys]]
name = "reader"
sha256 = "{sha256(b"other").hexdigest()}"
documents = "read"
""",
    )
    async with living(made.app):
        await made.fill(MANUAL)
        for dialect in PATHS:
            refused = await ask(made, dialect, headers={"authorization": "Bearer secret"})
            assert (refused.status, refused.json["error"]["code"]) == (403, "documents_forbidden")
        explained = await ask(made, path="/v1/outstation/explain", headers={"authorization": "Bearer secret"})
        assert explained.status == 403
        assert local.requests == []
        assert (await ask(made, headers={"authorization": "Bearer other"})).status == 200


@pytest.mark.parametrize("how", ["hangs", "fails", "is not there"])
async def test_a_reranker_is_not_waited_for(site, ask, how):
    never = asyncio.Event()
    steps = [never] if how == "hangs" else [EngineFailed("It died.")]
    reranker = SmallModel("r", lambda _: steps, kinds=frozenset({"rerank"}))
    names = "" if how == "is not there" else 'rerank = "r"'
    made = site(model(), more=(reranker,), config="[documents]\nrerank_ms = 60\n", small=names)
    async with living(made.app):
        await made.fill(MANUAL, MANUAL.replace("45", "46"))
        begun = await ask(made)
    assert begun.status == 200
    assert len(begun.json["outstation"]["documents"]["results"]) == 2
    assert bool(reranker.requests) is (how != "is not there")


@STREAMS
async def test_a_client_that_hangs_up_while_the_documents_are_searched(site, exchange, rows, stream):
    local, never = model(), asyncio.Event()
    made = site(local)
    async with living(made.app):
        await made.fill(MANUAL)
        made.embedding.script = lambda _: [never]
        begun = exchange(made.app, made.body("chat", stream=stream), PATHS["chat"])
        async with asyncio.timeout(5):
            while not made.embedding.requests[-1:] or len(made.embedding.ended) == len(made.embedding.requests):
                await asyncio.sleep(0.001)
        begun.hang_up.tell()
        await begun.end()
    assert made.embedding.ended[-1] == "cancelled"
    assert local.requests == []
    assert [row.ending for row in rows()] == ["cancelled"]


async def test_the_requests_bound_covers_the_search(site, ask, rows):
    local, never = model(), asyncio.Event()
    made = site(local)
    async with living(made.app):
        await made.fill(MANUAL)
        made.embedding.script = lambda _: [never]
        begun = await ask(made, outstation={"deadline_ms": 100})
    assert (begun.status, begun.json["error"]["code"]) == (503, "timeout")
    assert local.requests == []
    assert [row.error for row in rows()] == ["timeout"]


LONG = "".join(f"The gasket of pump P-{n} is sealed at {n} bar. " for n in range(400))


@pytest.mark.parametrize("limit", [None, 40, 4000])
@DIALECTS
async def test_a_small_context_is_never_exceeded(site, ask, dialect, limit):
    """Of passages that are far too long, as much as fits beside the conversation and the answer."""
    local = model("The gasket of pump P-1 is sealed at 1 bar [1].", context_length=1000)
    made = site(local)
    fields = {} if limit is None else {"max_tokens" if dialect == "chat" else "max_output_tokens": limit}
    async with living(made.app):
        await made.fill(LONG)
        begun = await ask(made, dialect, "Which gasket seals the pump P-1?", **fields)
    assert begun.status == 200, begun.body
    (request,) = local.requests
    tokens = (await local.count(request)).tokens
    left = {None: 250, 40: 40, 4000: 500}[limit]
    assert 1000 - left - 60 <= tokens <= 1000 - left
    assert "the first passage is shortened" in begun.headers["x-outstation-reason"]
    assert "no room for" in begun.headers["x-outstation-reason"]
    told = request.messages[-1]["content"]
    assert (told.count("<document>"), told.count("</document>")) == (1, 1)
    assert answer_of(begun, dialect)[2][0]["quote"] == "The gasket of pump P-1 is sealed at 1 bar"


async def test_a_conversation_that_leaves_no_room(site, ask):
    local = model(context_length=1000)
    made = site(local)
    before = [{"role": "user", "content": "x" * 2000}, {"role": "assistant", "content": "Yes."}]
    async with living(made.app):
        await made.fill(MANUAL)
        begun = await ask(made, messages=[*before, {"role": "user", "content": QUESTION}])
    error = begun.json["error"]
    assert (begun.status, error["code"], error["param"]) == (400, "context_length_exceeded", "messages")
    assert "leaves no room" in error["message"]
    assert local.requests == []


async def test_the_most_that_the_site_allows(site, ask):
    local = model(context_length=100_000)
    made = site(local, config="[documents]\ncontext_tokens = 300")
    async with living(made.app):
        await made.fill(LONG, size=400)
        begun = await ask(made, "chat", "Which gasket seals the pump P-1?", outstation={"max_num_results": 20})
    told = local.requests[0].messages[-1]["content"]
    assert len(told) // LETTERS_A_TOKEN <= 310
    results = begun.json["outstation"]["documents"]["results"]
    given = [one["number"] for one in results if one["given"]]
    assert 1 <= len(given) < len(results)
    assert len(results) - len(given) > 1
    assert f"no room for {len(results) - len(given)} passages" in begun.headers["x-outstation-reason"]


async def test_what_was_searched_for_before_is_told_to_no_model(site, ask, connect):
    local = model()
    made = site(local)
    call = {"type": "file_search_call", "status": "completed", "queries": ["a"], "results": [
        {"file_id": "f", "filename": "n", "score": 1, "attributes": {}, "text": "SECRET"}]}  # fmt: skip
    said = {"role": "assistant", "content": "Yes."}
    async with living(made.app):
        await made.fill(MANUAL)
        user = {"role": "user", "content": "Hi"}
        begun = await ask(made, "response", body={"model": "auto", "input": [call, said, user]})
        assert begun.status == 200, begun.body
        async with connect(made.app) as client:
            kept = (await client.get(f"/v1/responses/{begun.json['id']}/input_items?order=asc")).json()["data"]
    assert [item["type"] for item in kept] == ["file_search_call", "message", "message"]
    assert kept[0]["id"].startswith("fs_")
    (request,) = local.requests
    assert [message["role"] for message in request.messages] == ["assistant", "user"]
    assert "SECRET" not in str(request)


async def test_the_metrics_know_who_answered(site, ask, connect):
    made = site(model())
    async with living(made.app):
        await made.fill(MANUAL)
        await ask(made)
        await ask(made, "response", OTHER)
        async with connect(made.app) as client:
            told = (await client.get("/metrics")).text
    lines = [line for line in told.splitlines() if "requests_total{" in line and "/v1/" in line]
    assert len(lines) == 2, lines
    assert all(line.endswith((" 1", " 1.0")) for line in lines), lines


async def test_an_answer_that_breaks_off(site, ask, connect):
    local = model()
    local.script = lambda _: [Chunk(0, "It is a gasket of 45 mm"), EngineFailed("It died.")]
    made = site(local)
    async with living(made.app):
        await made.fill(MANUAL)
        begun = await ask(made, "response", stream=True)
        last = events_of(begun.body)[-1]
        async with connect(made.app) as client:
            kept = await client.get(f"/v1/responses/{last['response']['id']}")
        chat = await ask(made, stream=True)
    assert last["type"] == "response.failed"
    assert [(item["type"], item["status"]) for item in last["response"]["output"]] == [
        ("file_search_call", "completed"),
        ("message", "incomplete"),
    ]
    assert kept.status_code == 404
    assert b"[DONE]" not in chat.body
    assert b"engine_failed" in chat.body


async def test_the_usage_comes_after_what_is_said_of_the_documents(site, ask):
    made = site(model())
    async with living(made.app):
        await made.fill(MANUAL)
        begun = await ask(made, stream=True, stream_options={"include_usage": True}, n=2)
    *before, last = chunks_of(begun.body)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 2
    told = [chunk for chunk in before if "outstation" in chunk]
    assert [chunk["choices"][0]["finish_reason"] for chunk in told] == ["stop", "stop"]
    assert [{one["choice"] for one in chunk["outstation"]["citations"]} for chunk in told] == [{0}, {1}]
    assert all(chunk["usage"] is None for chunk in before)
