"""`/v1/classify` with graphs that are really computed: pictures and vectors, good ones and bad ones, over HTTP."""

from __future__ import annotations

import struct
import zlib
from base64 import b64encode
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image

from backends.base import Backend
from backends.fake import FakeBackend, say
from backends.onnx.settings import OnnxHostSettings, OnnxSettings
from backends.registry import build_onnx, build_onnx_host
from gateway.audit_reader import decisions
from gateway.schemas.classify import MOST_IMAGES
from gateway.schemas.task_responses import Classification
from tests.gateway.conftest import AppMaker, living
from tests.onnx import graphs

pytestmark = pytest.mark.anyio
PATH = "/v1/classify"
COLOURS = {
    "task": "classify",
    "input": "image",
    "image": {"size": 8},
    "labels": ["red", "green", "blue"],
    "features": [],
}


def picture(colour: str, kind: str = "PNG") -> bytes:
    out = BytesIO()
    Image.new("RGB", (20, 10), colour).save(out, kind)
    return out.getvalue()


def url(data: bytes) -> dict[str, str]:
    return {"image": "data:image/png;base64," + b64encode(data).decode()}


def bomb() -> bytes:
    """A PNG of a kilobyte that claims to be 60,000 pixels wide and high."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.fixture
async def client(make_app: AppMaker, tmp_path: Path) -> AsyncIterator[httpx2.AsyncClient]:
    """Of a gateway with a classifier of colours, one of two numbers, and a language model that knows better."""
    folders = [
        graphs.write(tmp_path / "colours", graphs.means(8), **COLOURS),
        graphs.write(tmp_path / "numbers", graphs.linear(), confidence=0.9),
    ]
    host = build_onnx_host(OnnxHostSettings(threads=1))
    models: list[Backend] = [build_onnx(OnnxSettings(folder.name, folder), host) for folder in folders]
    app = make_app(FakeBackend("m", say('{"label": "no"}')), *models)
    async with living(app):
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as made:
            yield made
    assert {row.endpoint for row in decisions(tmp_path / "audit.db", 0.0)} <= {PATH}


async def test_pictures(client: httpx2.AsyncClient) -> None:
    colours = ["red", "blue", "lime"]
    body = {"model": "colours", "input": [url(picture(colour)) for colour in colours]}
    said = await client.post(PATH, json=body)
    Classification.model_validate_json(said.content)
    assert [result["label"] for result in said.json()["results"]] == ["red", "blue", "green"]
    for result in said.json()["results"]:
        assert sum(result["labels"].values()) == pytest.approx(1)
    form = await client.post(PATH, files={"file": picture("blue", "JPEG")}, data={"model": "colours"})
    assert form.json()["results"][0]["label"] == "blue"


async def test_numbers_and_who_knows_better(client: httpx2.AsyncClient) -> None:
    given = {"features": {"b": 3, "a": -1}}
    (sure,) = (await client.post(PATH, json={"model": "numbers", "input": given})).json()["results"]
    assert (sure["label"], sure["source"]) == ("yes", "edge")
    assert sure["labels"]["yes"] == pytest.approx(0.982, abs=1e-3)
    unsure = {"model": "numbers", "input": {"features": [0.0, 0.5]}, "escalate": {"what": "features"}}
    (result,) = (await client.post(PATH, json=unsure)).json()["results"]
    assert (result["label"], result["source"], result["edge_label"]) == ("no", "local_llm", "yes")
    assert result["edge_confidence"] == pytest.approx(0.622, abs=1e-3)


@pytest.mark.parametrize(
    ("model", "given", "code"),
    [
        ("colours", url(b"not a picture"), "invalid_image"),
        ("colours", url(picture("red")[:45]), "invalid_image"),
        ("colours", url(bomb()), "image_too_large"),
        ("colours", [url(picture("red")), url(b"x")], "invalid_image"),
        ("colours", [url(picture("red"))] * (MOST_IMAGES + 1), "invalid_request"),
        ("colours", "red", "wrong_input"),
        ("numbers", {"features": [1.0]}, "invalid_features"),
        ("numbers", {"features": [1.0, 2.0, 3.0]}, "invalid_features"),
        ("numbers", {"features": []}, "invalid_request"),
        ("numbers", url(picture("red")), "wrong_input"),
        ("numbers", "x", "wrong_input"),
        ("m", "x", "wrong_task"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_what_is_refused(client: httpx2.AsyncClient, model: str, given: Any, code: str) -> None:
    said = await client.post(PATH, json={"model": model, "input": given})
    assert (said.status_code, said.json()["error"]["code"]) == (400, code)
    assert said.json()["error"]["param"].startswith("model" if code == "wrong_task" else "input")
    again = await client.post(PATH, json={"model": "numbers", "input": {"features": [1, 2]}})
    assert again.status_code == 200


async def test_numbers_that_are_too_large_for_the_graph(client: httpx2.AsyncClient) -> None:
    """They are finite in JSON, and infinite in float32: no label may come of that."""
    said = await client.post(PATH, json={"model": "numbers", "input": {"features": [1e300, -1e300]}})
    assert said.status_code == 400
    assert said.json()["error"]["param"].startswith("input")
