"""`/v1/rerank`: the order, what comes back with it, and what is refused."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.fake import FakeBackend, Step
from backends.types import Chunk, Request, Usage
from gateway.routes.rerank import _body
from gateway.schemas.rerank import MOST_DOCUMENTS
from gateway.schemas.task_responses import Reranked

pytestmark = pytest.mark.anyio
PATH = "/v1/rerank"
PUMPS = {"model": "r", "query": "leak", "documents": ["a pump", {"text": "it leaks", "page": 3}, "a leak, twice"]}


def lengths(request: Request) -> Sequence[Step]:
    """The longer the better, between 0 and 1."""
    chunks = [Chunk(i, finish_reason="stop", wire={"score": len(p) / 1000}) for i, p in enumerate(request.prompts)]
    return [*chunks, Usage(9, 0)]


def reranker() -> FakeBackend:
    return FakeBackend("r", lengths, kinds=frozenset({"rerank"}), capabilities=frozenset())


async def test_the_best_comes_first(make_app, exchange):
    backend = reranker()
    begun = exchange(make_app(backend), PUMPS, PATH)
    await begun.end()
    Reranked.model_validate_json(begun.body)
    assert begun.json["results"] == [
        {"index": 2, "relevance_score": 0.013},
        {"index": 1, "relevance_score": 0.008},
        {"index": 0, "relevance_score": 0.006},
    ]
    assert begun.json["model"] == "r"
    assert begun.json["usage"] == {"prompt_tokens": 9, "total_tokens": 9}
    assert begun.json["meta"] == {"tokens": {"input_tokens": 9}}
    assert begun.headers["x-outstation-route"] == "local/r"
    (request,) = backend.requests
    assert (request.kind, request.prompts) == ("rerank", ("a pump", "it leaks", "a leak, twice"))
    assert request.options == {"query": "leak", "truncate": False}


async def test_documents_come_back_as_they_came(make_app, exchange):
    begun = exchange(make_app(reranker()), {**PUMPS, "top_n": 2, "return_documents": True, "truncate": True}, PATH)
    await begun.end()
    Reranked.model_validate_json(begun.body)
    assert [result["document"] for result in begun.json["results"]] == [
        {"text": "a leak, twice"},
        {"text": "it leaks", "page": 3},
    ]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.none() | st.integers(1, 30))
def test_the_order_is_stable_and_nothing_is_lost(scores, top_n):
    results = Reranked.model_validate_json(
        _body(top_n, (), "r", [{"score": score} for score in scores], Usage(1, 0))
    ).results
    expected = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:top_n]
    assert [result.index for result in results] == expected


WRONG = [
    ({"query": None}, "query"),
    ({"query": ""}, "query"),
    ({"query": ["x"]}, "query"),
    ({"documents": None}, "documents"),
    ({"documents": []}, "documents"),
    ({"documents": "x"}, "documents"),
    ({"documents": ["x", ""]}, "documents[1]"),
    ({"documents": ["x", 1]}, "documents[1]"),
    ({"documents": [{"title": "x"}]}, "documents[0].text"),
    ({"documents": ["x"] * (MOST_DOCUMENTS + 1)}, "documents"),
    ({"top_n": 0}, "top_n"),
    ({"top_n": "1"}, "top_n"),
    ({"return_documents": 1}, "return_documents"),
    ({"model": None}, "model"),
    ({"model": "m"}, "model"),
]


@pytest.mark.parametrize(("fields", "param"), WRONG, ids=[str(fields)[:50] for fields, _ in WRONG])
async def test_wrong_requests(make_app, exchange, fields, param):
    backend = reranker()
    begun = exchange(make_app(FakeBackend("m"), backend), {**PUMPS, **fields}, PATH)
    await begun.end()
    assert begun.status == 400
    assert begun.json["error"]["param"] == param
    assert begun.headers["x-outstation-route"] == "none"
    assert backend.requests == []
