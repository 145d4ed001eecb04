"""Small models in `pull`, `ls`, `models`, `show`, `rm` and `doctor`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from backends.models.store import LocalModel, Store
from gateway.commands.installation import check_models
from gateway.commands.small import check_runtime
from tests.cli.conftest import FakeGateway, Outstation
from tests.models.folder_writer import write_model


@pytest.fixture
def leaks(outstation: Outstation, tmp_path: Path) -> Path:
    """A small model in the store, brought from a folder."""
    folder = write_model(tmp_path / "mine" / "leaks")
    result = outstation("pull", str(folder))
    assert result.exit_code == 0, result.output
    assert "leaks is here: classify, " in result.stdout
    assert "It needs some-base besides: `outstation pull some-base`." in result.stdout
    return folder


def test_all_that_the_product_carries_can_be_pulled_without_a_network(outstation: Outstation, home: Path) -> None:
    result = outstation("pull", "toxic-bilstm", "jailguard")
    assert result.exit_code == 0, result.output
    assert [(model.name, model.verified) for model in Store(home).list()] == [
        ("jailguard", True),
        ("toxic-bilstm", True),
    ]
    assert "toxic-bilstm: from outstation itself" in result.stderr
    again = outstation("pull", "toxic-bilstm", "jailguard")
    assert again.stdout.count("is already here") == 2


def test_a_folder_may_get_another_name(outstation: Outstation, leaks: Path, home: Path) -> None:
    assert outstation("pull", str(leaks), "--name", "drips").exit_code == 0
    assert [model.name for model in Store(home).list()] == ["drips", "leaks"]


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (("pull", "jailguard", "toxic-bilstm", "--name", "x"), 2, "of one model"),
        (("pull", "jailguard", "--sha256", "0" * 64), 2, "has several, each with a known hash"),
        (("pull", ".", "--sha256", "0" * 64), 2, "the manifest of a folder names"),
        (("pull", "."), 1, "manifest.json cannot be read"),
    ],
)
def test_a_mistake_is_one_text(outstation: Outstation, arguments: tuple[str, ...], code: int, expected: str) -> None:
    result = outstation(*arguments)
    assert result.exit_code == code, result.output
    assert expected in result.stderr
    assert "Traceback" not in result.output


def test_models_lists_all_with_what_is_known(
    outstation: Outstation, leaks: Path, tiny: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUTSTATION_URL", "http://127.0.0.1:9")
    head, first, second = outstation("models").stdout.splitlines()
    assert head.split() == ["NAME", "TASK", "SIZE", "STATE", "FROM", "LICENCE", "METRICS"]
    assert first.split()[:2] == ["leaks", "classify"]
    assert first.split()[-3:] == ["MIT", "recall", "0.9"]
    assert second.split()[:2] == ["tiny", "llm"]
    assert second.split()[4] == "here"
    small, large = json.loads(outstation("models", "--json").stdout)
    assert small["metrics"] == [{"name": "recall", "value": 0.9, "on": "a test"}]
    assert small["labels"] == ["leak"]
    assert (large["task"], large["state"], large["metrics"]) == ("llm", "here", [])


def test_models_says_what_a_running_gateway_does_with_them(
    outstation: Outstation, leaks: Path, tiny: LocalModel, scripted: FakeGateway
) -> None:
    scripted.status = {"models": [{"name": "leaks", "status": "ready"}]}
    states = {row["name"]: row["state"] for row in json.loads(outstation("models", "--json").stdout)}
    assert states == {"leaks": "ready", "tiny": "here"}


def test_damaged_ones_are_named(outstation: Outstation, leaks: Path, home: Path) -> None:
    (home / "models" / "leaks" / "model.onnx").write_bytes(b"")
    for command in ("ls", "models"):
        result = outstation(command)
        assert result.exit_code == 0
        assert "outstation pull leaks" in result.stderr


def test_ls_and_rm_know_them(outstation: Outstation, leaks: Path, home: Path) -> None:
    _, row = outstation("ls").stdout.splitlines()
    assert row.split()[:2] == ["leaks", "classify"]
    assert outstation("rm", "leaks").stdout.startswith("Removed leaks (")
    assert list((home / "models").iterdir()) == []


@pytest.mark.parametrize("where", ["name", "folder"])
def test_show_tells_the_manifest(outstation: Outstation, leaks: Path, where: str) -> None:
    text = outstation("show", "leaks" if where == "name" else str(leaks)).stdout
    for expected in (
        "the embedding of some-base",
        "recall          0.9 on a test",
        "model.onnx",
        "labels          leak",
    ):
        assert expected in text
    data = json.loads(outstation("show", "leaks", "--json").stdout)
    assert data["manifest"]["base"] == "some-base"
    assert data["local"]["role"] == "classify"


def test_show_names_the_authors_of_one_that_is_not_here(outstation: Outstation) -> None:
    text = outstation("show", "rampart").stdout
    assert "CC-BY-4.0" in text
    assert "by National Design Studio, Copyright 2026" in text
    assert json.loads(outstation("show", "rampart", "--json").stdout)["catalogue"]["name"] == "rampart"


def test_doctor_checks_their_files(outstation: Outstation, leaks: Path, home: Path) -> None:
    ((finding, need),) = check_models(Store(home), deep=True)
    assert (finding.subject, finding.level) == ("model leaks", "ok")
    assert need > 0
    file = home / "models" / "leaks" / "model.onnx"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert [finding.level for finding, _ in check_models(Store(home), deep=False)] == ["ok"]
    ((finding, _),) = check_models(Store(home), deep=True)
    assert finding.level == "fail"
    assert "model.onnx: its SHA-256 is" in finding.text


def test_doctor_misses_the_base_of_a_head(outstation: Outstation, leaks: Path, home: Path) -> None:
    from gateway.commands.small import check_bases

    ((finding),) = check_bases(Store(home))
    assert finding.level == "fail"
    assert "outstation pull some-base" in finding.todo


def runtime(script: str, wanted: tuple[str, ...] = ("cpu",)) -> tuple[str, str]:
    finding = check_runtime(wanted, [sys.executable, "-c", script])
    return finding.level, finding.text


def test_the_runtime_has_the_wanted_execution_providers_or_not() -> None:
    good = 'print(\'log\\n{"version": "1.2", "providers": ["CUDAExecutionProvider", "CPUExecutionProvider"]}\')'
    assert runtime(good) == ("ok", "onnxruntime 1.2 with cpu, cuda")
    assert runtime(good, ("openvino", "cpu"))[0] == "fail"
    assert runtime("import absent_module")[0] == "fail"
    assert "killed by signal 4" in runtime("import os, signal; os.kill(os.getpid(), signal.SIGILL)")[1]
