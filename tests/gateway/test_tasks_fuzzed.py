"""Whatever is sent to the endpoints that do not generate text: an answer, or a 400 that says why; never a 500."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import httpx2
import orjson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends.fake import FakeBackend, Step, say
from backends.types import Chunk, Request, Usage
from gateway.app import build_app
from gateway.config import load_config
from gateway.reload import Gateway
from tests.gateway.small_models import SmallModel, judging, manifest

URL = "data:image/png;base64," + b64encode(b"\x89PNG").decode()
QUIET = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def results(wire: dict[str, Any]) -> Callable[[Request], Sequence[Step]]:
    def script(request: Request) -> Sequence[Step]:
        return [*(Chunk(i, finish_reason="stop", wire=wire) for i in range(request.choices)), Usage(1, 0)]

    return script


@cache
def app() -> Gateway:
    """One for all examples."""
    config = load_config(Path("/dev/null"), environ={"OUTSTATION_HOME": mkdtemp()})
    unsure = judging(lambda _: {"pump": 0.5, "valve": 0.5})
    known = manifest(name="c", confidence=0.75, categories={"hate": "pump"})
    vector = manifest(name="v", input="features", features=("a", "b"), tokenizer=None)
    models = [
        FakeBackend("m", say('{"label": "pump"}')),
        FakeBackend("e", results({"embedding": "AACAPw=="}), kinds=frozenset({"embedding"})),
        FakeBackend("r", results({"score": 0.5}), kinds=frozenset({"rerank"})),
        SmallModel("c", unsure, manifest=known, kinds=frozenset({"classification", "moderation"})),
        SmallModel("v", unsure, manifest=vector),
        SmallModel("p", unsure, manifest=manifest(name="p", input="image", image={"size": 8}, tokenizer=None)),
    ]
    return build_app(config, models)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "x", "auto", "m", "e", "r", "c", "v", "p", "float", "base64", "query", "raw", URL])
)
KEYS = st.sampled_from(
    "model models input text query documents top_n top_k threshold truncate escalate to below what image features "
    "type a b encoding_format dimensions input_type outstation locality deadline_ms return_documents".split()
)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=12
)
BODIES = st.dictionaries(KEYS, JSON, max_size=6)
GOOD: dict[str, dict[str, Any]] = {
    "/v1/embeddings": {"model": "e", "input": "x"},
    "/v1/rerank": {"model": "r", "query": "x", "documents": ["x", {"text": "y"}]},
    "/v1/moderations": {"model": "c", "input": "x"},
    "/v1/classify": {"model": "c", "input": "x", "escalate": True},
}


def send(path: str, content: bytes, kind: str) -> httpx2.Response:
    async def post() -> httpx2.Response:
        transport = httpx2.ASGITransport(app=app())
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.post(path, content=content, headers={"content-type": kind})

    return asyncio.run(post())


def fair(response: httpx2.Response) -> None:
    """Not our fault, and said why."""
    if response.status_code == 200:
        orjson.loads(response.content)
        return
    assert response.status_code in (400, 404, 503), response.text
    error = response.json()["error"]
    assert error["message"]
    assert error["code"] not in ("internal_error", "backend_error")
    assert response.status_code != 503 or error["code"] == "no_model"


@QUIET
@given(st.sampled_from(sorted(GOOD)), BODIES)
def test_any_json(path: str, body: dict[str, Any]) -> None:
    fair(send(path, orjson.dumps({**GOOD[path], **body}, option=orjson.OPT_NON_STR_KEYS), "application/json"))


FORM = st.lists(
    st.sampled_from(
        [
            b"--x\r\n", b"--x--\r\n", b"--x", b"\r\n", b"\n",
            b'content-disposition: form-data; name="file"; filename="a"',
            b'content-disposition: form-data; name="model"', b"content-disposition: form-data", b"\xff\xfe", b"c", b"p",
            b"content-type: text/plain; charset=nonsense", b"\x89PNG", b'content-disposition: form-data; name="\xff"',
        ]
    ),
    max_size=14,
)  # fmt: skip


@QUIET
@given(FORM, st.sampled_from(["x", '"x"', "", "\x7f", "x; charset=nonsense", "x; charset=utf-16"]))
def test_any_form(parts: list[bytes], boundary: str) -> None:
    fair(send("/v1/classify", b"".join(parts), f"multipart/form-data; boundary={boundary}"))


def test_what_is_good_is_answered() -> None:
    for path, body in GOOD.items():
        assert send(path, orjson.dumps(body), "application/json").status_code == 200
    form = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n\x89PNG\r\n--x\r\n'
    form += b'content-disposition: form-data; name="model"\r\n\r\np\r\n--x--\r\n'
    assert send("/v1/classify", form, "multipart/form-data; boundary=x").status_code == 200


def test_documents_as_deep_as_a_body_may_be() -> None:
    for depth in range(245, 256):
        deep: Any = "x"
        for _ in range(depth):
            deep = [deep]
        body = {**GOOD["/v1/rerank"], "documents": [{"text": "x", "more": deep}], "return_documents": True}
        try:
            content = orjson.dumps(body)
        except TypeError:
            content = orjson.dumps({**body, "documents": 0}).replace(
                b'"documents":0', b'"documents":[{"text":"x","more":' + b"[" * depth + b"]" * depth + b"}]"
            )
        fair(send("/v1/rerank", content, "application/json"))
