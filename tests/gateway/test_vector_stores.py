"""`/v1/vector_stores`: the official SDK against a scripted embedder, bad input, and what a key may do."""

from __future__ import annotations

import openai
import pytest

from gateway.schemas import document_objects as shapes
from tests.gateway.document_site import DocumentSite, site_maker

pytestmark = pytest.mark.anyio
PATH = "/v1/vector_stores"
PUMP, VALVE, MOTOR = "The pump leaks at its seal.", "The valve is stuck.", "The motor hums, says its bearing."


@pytest.fixture
def make_site(make_app, connect, tmp_path):
    return site_maker(make_app, connect, tmp_path)


@pytest.fixture
def site(make_site) -> DocumentSite:
    return make_site()


@pytest.fixture
def sdk(site) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url="http://localhost:8484/v1", api_key="none", http_client=site.client, max_retries=0
    )


async def test_a_store_is_made_described_changed_and_removed(site, sdk):
    ids = [await site.upload(text) for text in (PUMP, VALVE)]
    made = await sdk.vector_stores.create(
        name="pumps",
        description="All of them",
        file_ids=[*ids, ids[0]],
        metadata={"site": "north"},
        expires_after={"anchor": "last_active_at", "days": 3},
        extra_body={"outstation": {"data_class": "internal", "embedder": "other"}},
    )
    assert (made.name, made.status, made.file_counts.total, made.file_counts.in_progress) == (
        "pumps",
        "in_progress",
        2,
        2,
    )
    assert made.expires_at == made.last_active_at + 3 * 86_400
    assert made.model_extra["outstation"] == {
        "data_class": "internal",
        "data_classes": ["internal"],
        "embedder": "other",
        "reindex": None,
    }
    assert made.model_extra["description"] == "All of them"
    assert await site.read_in() == 2
    ready = await sdk.vector_stores.retrieve(made.id)
    assert (ready.status, ready.file_counts.completed) == ("completed", 2)
    assert ready.usage_bytes > 0
    changed = await sdk.vector_stores.update(made.id, name="seals", metadata=None, expires_after=None)
    assert (changed.name, changed.metadata, changed.expires_after, changed.expires_at) == ("seals", {}, None, None)
    assert changed.model_extra["description"] == "All of them"
    gone = await sdk.vector_stores.delete(made.id)
    assert (gone.id, gone.object, gone.deleted) == (made.id, "vector_store.deleted", True)
    assert [file.id async for file in sdk.files.list()] == ids[::-1]


async def test_a_store_may_be_made_of_nothing(site, sdk):
    made = await sdk.vector_stores.create()
    assert (made.name, made.status, made.expires_after, made.metadata) == ("", "completed", None, {})
    assert made.model_extra["outstation"]["data_class"] == "documents"
    nameless = await site.client.post(PATH, json={"name": None, "metadata": None, "file_ids": None})
    assert nameless.status_code == 200
    assert (await site.client.post(PATH)).status_code == 200


async def test_lists_with_the_sdks_own_iterator(site, sdk):
    ids = [(await sdk.vector_stores.create(name=f"{n}")).id for n in range(5)]
    assert [one.id async for one in sdk.vector_stores.list(limit=2)] == ids[::-1]
    assert [one.id async for one in sdk.vector_stores.list(limit=2, order="asc")] == ids
    page = await sdk.vector_stores.list(limit=2, before=ids[1])
    assert [one.id for one in page.data] == [ids[3], ids[2]]
    files = [await site.upload(f"{PUMP} {n}") for n in range(3)]
    batch = await sdk.vector_stores.file_batches.create(ids[0], file_ids=files)
    assert [one.id async for one in sdk.vector_stores.files.list(ids[0], limit=1)] == files[::-1]
    assert [one.id async for one in sdk.vector_stores.files.list(ids[0], filter="completed")] == []
    listed = sdk.vector_stores.file_batches.list_files(batch.id, vector_store_id=ids[0], limit=2, order="asc")
    assert [one.id async for one in listed] == files


async def test_files_in_a_store(site, sdk):
    store = (await sdk.vector_stores.create()).id
    id_ = await site.upload(f"{PUMP}\n\n{VALVE}", "manual.txt")
    added = await sdk.vector_stores.files.create(
        store,
        file_id=id_,
        attributes={"site": "north", "year": 2023, "wet": True},
        chunking_strategy={"type": "static", "static": {"max_chunk_size_tokens": 200, "chunk_overlap_tokens": 100}},
    )
    assert (added.id, added.status, added.last_error) == (id_, "in_progress", None)
    assert added.chunking_strategy.static.max_chunk_size_tokens == 200
    assert added.model_extra["outstation"]["filename"] == "manual.txt"
    await site.read_in()
    read = await sdk.vector_stores.files.retrieve(id_, vector_store_id=store)
    assert (read.status, read.attributes) == ("completed", {"site": "north", "year": 2023, "wet": True})
    text = await sdk.vector_stores.files.content(id_, vector_store_id=store)
    assert "".join(one.text for one in text.data) == f"{PUMP}\n\n{VALVE}"
    changed = await sdk.vector_stores.files.update(id_, vector_store_id=store, attributes={"site": "south"})
    assert changed.attributes == {"site": "south"}
    assert (await sdk.vector_stores.files.update(id_, vector_store_id=store, attributes=None)).attributes == {}
    gone = await sdk.vector_stores.files.delete(id_, vector_store_id=store)
    assert (gone.id, gone.object, gone.deleted) == (id_, "vector_store.file.deleted", True)
    assert (await sdk.files.retrieve(id_)).id == id_


async def test_by_default_files_are_cut_as_the_configuration_says(make_site):
    site = make_site("[documents]\nchunk_tokens = 300\nchunk_overlap_tokens = 50")
    store, id_ = await site.store(), await site.upload(PUMP)
    for given in ({}, {"chunking_strategy": {"type": "auto"}}):
        added = (await site.client.post(f"{PATH}/{store}/files", json={"file_id": id_, **given})).json()
        assert added["chunking_strategy"] == {
            "type": "static",
            "static": {"max_chunk_size_tokens": 300, "chunk_overlap_tokens": 50},
            "outstation": {"by_structure": True},
        }


async def test_batches(site, sdk):
    store = (await sdk.vector_stores.create()).id
    one, two, three = [await site.upload(text) for text in (PUMP, VALVE, MOTOR)]
    batch = await sdk.vector_stores.file_batches.create(store, file_ids=[one, two], attributes={"site": "north"})
    assert (batch.status, batch.file_counts.in_progress, batch.object) == ("in_progress", 2, "vector_store.files_batch")
    await site.read_in()
    done = await sdk.vector_stores.file_batches.retrieve(batch.id, vector_store_id=store)
    assert (done.status, done.file_counts.completed) == ("completed", 2)
    assert (await sdk.vector_stores.files.retrieve(two, vector_store_id=store)).attributes == {"site": "north"}
    own = await sdk.vector_stores.file_batches.create(
        store, files=[{"file_id": three, "attributes": {"site": "south"}}, {"file_id": one}]
    )
    ended = await sdk.vector_stores.file_batches.cancel(own.id, vector_store_id=store)
    assert (ended.status, ended.file_counts.cancelled) == ("cancelled", 2)
    assert await site.read_in() == 0
    assert (await sdk.vector_stores.files.retrieve(three, vector_store_id=store)).attributes == {"site": "south"}


async def test_a_search(site, sdk):
    store = await site.store(PUMP, VALVE, MOTOR)
    await site.read_in()
    found = await sdk.vector_stores.search(store, query="Why does the motor hum?", max_num_results=2)
    assert found.data[0].content[0].text == MOTOR
    assert len(found.data) <= 2
    assert found.data[0].filename == "manual.txt"
    scores = [one.score for one in found.data]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
    several = await sdk.vector_stores.search(store, query=["motor bearing", "pump seal"], rewrite_query=True)
    assert {one.content[0].text for one in several.data[:2]} == {MOTOR, PUMP}
    assert several.model_extra["search_query"] == ["motor bearing", "pump seal"]
    strict = await sdk.vector_stores.search(
        store, query="motor", ranking_options={"ranker": "none", "score_threshold": 1.0}
    )
    assert strict.data == []


async def test_a_search_among_some_of_the_files(site, sdk):
    store = (await sdk.vector_stores.create()).id
    ids = [await site.upload(f"{PUMP} Unit {n}.") for n in range(4)]
    files = [{"file_id": id_, "attributes": {"unit": n, "wet": n % 2 == 0}} for n, id_ in enumerate(ids)]
    await sdk.vector_stores.file_batches.create(store, files=files)
    await site.read_in()

    async def found(filters) -> set[int]:
        results = await sdk.vector_stores.search(store, query="the pump", filters=filters)
        return {ids.index(one.file_id) for one in results.data}

    assert await found({"type": "gte", "key": "unit", "value": 2}) == {2, 3}
    assert await found({"type": "in", "key": "unit", "value": [0, 3]}) == {0, 3}
    both = [{"type": "eq", "key": "wet", "value": True}, {"type": "ne", "key": "unit", "value": 0}]
    assert await found({"type": "and", "filters": both}) == {2}


async def test_the_shapes_are_those_that_are_described(site):
    get, post = site.client.get, site.client.post
    store = await site.store(PUMP, VALVE)
    await site.read_in()
    listed = shapes.VectorStoreList.model_validate_json((await get(PATH)).content)
    assert (listed.first_id, listed.last_id, listed.has_more) == (store, store, False)
    shapes.VectorStoreObject.model_validate_json((await get(f"{PATH}/{store}")).content)
    files = shapes.VectorStoreFileList.model_validate_json((await get(f"{PATH}/{store}/files")).content)
    id_ = files.data[0].id
    content = await get(f"{PATH}/{store}/files/{id_}/content")
    shapes.VectorStoreFileContent.model_validate_json(content.content)
    batch = (await post(f"{PATH}/{store}/file_batches", json={"file_ids": [id_]})).content
    batch_id = shapes.FileBatchObject.model_validate_json(batch).id
    in_batch = await get(f"{PATH}/{store}/file_batches/{batch_id}/files")
    shapes.VectorStoreFileList.model_validate_json(in_batch.content)
    for path in (f"files/{id_}", f"file_batches/{batch_id}"):
        assert int((await get(f"{PATH}/{store}/{path}")).headers["openai-poll-after-ms"]) < 1000
    await site.read_in()
    found = await post(f"{PATH}/{store}/search", json={"query": "pump"})
    assert shapes.SearchResults.model_validate_json(found.content).data
    removed = await site.client.delete(f"{PATH}/{store}/files/{id_}")
    shapes.DeletedVectorStoreFile.model_validate_json(removed.content)
    shapes.DeletedVectorStore.model_validate_json((await site.client.delete(f"{PATH}/{store}")).content)


async def test_a_reindex_shows_how_far_it_is(site):
    store = await site.store(PUMP, VALVE)
    await site.read_in()
    path = f"/v1/outstation{PATH.removeprefix('/v1')}/{store}/reindex"
    begun = (await site.client.post(path, json={"model": "other"})).json()
    assert begun["outstation"]["embedder"] == "e"
    assert begun["outstation"]["reindex"] == {"embedder": "other", "done": 0, "total": 2, "failed": 0}
    await site.read_in()
    half = (await site.client.get(f"{PATH}/{store}")).json()["outstation"]["reindex"]
    assert (half["done"], half["total"]) == (2, 2)
    await site.app.shared.library.run(lambda kept: kept.stores.finish_rebuild(store))
    after = (await site.client.get(f"{PATH}/{store}")).json()["outstation"]
    assert (after["embedder"], after["reindex"]) == ("other", None)
    unknown = await site.client.post(path, json={"model": "nobody"})
    assert unknown.status_code == 404
    assert unknown.json()["error"]["param"] == "model"


async def test_a_store_whose_time_is_over(site):
    store, id_ = await site.store(expires_after={"anchor": "last_active_at", "days": 1}), await site.upload(PUMP)

    def age(kept) -> None:
        with kept._engine.write() as cursor:
            cursor.run("UPDATE stores SET last_active = 0")
        assert kept.stores.expire() == [store]

    await site.app.shared.library.run(age)
    assert (await site.client.get(f"{PATH}/{store}")).json()["status"] == "expired"
    for path, body in (
        (f"{PATH}/{store}/search", {"query": "pump"}),
        (f"{PATH}/{store}/files", {"file_id": id_}),
        (f"/v1/outstation/vector_stores/{store}/reindex", {}),
    ):
        answer = await site.client.post(path, json=body)
        assert answer.status_code == 400
        assert "expired" in answer.json()["error"]["message"]


def static(size: object, overlap: object) -> dict[str, object]:
    return {"type": "static", "static": {"max_chunk_size_tokens": size, "chunk_overlap_tokens": overlap}}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"name": 7}, "name"),
        ({"name": "x" * 513}, "name"),
        ({"file_ids": "file-1"}, "file_ids"),
        ({"file_ids": [""]}, "file_ids[0]"),
        ({"file_ids": ["file-1"] * 501}, "file_ids"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"metadata": {f"{n}": "" for n in range(17)}}, "metadata"),
        ({"expires_after": {"anchor": "created_at", "days": 1}}, "expires_after.anchor"),
        ({"expires_after": {"anchor": "last_active_at", "days": 366}}, "expires_after.days"),
        ({"expires_after": {"anchor": "last_active_at", "days": True}}, "expires_after.days"),
        ({"chunking_strategy": {"type": "clever"}}, "chunking_strategy.type"),
        ({"chunking_strategy": {"type": "static"}}, "chunking_strategy.static"),
        ({"chunking_strategy": static(99, 0)}, "chunking_strategy.static.max_chunk_size_tokens"),
        ({"chunking_strategy": static(4097, 0)}, "chunking_strategy.static.max_chunk_size_tokens"),
        ({"chunking_strategy": static(800, 401)}, "chunking_strategy.static.chunk_overlap_tokens"),
        ({"chunking_strategy": static(800, -1)}, "chunking_strategy.static.chunk_overlap_tokens"),
        ({"outstation": {"data_class": "No Class"}}, "outstation.data_class"),
        ({"outstation": {"embeder": "e"}}, "outstation.embeder"),
        ({"outstation": {"embedder": "m"}}, "outstation.embedder"),
    ],
)
async def test_wrong_stores(site, body, param):
    answer = await site.client.post(PATH, json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    assert (await site.client.get(PATH)).json()["data"] == []


async def test_an_embedder_or_a_file_that_is_not_there(site):
    unknown = await site.client.post(PATH, json={"outstation": {"embedder": "nobody"}})
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (404, "outstation.embedder")
    missing = await site.client.post(PATH, json={"file_ids": [await site.upload(PUMP), "file-unknown"]})
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert (await site.client.get(PATH)).json()["data"] == []


async def test_without_an_embedder_there_is_no_store_but_files(make_app, connect):
    client = connect(make_app())
    made = await client.post(PATH, json={})
    assert made.status_code == 503
    assert "embedding" in made.json()["error"]["message"]
    assert (await client.get(PATH)).json()["data"] == []


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("files", {}, "file_id"),
        ("files", {"file_id": "ID", "attributes": ["a"]}, "attributes"),
        ("files", {"file_id": "ID", "attributes": {"a": None}}, "attributes.a"),
        ("files", {"file_id": "ID", "attributes": {"a": "x" * 513}}, "attributes.a"),
        ("files", {"file_id": "ID", "attributes": {"x" * 65: 1}}, "attributes"),
        ("files", {"file_id": "ID", "attributes": {f"{n}": n for n in range(17)}}, "attributes"),
        ("files/ID", {}, "attributes"),
        ("files/ID", {"attributes": {"a": {}}}, "attributes.a"),
        ("file_batches", {}, None),
        ("file_batches", {"file_ids": []}, "file_ids"),
        ("file_batches", {"file_ids": ["ID"], "files": [{"file_id": "ID"}]}, None),
        ("file_batches", {"file_ids": ["ID"] * 2001}, "file_ids"),
        ("file_batches", {"files": [{"file_id": "ID", "attributes": {"a": []}}]}, "files[0].attributes.a"),
        ("file_batches", {"files": [{"file_id": "ID", "chunking_strategy": static(800, 500)}]}, None),
        ("search", {}, "query"),
        ("search", {"query": ""}, "query"),
        ("search", {"query": " \n"}, "query"),
        ("search", {"query": []}, "query"),
        ("search", {"query": ["a"] * 11}, "query"),
        ("search", {"query": ["a", ""]}, "query[1]"),
        ("search", {"query": "x" * 10_001}, "query"),
        ("search", {"query": "a", "max_num_results": 0}, "max_num_results"),
        ("search", {"query": "a", "max_num_results": 51}, "max_num_results"),
        ("search", {"query": "a", "ranking_options": {"ranker": "best"}}, "ranking_options.ranker"),
        ("search", {"query": "a", "ranking_options": {"score_threshold": 1.1}}, "ranking_options.score_threshold"),
        ("search", {"query": "a", "filters": []}, "filters"),
        ("search", {"query": "a", "filters": {"type": "like", "key": "a", "value": 1}}, "filters.type"),
        ("search", {"query": "a", "filters": {"type": "and", "filters": [{"type": "eq"}]}}, "filters.filters[0].key"),
        ("search", {"query": "a", "filters": {"type": "in", "key": "a", "value": "b"}}, "filters.value"),
    ],
)
async def test_wrong_requests_to_a_store(site, path, body, param):
    store, id_ = await site.store(PUMP), await site.upload(PUMP)
    text = site.client.build_request("POST", "/", json=body).content.replace(b'"ID"', f'"{id_}"'.encode())
    answer = await site.client.post(f"{PATH}/{store}/{path.replace('ID', id_)}", content=text)
    assert answer.status_code == 400, answer.text
    if param:
        assert answer.json()["error"]["param"] == param


async def test_a_batch_with_a_file_that_is_not_there_is_not_begun(site):
    store, id_ = await site.store(), await site.upload(PUMP)
    answer = await site.client.post(f"{PATH}/{store}/file_batches", json={"file_ids": [id_, "file-unknown"]})
    assert (answer.status_code, answer.json()["error"]["param"]) == (404, "file_id")
    assert (await site.client.get(f"{PATH}/{store}/files")).json()["data"] == []


@pytest.mark.parametrize("path", ["", "/{store}/files", "/{store}/file_batches/{batch}/files"])
async def test_absurd_questions_for_a_list(site, path):
    store, id_ = await site.store(), await site.upload(PUMP)
    batch = (await site.client.post(f"{PATH}/{store}/file_batches", json={"file_ids": [id_]})).json()["id"]
    for query in ("limit=abc", "limit=0", "limit=101", "order=up", "after=x", "before=%00"):
        answer = await site.client.get(f"{PATH}{path.format(store=store, batch=batch)}?{query}")
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["param"] == query.partition("=")[0]
    assert (await site.client.get(f"{PATH}/{store}/files?filter=lost")).status_code == 400


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "{id}"),
        ("POST", "{id}"),
        ("DELETE", "{id}"),
        ("POST", "{id}/search"),
        ("POST", "{id}/files"),
        ("GET", "{id}/files"),
        ("GET", "{store}/files/{id}"),
        ("POST", "{store}/files/{id}"),
        ("DELETE", "{store}/files/{id}"),
        ("GET", "{store}/files/{id}/content"),
        ("POST", "{id}/file_batches"),
        ("GET", "{store}/file_batches/{id}"),
        ("POST", "{store}/file_batches/{id}/cancel"),
        ("GET", "{store}/file_batches/{id}/files"),
        ("POST", "../outstation/vector_stores/{id}/reindex"),
    ],
)
async def test_what_is_not_there(site, method, path):
    store, file = await site.store(), await site.upload(PUMP)
    body = {"query": "a", "file_id": file, "file_ids": [file], "attributes": {}} if method == "POST" else None
    for id_ in ("unknown", "%00", "x" * 200):
        answer = await site.client.request(method, f"{PATH}/{path.format(id=id_, store=store)}", json=body)
        assert answer.status_code == 404, answer.text
        assert answer.json()["error"]["code"] == "not_found"


KEYS = "".join(
    f'[[keys]]\nname = "{right}"\nenv = "KEY_{right}"\ndocuments = "{right}"\n' for right in ("manage", "read", "none")
)


@pytest.mark.parametrize("right", ["manage", "read", "none"])
async def test_a_key_may_do_what_it_has_the_right_to(make_site, right):
    env = {f"KEY_{name}": f"secret-{name}" for name in ("manage", "read", "none")}
    site = make_site(KEYS, env, authorization="Bearer secret-manage")
    store = await site.store(PUMP)
    file = (await site.client.get(f"{PATH}/{store}/files")).json()["data"][0]["id"]
    batch = (await site.client.post(f"{PATH}/{store}/file_batches", json={"file_ids": [file]})).json()["id"]
    site.client.headers["authorization"] = f"Bearer secret-{right}"
    reads = [
        ("GET", PATH, None),
        ("GET", f"{PATH}/{store}", None),
        ("POST", f"{PATH}/{store}/search", {"query": "pump"}),
        ("GET", f"{PATH}/{store}/files", None),
        ("GET", f"{PATH}/{store}/files/{file}", None),
        ("GET", f"{PATH}/{store}/files/{file}/content", None),
        ("GET", f"{PATH}/{store}/file_batches/{batch}", None),
        ("GET", f"{PATH}/{store}/file_batches/{batch}/files", None),
    ]
    changes = [
        ("POST", PATH, {}),
        ("POST", f"{PATH}/{store}", {"name": "x"}),
        ("POST", f"{PATH}/{store}/files", {"file_id": file}),
        ("POST", f"{PATH}/{store}/files/{file}", {"attributes": {}}),
        ("POST", f"{PATH}/{store}/file_batches", {"file_ids": [file]}),
        ("POST", f"{PATH}/{store}/file_batches/{batch}/cancel", None),
        ("POST", f"/v1/outstation/vector_stores/{store}/reindex", {}),
        ("DELETE", f"{PATH}/{store}/files/{file}", None),
        ("DELETE", f"{PATH}/{store}", None),
    ]
    for may, requests in ((right != "none", reads), (right == "manage", changes)):
        for method, path, body in requests:
            answer = await site.client.request(method, path, json=body)
            assert answer.status_code == (200 if may else 403), f"{method} {path}: {answer.text}"
            if not may:
                assert answer.json()["error"]["code"] == "documents_forbidden"
