"""A small model as any other backend: its tasks, its counts, its answers."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from contextlib import aclosing
from pathlib import Path

import pytest

from backends.base import Backend, Local
from backends.onnx.backend import OnnxBackend
from backends.onnx.host import OnnxHost
from backends.onnx.settings import OnnxHostSettings, OnnxSettings
from backends.onnx.shelf import LOOK_S
from backends.registry import build_onnx, build_onnx_host
from backends.types import Chunk, Features, Usage
from tests.onnx import graphs
from tests.onnx.conftest import Folder, ask, vector

pytestmark = pytest.mark.anyio


def backend(host: OnnxHost, path: Path) -> OnnxBackend:
    made = build_onnx(OnnxSettings(path.name, path, created=7), host)
    assert isinstance(made, OnnxBackend)
    assert isinstance(made, Backend)
    assert isinstance(made, Local)
    return made


@pytest.mark.parametrize(
    ("name", "kinds", "length"),
    [
        ("bge-small-en-v1.5", {"embedding"}, 512),
        ("ms-marco-minilm-l-12-v2", {"rerank"}, 512),
        ("jailguard", {"classification"}, 256),
        ("toxic-bilstm", {"classification", "moderation"}, 100),
        ("rampart", {"classification"}, 512),
    ],
)
async def test_what_each_is_for(folder: Folder, name: str, kinds: set[str], length: int) -> None:
    """Known without a process."""
    host = build_onnx_host(OnnxHostSettings())
    model = backend(host, folder(name))
    assert model.kinds == kinds
    assert model.context_length == length
    assert (model.created, len(model.sha256)) == (7, 64)
    assert model.state().status == "stopped"
    assert host.memory() == (None, 0)


async def test_a_base_that_is_served_too_is_read_once_until_it_changes(folder: Folder, tmp_path: Path) -> None:
    for name in ("jailguard", "all-minilm-l6-v2"):
        (tmp_path / name).mkdir()
        shutil.copy(folder(name) / "manifest.json", tmp_path / name)
    host = build_onnx_host(OnnxHostSettings())
    head, base = backend(host, tmp_path / "jailguard"), backend(host, tmp_path / "all-minilm-l6-v2")
    assert (head.context_length, base.context_length) == (256, 256)
    path = tmp_path / "all-minilm-l6-v2" / "manifest.json"
    written = path.stat().st_mtime_ns
    path.write_text(path.read_text().replace('"max_tokens": 256', '"max_tokens": 128'))
    os.utime(path, ns=(written, written))
    await asyncio.sleep(2 * LOOK_S)
    assert head.context_length == 256
    os.utime(path, ns=(written, written + 1_000_000))
    await asyncio.sleep(2 * LOOK_S)
    assert head.context_length == 128


async def test_an_embedding_is_an_answer_like_others(folder: Folder) -> None:
    host = build_onnx_host(OnnxHostSettings())
    model = backend(host, folder("bge-small-en-v1.5"))
    request = ask("embedding", "one text", "and another one", "a third")
    assert (await model.count(request)).tokens == 5
    async with aclosing(model.generate(request)) as answer:
        events = [event async for event in answer]
    *chunks, usage = events
    assert usage == Usage(4 + 5 + 4, 0)
    assert sorted(c.index for c in chunks if isinstance(c, Chunk)) == [0, 1, 2]
    for chunk in chunks:
        assert isinstance(chunk, Chunk)
        assert chunk.finish_reason == "stop"
        assert chunk.wire is not None
        assert vector(chunk.wire).shape == (384,)  # type: ignore[arg-type]
    assert model.state().prompt_tokens_total == 13
    await model.close()
    assert host.memory() == (None, 0)


async def test_a_client_that_leaves_cancels(tmp_path: Path) -> None:
    host = build_onnx_host(OnnxHostSettings())
    model = backend(host, graphs.write(tmp_path / "slow", graphs.endless()))
    request = ask("classification", *(Features((20_000.0, float(i))) for i in range(2000)))
    async with aclosing(model.generate(request)) as answer:
        await anext(answer)
        assert model.state().running == 1
    assert model.state().running == 0
    async with asyncio.timeout(30):
        assert [event async for event in model.generate(ask("classification", Features((1.0, 1.0))))]
    await model.close()


async def test_a_folder_without_a_manifest_is_for_nothing(tmp_path: Path) -> None:
    model = backend(OnnxHost(OnnxHostSettings()), tmp_path / "nothing")
    assert (model.kinds, model.sha256, model.context_length) == (frozenset(), "", 0)
    assert model.state().status == "failed"
    assert "nothing" in model.state().detail
    await model.close()


async def test_it_is_loaded_at_the_start_if_asked_for(tmp_path: Path) -> None:
    path = graphs.write(tmp_path / "tiny", graphs.linear())
    host = OnnxHost(OnnxHostSettings())
    model = OnnxBackend(OnnxSettings("tiny", path, load_at_start=True), host)
    await model.start()
    assert model.state().status == "ready"
    await model.close()


async def test_the_next_process_loads_it_again_though_nobody_asks(tmp_path: Path) -> None:
    path = graphs.write(tmp_path / "tiny", graphs.linear())
    host = OnnxHost(OnnxHostSettings())
    model = OnnxBackend(OnnxSettings("tiny", path, load_at_start=True), host)
    await model.start()
    first = model.state().pid
    assert first
    os.kill(first, signal.SIGKILL)
    async with asyncio.timeout(30):
        while model.state().status != "ready" or model.state().pid == first:
            await asyncio.sleep(0.01)
    await model.close()
