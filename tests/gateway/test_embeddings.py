"""`/v1/embeddings`: the official SDK, what the model is asked, and what is refused before it is."""

from array import array
from base64 import b64encode
from collections.abc import Sequence

import openai
import pytest

from backends.errors import InvalidRequest
from backends.fake import FakeBackend, Step
from backends.types import Chunk, Request, Usage
from gateway.schemas.embeddings import MOST_INPUTS
from gateway.schemas.task_responses import EmbeddingList

pytestmark = pytest.mark.anyio
PATH = "/v1/embeddings"


def vector_of(index: int) -> list[float]:
    """Exact in float32."""
    return [index + 0.5, -0.25, 0.0]


def vectors(request: Request) -> Sequence[Step]:
    packed = [b64encode(array("f", vector_of(i)).tobytes()).decode() for i in range(request.choices)]
    # Whoever computes them together need not finish them in order.
    chunks = [Chunk(i, finish_reason="stop", wire={"embedding": one}) for i, one in enumerate(packed)]
    return [*reversed(chunks), Usage(4 * request.choices, 0)]


def embedder(name: str = "e") -> FakeBackend:
    return FakeBackend(name, vectors, kinds=frozenset({"embedding"}), capabilities=frozenset())


@pytest.fixture
def sdk(connect):
    return lambda app: openai.AsyncOpenAI(
        base_url="http://localhost:8484/v1", api_key="none", http_client=connect(app), max_retries=0
    )


@pytest.mark.parametrize("encoding", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}])
@pytest.mark.parametrize(
    ("given", "prompts"),
    [
        ("a pump", ("a pump",)),
        (["a", "b"], ("a", "b")),
        ([1, 2, 3], ((1, 2, 3),)),
        ([[1], [2, 3]], ((1,), (2, 3))),
    ],
)
async def test_each_shape_of_input_with_the_official_sdk(make_app, sdk, given, prompts, encoding):
    backend = embedder()
    raw = await sdk(make_app(FakeBackend("m"), backend)).embeddings.with_raw_response.create(
        model="e", input=given, **encoding
    )
    answer = raw.parse()
    assert backend.requests[0].prompts == prompts
    expected = [vector_of(i) for i in range(len(prompts))]
    if "encoding_format" in encoding:  # asked for by name, the SDK leaves it as it came
        EmbeddingList.model_validate_json(raw.content)
        if encoding["encoding_format"] == "base64":
            expected = [b64encode(array("f", one).tobytes()).decode() for one in expected]
    assert [one.embedding for one in answer.data] == expected
    assert [one.index for one in answer.data] == list(range(len(prompts)))
    assert (answer.model, answer.object) == ("e", "list")
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 4 * len(prompts)
    assert raw.headers["x-outstation-route"] == "local/e"
    assert raw.headers["x-outstation-attempts"] == "1"


async def test_floats_are_what_comes_without_an_encoding(make_app, exchange):
    begun = exchange(make_app(embedder()), {"model": "e", "input": "x"}, PATH)
    await begun.end()
    assert begun.json["data"] == [{"object": "embedding", "index": 0, "embedding": vector_of(0)}]


async def test_what_the_backend_is_asked(make_app, exchange):
    backend = embedder()
    app = make_app(backend, config='[aliases]\n"text-embedding-3-small" = "e"')
    for body in (
        {"model": "text-embedding-3-small", "input": "x", "dimensions": 2, "input_type": "search_query"},
        {"model": "local/e", "input": "x", "truncate": True, "input_type": "passage", "user": "u"},
        {"model": "e", "input": "x", "dimensions": None, "truncate": None, "encoding_format": None},
    ):
        begun = exchange(app, body, PATH)
        await begun.end()
        assert begun.status == 200
    assert [request.options for request in backend.requests] == [
        {"truncate": False, "dimensions": 2, "input_type": "query"},
        {"truncate": True, "input_type": "document"},
        {"truncate": False},
    ]
    assert {request.kind for request in backend.requests} == {"embedding"}


WRONG = [
    ({}, "input"),
    ({"input": ""}, "input"),
    ({"input": []}, "input"),
    ({"input": 7}, "input"),
    ({"input": ["a", ""]}, "input[1]"),
    ({"input": ["a", 1]}, "input[1]"),
    ({"input": [1, "a"]}, "input[1]"),
    ({"input": [1, -1]}, "input[1]"),
    ({"input": [[]]}, "input[0]"),
    ({"input": [[1], []]}, "input[1]"),
    ({"input": ["a"] * (MOST_INPUTS + 1)}, "input"),
    ({"input": ["a"] * 10_000}, "input"),
    ({"input": {"text": "a"}}, "input"),
    ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
    ({"input": "a", "dimensions": 0}, "dimensions"),
    ({"input": "a", "dimensions": 2.0}, "dimensions"),
    ({"input": "a", "truncate": "END"}, "truncate"),
    ({"input": "a", "input_type": "title"}, "input_type"),
    ({"input": "a", "model": None}, "model"),
    ({"input": "a", "outstation": {"locality": "moon"}}, "outstation.locality"),
]


@pytest.mark.parametrize(("fields", "param"), WRONG, ids=[str(fields)[:50] for fields, _ in WRONG])
async def test_wrong_requests(make_app, exchange, fields, param):
    backend = embedder()
    begun = exchange(make_app(backend), {"model": "e", **fields}, PATH)
    await begun.end()
    assert begun.status == 400
    assert begun.json["error"]["param"] == param
    assert begun.headers["x-outstation-route"] == "none"
    assert backend.requests == []


async def test_the_largest_batch_is_answered(make_app, exchange):
    begun = exchange(make_app(embedder()), {"model": "e", "input": ["a"] * MOST_INPUTS}, PATH)
    await begun.end()
    assert [one["index"] for one in begun.json["data"]] == list(range(MOST_INPUTS))


async def test_a_model_of_another_task_is_refused(make_app, exchange):
    app = make_app(FakeBackend("m"), embedder())
    begun = exchange(app, {"model": "m", "input": "x"}, PATH)
    await begun.end()
    assert (begun.status, begun.json["error"]["code"], begun.json["error"]["param"]) == (400, "wrong_task", "model")
    assert begun.headers["x-outstation-route"] == "none"
    chat = exchange(app, {"model": "e", "messages": [{"role": "user", "content": "x"}]})
    await chat.end()
    assert (chat.status, chat.json["error"]["code"]) == (400, "wrong_task")


async def test_no_other_model_takes_over(make_app, exchange):
    """Vectors of two models have nothing to do with each other."""
    broken = FakeBackend("e", lambda _: [InvalidRequest("no", param="input")], kinds=frozenset({"embedding"}))
    other = embedder("other")
    begun = exchange(make_app(broken, other), {"model": "e", "input": "x"}, PATH)
    await begun.end()
    assert begun.status == 400
    unsaid = FakeBackend("e", lambda _: [Usage(1, 0)], kinds=frozenset({"embedding"}))
    begun = exchange(make_app(unsaid, other), {"model": "e", "input": "x"}, PATH)
    await begun.end()
    assert (begun.status, begun.json["error"]["code"]) == (503, "engine_failed")
    assert other.requests == []


async def test_a_deadline_refuses_no_text_that_is_to_be_cut(make_app, exchange):
    """With a deadline the prompt is counted beforehand; whether it is too long is the model's to say."""
    backend = embedder()
    backend.count_tokens, backend.context_length = 900, 512
    body = {"model": "e", "input": "x" * 4000, "truncate": True, "outstation": {"deadline_ms": 5000}}
    begun = exchange(make_app(backend), body, PATH)
    await begun.end()
    assert begun.status == 200
