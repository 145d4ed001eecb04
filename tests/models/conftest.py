"""Fixtures for models: a tiny honest GGUF file, the real one, and a store in a temporary home."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from backends.models.store import Store
from tests.models.gguf_writer import gguf

DEFAULT_MODEL = "smollm2-135m-instruct"


@pytest.fixture(scope="session")
def real_model() -> Path:
    """The default model's file: from $OUTSTATION_TEST_MODEL, or from the store that `make test` fills."""
    home = Path(os.environ.get("OUTSTATION_HOME", ".outstation"))
    path = Path(os.environ.get("OUTSTATION_TEST_MODEL", home / "models" / f"{DEFAULT_MODEL}.gguf"))
    if not path.exists():
        pytest.skip(f"{path} is not there; `make test` fetches it")
    return path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "home")


@pytest.fixture(scope="session")
def tiny() -> bytes:
    """A tiny honest GGUF file, large enough to be cut in the middle of a transfer."""
    return gguf(tensors=(("token_embd.weight", (256, 3000), 0, 0, 256 * 3000 * 4),))
