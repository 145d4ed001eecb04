"""The real small models, as `make test` pulls them, and hosts to run them."""

from __future__ import annotations

import base64
import itertools
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, settings

from backends.onnx.host import OnnxHost
from backends.onnx.settings import OnnxHostSettings, OnnxSettings
from backends.types import Kind, Prompt, Request, Result

ROOT = Path(__file__).parents[2]
MODELS = (
    "bge-small-en-v1.5",
    "ms-marco-minilm-l-12-v2",
    "all-minilm-l6-v2",
    "jailguard",
    "toxic-bilstm",
    "rampart",
)

settings.register_profile("onnx", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("onnx")

_ids = itertools.count(1)


def ask(kind: Kind, *prompts: Prompt, **options: Any) -> Request:
    """A request with an id of its own."""
    return Request(f"test-{next(_ids)}", "m", kind, prompts=prompts, options=options)


def vector(result: Result) -> npt.NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(result["embedding"]), "<f4")


def find_folder(name: str) -> Path:
    """A model's folder, where `make test` pulls it to."""
    homes = [Path(os.environ.get("OUTSTATION_HOME", ROOT / ".outstation")), ROOT / ".outstation"]
    for home in homes:
        if (home / "models" / name / "manifest.json").is_file():
            return home / "models" / name
    pytest.fail(f"The model {name} is not under {homes[0] / 'models'}: run `make test`.")


Folder = Callable[[str], Path]


@pytest.fixture(scope="session")
def folder() -> Folder:
    return find_folder


Running = Callable[..., AbstractAsyncContextManager[OnnxHost]]


@pytest.fixture(scope="session")
def running() -> Running:
    """`async with running(folder, …, threads=1) as host`: a host of its own, with models by their folders' names."""

    @asynccontextmanager
    async def run(*folders: Path, **changes: Any) -> AsyncIterator[OnnxHost]:
        host = OnnxHost(OnnxHostSettings(**changes))
        for path in folders:
            host.add(OnnxSettings(path.name, path))
        try:
            yield host
        finally:
            await host.close()

    return run


@pytest.fixture(scope="session")
async def host(folder: Folder) -> AsyncIterator[OnnxHost]:
    """One with all the real models, shared: tests leave it as they found it."""
    shared = OnnxHost(OnnxHostSettings())
    for name in MODELS:
        shared.add(OnnxSettings(name, folder(name)))
    yield shared
    await shared.close()
