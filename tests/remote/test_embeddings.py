"""A provider's vectors: what is sent, what comes back, what is no answer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import BackendError, EngineFailed, InvalidRequest
from backends.openai_http import OpenAIBackend
from backends.remote.embeddings import events
from backends.remote.provider import Provider
from backends.remote.settings import ProviderSettings, RemoteModel
from backends.remote.transport import Transport
from backends.types import Chunk, Request, Usage
from tests.remote.conftest import Departures, answer
from tests.remote.fault_proxy import Act, FaultProxy, refusal

pytestmark = pytest.mark.anyio


def item(index: object, *numbers: float) -> dict[str, Any]:
    return {"object": "embedding", "index": index, "embedding": list(numbers)}


def body(*items: object, **more: object) -> dict[str, Any]:
    return {
        "object": "list",
        "data": list(items),
        "model": "x",
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
        **more,
    }


def says(payload: object) -> Act:
    return Act(body=(orjson.dumps(payload),))


def ask(*texts: str, **fields: object) -> Request:
    raw = {"model": "auto", "input": list(texts), **fields}
    return Request("req-1", "auto", "embedding", prompts=texts, raw=raw)


@pytest.fixture
async def embedder() -> Any:
    made: list[OpenAIBackend] = []

    def make(url: str) -> OpenAIBackend:
        row = RemoteModel("m", 512, kinds=frozenset({"embedding"}))
        provider = Provider(ProviderSettings("cloud", (url,), (row,)), Departures(), Transport())
        made.append(OpenAIBackend(provider, row))
        return made[-1]

    yield make
    for backend in made:
        await backend.close()


Maker = Callable[[str], OpenAIBackend]


async def test_the_body_goes_through_untouched_but_for_the_model(embedder: Maker) -> None:
    async with FaultProxy(usual=says(body(item(1, 3.5), item(0, 1.5), id="x", extra=[1]))) as proxy:
        backend = embedder(proxy.url)
        got = await answer(backend, ask("a", "b", dimensions=1, input_type="passage", new=1, outstation={"x": 1}))
    assert backend.kinds == {"embedding"}
    assert proxy.seen[0].path == "/v1/embeddings"
    assert proxy.seen[0].json == {
        "model": "m", "input": ["a", "b"], "dimensions": 1, "input_type": "passage", "new": 1,
    }  # fmt: skip
    assert got.error is None
    assert [(chunk.index, chunk.wire) for chunk in got.chunks] == [(0, {"embedding": [1.5]}), (1, {"embedding": [3.5]})]
    assert all(chunk.finish_reason == "stop" for chunk in got.chunks)
    assert got.usage == Usage(7, 0, wire={"extra": [1], "usage": {"prompt_tokens": 7, "total_tokens": 7}})


NO_ANSWER = {
    "too few": body(item(0, 1.0)),
    "too many": body(item(0, 1.0), item(1, 1.0), item(2, 1.0)),
    "one twice": body(item(0, 1.0), item(0, 1.0)),
    "another index": body(item(0, 1.0), item(2, 1.0)),
    "no index": body(item("0", 1.0), item("1", 1.0)),
    "empty": body(item(0), item(1)),
    "a word": body(item(0, 1.0), {"index": 1, "embedding": ["1"]}),
    "true": body(item(0, 1.0), item(1, True)),
    "no vector": body(item(0, 1.0), {"index": 1}),
    "no base64": body(item(0, 1.0), {"index": 1, "embedding": "äöü"}),
    "half a float": body(item(0, 1.0), {"index": 1, "embedding": "AAAAAAA="}),
    "no items": body("a", "b"),
    "no list": {"data": {"0": [1.0]}},
    "nothing": {},
}


@pytest.mark.parametrize("kind", NO_ANSWER)
async def test_what_is_no_answer(embedder: Maker, kind: str) -> None:
    async with FaultProxy(usual=says(NO_ANSWER[kind])) as proxy:
        got = await answer(embedder(proxy.url), ask("a", "b"))
    assert got.events == []
    assert isinstance(got.error, EngineFailed)
    assert got.error.code == "provider_garbage"


async def test_errors_are_translated_as_for_a_chat(embedder: Maker) -> None:
    async with FaultProxy(usual=refusal(400, "too long", param="input", code="context_length_exceeded")) as proxy:
        got = await answer(embedder(proxy.url), ask("a"))
    assert isinstance(got.error, InvalidRequest)
    assert (got.error.code, got.error.param) == ("context_length_exceeded", "input")


async def test_vectors_in_base64_and_without_an_index(embedder: Maker) -> None:
    items = [{"embedding": "AACAPw=="}, {"embedding": "AAAAQA=="}]
    async with FaultProxy(usual=says(body(*items, usage=None))) as proxy:
        got = await answer(embedder(proxy.url), ask("a", "b"))
    assert [chunk.wire["embedding"] for chunk in got.chunks if chunk.wire] == ["AACAPw==", "AAAAQA=="]
    assert got.usage.prompt_tokens > 0  # nobody counted: a guess


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(st.dictionaries(st.sampled_from(["data", "usage", "x"]), JSON), st.lists(JSON, max_size=3), st.integers(1, 3))
def test_any_json_is_vectors_or_a_clean_error(payload: dict[str, Any], vectors: list[Any], count: int) -> None:
    said = {"data": [{"embedding": vector} for vector in vectors], **payload}
    try:
        *chunks, usage = events(said, count, "cloud", 10)
    except BackendError:
        return
    assert isinstance(usage, Usage)
    assert len(chunks) == count
    for chunk in chunks:
        assert isinstance(chunk, Chunk) and chunk.wire is not None
        vector = chunk.wire["embedding"]
        assert isinstance(vector, str) or all(math.isfinite(number) for number in vector)
