"""A real gateway with the real language model and the real small models."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

import pytest

from tests.conftest import Gateway, Starter
from tests.onnx.conftest import find_folder

SMALL_MODELS = (
    "bge-small-en-v1.5",
    "ms-marco-minilm-l-12-v2",
    "toxic-bilstm",
    "all-minilm-l6-v2",
    "jailguard",
)


@pytest.fixture(scope="session")
def whole_gateway(
    start_gateway: Starter, model_config: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> Gateway:
    """Shared: tests must leave it as they found it."""
    home = tmp_path_factory.mktemp("whole")
    for name in SMALL_MODELS:
        shutil.copytree(find_folder(name), home / "models" / name, copy_function=link)
    aliases = '[aliases]\n"text-embedding-3-small" = "auto"\n"omni-moderation-latest" = "auto"\n'
    return start_gateway(model_config(aliases), env={"OUTSTATION_HOME": str(home)}, wait_for="/readyz")


def link(source: str, target: str) -> None:
    """A model takes no room twice, where the file system can do that."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
