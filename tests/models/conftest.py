"""Fixtures for models: a tiny honest GGUF file and a store in a temporary home."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.models.store import Store
from tests.models.gguf_writer import gguf


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "home")


@pytest.fixture(scope="session")
def tiny() -> bytes:
    """A tiny honest GGUF file, large enough to be cut in the middle of a transfer."""
    return gguf(tensors=(("token_embd.weight", (256, 3000), 0, 0, 256 * 3000 * 4),))
