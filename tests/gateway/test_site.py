"""Health, readiness, metrics, status, and the API's own description."""

import asyncio
import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from backends.errors import BadModelFile, ModelNotFound, Unavailable
from backends.fake import FakeBackend, say
from gateway.config import ConfigError
from gateway.state import Site

pytestmark = pytest.mark.anyio
BODY = {"model": "auto", "messages": [{"role": "user", "content": "x"}]}


async def test_health_and_head(make_app, connect):
    client = connect(make_app())
    assert (await client.get("/healthz")).json() == {"status": "ok"}
    assert (await client.head("/healthz")).status_code == 200


@pytest.mark.parametrize(("status", "ready"), [("ready", True), ("stopped", True), ("failed", False)])
async def test_readiness_follows_the_default_model(make_app, connect, status, ready):
    app = make_app(
        FakeBackend("other", status="ready"), FakeBackend("m", status=status), config='[routing]\ndefault = "m"'
    )
    answer = await connect(app).get("/readyz")
    assert (answer.status_code == 200) is ready
    if not ready:
        assert "m failed" in answer.json()["reasons"][0]


async def test_a_model_that_loads_at_start_is_waited_for():
    loaded = asyncio.Event()
    backend = FakeBackend("m", status="starting", start_step=loaded)
    site = Site([backend], {}, "m")
    site.start()
    await asyncio.sleep(0)
    assert site.not_ready() == ["m is loading"]
    loaded.set()
    await asyncio.sleep(0.01)
    backend.status = "ready"
    assert site.not_ready() == []
    backend.status = "stopped"  # unloaded by its keep-alive: the next request loads it again
    assert site.not_ready() == []
    await site.close()
    assert backend.closed


async def test_a_model_that_does_not_start_leaves_the_gateway_up():
    site = Site([FakeBackend("m", status="failed", start_step=BadModelFile("Its magic is wrong."))], {}, "m")
    site.start()
    await asyncio.sleep(0.01)
    assert "failed" in site.not_ready()[0]
    await site.close()


async def test_no_model_is_not_ready():
    assert "outstation pull" in Site([], {}, "m").not_ready()[0]


@pytest.mark.parametrize("config", ['[routing]\ndefault = "gone"', '[aliases]\nx = "gone"'])
async def test_a_name_that_leads_nowhere_stops_the_start(make_app, config):
    with pytest.raises(ConfigError, match="no model 'gone' here, only m"):
        make_app(FakeBackend("m"), config=config)


async def test_a_model_that_was_pulled_since_the_start_is_served():
    store = {}
    site = Site([], {}, "m", store.get)
    assert site.names() == []
    assert site.not_ready()
    store["m"] = FakeBackend("m")
    assert site.resolve("auto").routes[0].model == "m"
    assert site.names() == ["m", "auto"]
    store["n"] = FakeBackend("n")
    assert site.resolve("n").routes[0].name == "local/n"
    with pytest.raises(ModelNotFound):
        site.resolve("o")


async def test_status_is_every_models_state(make_app, connect):
    status = (await connect(make_app(FakeBackend("a"), FakeBackend("b"))).get("/outstation/status")).json()
    assert [model["name"] for model in status["models"]] == ["a", "b"]
    assert {"status", "kv_cells_used", "decode_rate", "waiting", "running"} <= set(status["models"][0])
    assert status["uptime_s"] >= 0
    assert status["version"]


def samples(text):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_metrics_book_each_request_once(make_app, connect):
    client = connect(make_app(FakeBackend("m", say("a", "b", "c", prompt_tokens=7, cached_tokens=5))))
    for stream in (False, True):
        await client.post("/v1/chat/completions", json={**BODY, "stream": stream})
    await client.post("/v1/chat/completions", json={**BODY, "model": "none"})
    await client.get("/somewhere/else")
    seen = samples((await client.get("/metrics")).text)
    chat = ("endpoint", "/v1/chat/completions")
    assert seen["outstation_requests_total", chat, ("model", "m"), ("outcome", "success")] == 2
    assert seen["outstation_requests_total", chat, ("model", ""), ("outcome", "error")] == 1
    assert seen["outstation_requests_total", ("endpoint", "other"), ("model", ""), ("outcome", "error")] == 1
    for kind, count in (("prompt", 14), ("cached", 10), ("completion", 6)):
        assert seen["outstation_tokens_total", ("kind", kind), ("model", "m")] == count
    assert seen["outstation_ttft_seconds_count", ("model", "m")] == 2
    assert seen["outstation_inter_token_seconds_count", ("model", "m")] == 4
    assert seen["outstation_request_seconds_count", ("model", "m")] == 2
    assert seen["outstation_model_ready", ("model", "m")] == 1


async def test_a_clients_nonsense_makes_no_new_series(make_app, connect):
    client = connect(make_app())
    before = len(samples((await client.get("/metrics")).text))
    for number in range(5):
        await client.post("/v1/chat/completions", json={**BODY, "model": f"none-{number}"})
        await client.get(f"/nowhere/{number}")
        await client.get(f"/v1/models/none-{number}")
    assert len(samples((await client.get("/metrics")).text)) - before <= 8


async def test_the_openapi_document_is_whole(make_app, connect):
    client = connect(make_app())
    document = (await client.get("/openapi.json")).json()
    assert set(document["paths"]) == {
        "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/rerank", "/v1/moderations",
        "/v1/classify", "/v1/messages", "/v1/messages/count_tokens",
        "/v1/responses", "/v1/responses/{id}", "/v1/responses/{id}/input_items", "/v1/responses/{id}/cancel",
        "/v1/conversations", "/v1/conversations/{id}", "/v1/conversations/{id}/items",
        "/v1/conversations/{id}/items/{item}",
        "/v1/files", "/v1/files/{id}", "/v1/files/{id}/content",
        "/v1/vector_stores", "/v1/vector_stores/{id}", "/v1/vector_stores/{id}/search",
        "/v1/vector_stores/{id}/files", "/v1/vector_stores/{id}/files/{file}",
        "/v1/vector_stores/{id}/files/{file}/content",
        "/v1/vector_stores/{id}/file_batches", "/v1/vector_stores/{id}/file_batches/{batch}",
        "/v1/vector_stores/{id}/file_batches/{batch}/cancel", "/v1/vector_stores/{id}/file_batches/{batch}/files",
        "/v1/outstation/vector_stores/{id}/reindex",
        "/v1/models", "/v1/models/{id}",
        "/healthz", "/readyz", "/metrics", "/outstation/status", "/v1/outstation/explain",
    }  # fmt: skip
    schemas = document["components"]["schemas"]

    def refs(node):
        if isinstance(node, dict):
            if "$ref" in node:
                yield node["$ref"].removeprefix("#/components/schemas/")
            for value in node.values():
                yield from refs(value)
        elif isinstance(node, list):
            for value in node:
                yield from refs(value)

    assert set(refs(document)) <= set(schemas)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            declared = {parameter["name"] for parameter in operation.get("parameters", [])}
            assert declared == set(re.findall(r"{(\w+)}", path))
    assert {"temperature", "messages", "logit_bias"} <= set(schemas["ChatRequest"]["properties"])


async def test_the_docs_page_needs_nothing_from_elsewhere(make_app, connect):
    page = await connect(make_app()).get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "http://" not in page.text
    assert "https://" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_auto_is_one_model_for_each_other_task_and_language_models_for_the_rest():
    writer, embedder = FakeBackend("w"), FakeBackend("e", kinds=frozenset({"embedding"}))
    site = Site([embedder, writer], {}, "w", defaults={"embedding": "e"})
    assert [route.model for route in site.resolve("auto").routes] == ["w"]
    assert [route.model for route in site.resolve("auto", "embedding").routes] == ["e"]
    with pytest.raises(Unavailable, match="task \\(rerank\\)"):
        site.resolve("auto", "rerank")
    with pytest.raises(Unavailable, match="No language model"):
        Site([embedder], {}, "w").resolve("auto")
