"""A gateway that is asked by frameworks in an environment of their own, with versions of their own."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.conftest import MODEL, ROOT, Gateway, Starter, find_model
from tests.onnx.conftest import find_folder

ENVIRONMENT = ROOT / ".venv-frameworks"
EMBEDDER = "bge-small-en-v1.5"
CONFIG = """
[routing]
default = "qwen"
[aliases]
"text-embedding-3-small" = "auto"
"""


@pytest.fixture(scope="session")
def framework_bin() -> Path:
    """Where the frameworks' commands are."""
    if not (ENVIRONMENT / ".installed").is_file():
        pytest.skip("the frameworks are not installed: `make test` does it, where a package registry can be had")
    return ENVIRONMENT / "bin"


@pytest.fixture(scope="session")
def framework_gateway(
    framework_bin: Path, start_gateway: Starter, model_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Gateway:
    """The capable model as `qwen`, the quick one beside it, and an embedder."""
    home = tmp_path_factory.mktemp("frameworks")
    shutil.copytree(find_folder(EMBEDDER), home / "models" / EMBEDDER)
    files = {"qwen": find_model("qwen2.5-coder-0.5b-instruct", "OUTSTATION_TEST_REMOTE_MODEL"), MODEL: model_file}
    models = "".join(f'[[models]]\nname = "{name}"\nfile = "{file}"\nload = "start"\n' for name, file in files.items())
    return start_gateway(CONFIG + models, env={"OUTSTATION_HOME": str(home)}, wait_for="/readyz")


@pytest.fixture(scope="session")
def framework_env(framework_gateway: Gateway) -> dict[str, str]:
    """Of a framework's process: the gateway's address, and nothing that would lead it elsewhere."""
    kept = {key: value for key, value in os.environ.items() if key in ("PATH", "HOME", "LANG", "TMPDIR")}
    return {**kept, "OUTSTATION_TEST_URL": framework_gateway.base_url, "LANGSMITH_TRACING": "false"}
