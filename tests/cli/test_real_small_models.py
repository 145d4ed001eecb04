"""Small models behind a real gateway, in a home without a language model and without a configuration of them."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
import pytest

from backends.models.catalogue import bundled
from tests.cli.conftest import Outstation

if TYPE_CHECKING:
    from tests.conftest import Gateway, Starter


def furnished(home: Path) -> Path:
    """A home with what the product carries."""
    for name in ("toxic-bilstm", "jailguard"):
        shutil.copytree(bundled() / name, home / "models" / name)
    return home


@pytest.fixture(scope="module")
def small_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnished(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def small(start_gateway: Starter, small_home: Path) -> Gateway:
    return start_gateway(env={"OUTSTATION_HOME": str(small_home)})


def judge(gateway: Gateway) -> httpx2.Response:
    return httpx2.post(f"{gateway.base_url}/moderations", json={"input": "You are a stupid idiot."}, timeout=60)


def test_the_default_answers_without_any_configuration(small: Gateway) -> None:
    answer = judge(small)
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == "toxic-bilstm"
    assert answer.json()["results"][0]["categories"]["harassment"] is True
    assert answer.headers["x-outstation-route"] == "local/toxic-bilstm"


def test_they_are_in_every_list(
    small: Gateway, small_home: Path, outstation: Outstation, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert judge(small).status_code == 200
    monkeypatch.setenv("OUTSTATION_HOME", str(small_home))
    models = {row["id"]: row for row in httpx2.get(f"{small.base_url}/models").json()["data"]}
    assert models.keys() == {"toxic-bilstm", "jailguard"}
    assert models["toxic-bilstm"]["kinds"] == ["classification", "moderation"]
    status = {row["name"]: row for row in httpx2.get(f"{small.url}/outstation/status").json()["models"]}
    assert status["toxic-bilstm"]["status"] == "ready"
    assert 'outstation_model_ready{model="toxic-bilstm"} 1.0' in httpx2.get(f"{small.url}/metrics").text
    assert "toxic-bilstm" in outstation("ps", "--url", small.url).stdout
    states = {
        row["name"]: row["state"] for row in json.loads(outstation("models", "--json", "--url", small.url).stdout)
    }
    assert states == {"toxic-bilstm": "ready", "jailguard": "stopped"}


def test_what_is_not_here_names_the_command(small: Gateway) -> None:
    answer = httpx2.post(f"{small.base_url}/embeddings", json={"model": "auto", "input": "x"})
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "no_model"
    assert "outstation pull bge-small-en-v1.5" in answer.json()["error"]["message"]
    assert "Not on this box: bge-small-en-v1.5, ms-marco-minilm-l-12-v2." in small.log.read_text()


def test_one_that_does_not_fit_is_refused_until_it_may(start_gateway: Starter, tmp_path: Path) -> None:
    """Changed while it runs: the limit holds for the next request."""
    furnished(tmp_path / "elsewhere")
    env = {"OUTSTATION_HOME": str(tmp_path / "elsewhere")}
    limited = start_gateway("[limits]\nmemory_mb = 1\n", env=env)
    answer = judge(limited)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "memory_limit"
    assert answer.headers["retry-after"] == "30"
    (limited.home / "outstation.toml").write_text("[limits]\nmemory_mb = 1000\n")
    end = time.monotonic() + 30
    while judge(limited).status_code != 200 and time.monotonic() < end:
        time.sleep(0.1)
    assert judge(limited).status_code == 200
