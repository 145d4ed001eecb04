"""sentence-transformers' folders in the configuration, and served by a real gateway where torch is installed."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import httpx2
import numpy as np
import pytest

from backends.base import Backend
from gateway.config import ConfigError, load_config
from gateway.models import build_backends
from gateway.pool import Pool
from tests.conftest import Gateway
from tests.models.folder_writer import write_model
from tests.training.test_sentence_folder import MODULES, make

TABLE = "[small_models]\nsentence_transformers = { minilm = '%s' }\n"


def backends(home: Path, text: str) -> list[Backend]:
    home.mkdir(exist_ok=True)
    (home / "outstation.toml").write_text(text)
    return build_backends(load_config(home / "outstation.toml", environ={"OUTSTATION_HOME": str(home)}), Pool())


def test_a_folder_beside_the_configuration(tmp_path: Path) -> None:
    make(tmp_path / "folder", modules=MODULES)
    (model,) = backends(tmp_path, TABLE % "folder")
    assert (model.name, model.kinds, model.context_length) == ("minilm", {"embedding"}, 64)
    assert model.state().status == "stopped"


def test_a_folder_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no folder"):
        backends(tmp_path, TABLE % "nowhere")


def test_a_name_is_given_once(tmp_path: Path) -> None:
    make(tmp_path / "folder", modules=MODULES)
    write_model(tmp_path / "models" / "minilm", name="minilm")
    with pytest.raises(ConfigError, match="this name"):
        backends(tmp_path, TABLE % "folder")


def test_a_gateway_serves_it(minilm_folder: Path, start_gateway: Callable[..., Gateway]) -> None:
    gateway = start_gateway(TABLE % minilm_folder)
    answer = httpx2.post(
        f"{gateway.base_url}/embeddings",
        json={"model": "minilm", "input": ["the pump leaks", "the pump drips"], "encoding_format": "base64"},
        timeout=120,
    )
    assert answer.status_code == 200, answer.text
    one, two = (np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in answer.json()["data"])
    assert 0.6 < float(one @ two) < 0.99
    assert answer.headers["x-outstation-route"] == "local/minilm"
