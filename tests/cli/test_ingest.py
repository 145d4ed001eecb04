"""`ingest`, `search` and `reindex` with a real gateway and a real embedder; killed, in a terminal, and for good."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.cli.conftest import Outstation
from tests.conftest import ROOT, Gateway, Starter
from tests.onnx.conftest import find_folder

COMMAND = [sys.executable, "-m", "gateway.cli"]
PUMP = "# Pump P12\n\n## Seal\n\nThe screws of the cover are tightened with 22 Nm. The seal is part 4711-B.\n"
VALVE = "# Valve V3\n\nIt opens at 6 bar. Grease the spindle once a year.\n"
BROKEN = b"%PDF-1.7 no more than this"


@pytest.fixture(scope="module")
def documents_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("documents")
    for name in ("bge-small-en-v1.5", "all-minilm-l6-v2"):
        shutil.copytree(find_folder(name), home / "models" / name)
    return home


@pytest.fixture(scope="module")
def site(start_gateway: Starter, documents_home: Path) -> Gateway:
    return start_gateway("[documents]\nmax_file_mb = 1\n", env={"OUTSTATION_HOME": str(documents_home)})


@pytest.fixture
def url(site: Gateway, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The gateway, found by the commands; every store and file is gone afterwards."""
    monkeypatch.setenv("OUTSTATION_URL", site.url)
    yield site.url
    for kind in ("vector_stores", "files"):
        for one in every(f"{site.url}/v1/{kind}"):
            assert httpx2.delete(f"{site.url}/v1/{kind}/{one['id']}").status_code == 200


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "manuals"
    (folder / "pumps").mkdir(parents=True)
    (folder / "pumps" / "p12.md").write_text(PUMP)
    (folder / "valve.md").write_text(VALVE)
    return folder


def every(url: str) -> list[Any]:
    answer = httpx2.get(url, params={"limit": 100})
    assert answer.status_code == 200, answer.text
    found: list[Any] = answer.json()["data"]
    return found


def in_store(url: str, store: str) -> list[tuple[str, str]]:
    """Paths and contents, by what the gateway itself computed."""
    files = every(f"{url}/v1/vector_stores/{store}/files")
    return sorted((one["attributes"]["path"], httpx2.get(f"{url}/v1/files/{one['id']}/content").text) for one in files)


def in_folder(folder: Path) -> list[tuple[str, str]]:
    return sorted((path.relative_to(folder).as_posix(), path.read_text()) for path in folder.rglob("*.md"))


def the_store(url: str) -> str:
    (store,) = every(f"{url}/v1/vector_stores")
    return str(store["id"])


def until(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.02)


def test_a_folder_is_brought_in_step_and_searched(outstation: Outstation, url: str, folder: Path) -> None:
    (folder / "broken.pdf").write_bytes(BROKEN)
    (folder / "large.md").write_text("x" * (1 << 20) + "y")
    (folder / "empty.md").touch()
    first = outstation("ingest", str(folder), "--data-class", "health")
    store = the_store(url)
    assert first.exit_code == 1
    assert first.stdout.startswith(f"manuals ({store}): 2 added, 3 failed.\n")
    table = [line.split("  ", 1)[0] for line in first.stdout.splitlines()[2:]]
    assert table == ["FILE", "broken.pdf", "empty.md", "large.md"]
    assert "invalid_file" in first.stdout and "max_file_mb" in first.stdout
    assert "pumps/p12.md: added\n" in first.stderr
    assert every(f"{url}/v1/vector_stores")[0]["outstation"]["data_class"] == "health"

    for name in ("broken.pdf", "large.md", "empty.md"):
        (folder / name).unlink()
    (folder / "valve.md").rename(folder / "pumps" / "v3.md")
    (folder / "pumps" / "p12.md").write_text(PUMP.replace("22 Nm", "25 Nm"))
    second = outstation("ingest", str(folder), "--json")
    assert second.exit_code == 0, second.output
    said = json.loads(second.stdout)
    assert said["vector_store"] == {"id": store, "name": "manuals"}
    assert (said["added"], said["changed"], said["renamed"], said["removed"], said["failed"]) == (0, 1, 1, 1, [])
    assert in_store(url, store) == in_folder(folder)
    assert len(every(f"{url}/v1/files")) == 2

    found = outstation("search", "How tight are the screws of the cover?", "-n", "1")
    assert found.exit_code == 0, found.output
    head, *text = found.stdout.splitlines()[-len(PUMP.splitlines()) - 1 :]
    assert head.startswith("1. pumps/p12.md  (")
    assert "   The screws of the cover are tightened with 25 Nm. The seal is part 4711-B." in text
    answer = json.loads(outstation("search", "spindle", "--store", store, "--json").stdout)
    assert answer["data"][0]["attributes"]["path"] == "pumps/v3.md"


def test_a_store_goes_over_to_another_embedder(outstation: Outstation, url: str, folder: Path) -> None:
    assert outstation("ingest", str(folder)).exit_code == 0
    before = json.loads(outstation("reindex", "--no-wait", "--json").stdout)
    assert before[0]["reindex"]["embedder"] == "bge-small-en-v1.5"
    done = outstation("reindex", "manuals", "--model", "all-minilm-l6-v2")
    assert done.exit_code == 0, done.output
    assert done.stdout == f"manuals ({the_store(url)}): 2 files, by all-minilm-l6-v2.\n"
    store = every(f"{url}/v1/vector_stores")[0]
    assert (store["outstation"]["embedder"], store["outstation"]["reindex"]) == ("all-minilm-l6-v2", None)
    assert "p12.md" in outstation("search", "seal of the pump").stdout
    everything = json.loads(outstation("reindex", "--all", "--json").stdout)
    assert [(one["embedder"], one["files"], one["failed"]) for one in everything] == [("bge-small-en-v1.5", 2, 0)]


def test_what_is_not_there_is_said(outstation: Outstation, url: str, folder: Path) -> None:
    assert "There is none yet: `outstation ingest DIR`" in outstation("search", "x").stderr
    assert "There is no vector store" in outstation("reindex", "--all").stdout
    outstation("ingest", str(folder))
    (folder.parent / "other").mkdir()
    outstation("ingest", str(folder.parent / "other"))
    asked = outstation("search", "x")
    assert asked.exit_code == 1
    assert "Which vector store? There are: manuals (vs_" in asked.stderr
    assert "There is no vector store pumps. There are: manuals (vs_" in outstation("reindex", "pumps").stderr
    assert "'nonsense'" in outstation("reindex", "manuals", "--model", "nonsense").stderr
    assert outstation("reindex", "manuals", "--all").exit_code == 2


def kill_after(process: subprocess.Popen[bytes], url: str, files: int) -> None:
    """As soon as the gateway has so many, if it comes to that."""
    until(lambda: process.poll() is not None or len(every(f"{url}/v1/files")) >= files)
    process.kill()


def test_killed_anywhere_another_run_brings_it_in_step(outstation: Outstation, url: str, folder: Path) -> None:
    """Not one file is lost, there twice, or left in `/v1/files` without a store."""
    killed = 0
    for place in (1, 5, 12):
        for number in range(12):
            (folder / f"n{number}.md").write_text(f"# Note {number}\n\nVersion {place} of it. {'It is long. ' * 200}")
        with subprocess.Popen([*COMMAND, "ingest", str(folder)], cwd=ROOT, stderr=subprocess.DEVNULL) as process:
            kill_after(process, url, len(every(f"{url}/v1/files")) + place)
        killed += process.returncode == -signal.SIGKILL
        done = outstation("ingest", str(folder), "--json")
        assert done.exit_code == 0, done.output
        store = the_store(url)
        assert in_store(url, store) == in_folder(folder)
        members = {one["id"] for one in every(f"{url}/v1/vector_stores/{store}/files")}
        assert {one["id"] for one in every(f"{url}/v1/files")} == members
    assert killed > 0


def test_one_line_that_changes_in_a_terminal(url: str, folder: Path) -> None:
    (folder / "broken.pdf").write_bytes(BROKEN)
    master, slave = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, "ingest", str(folder)], stdout=slave, stderr=slave, cwd=ROOT, env={**os.environ, "TERM": "xterm"}
    ) as process:
        os.close(slave)
        seen = b""
        with contextlib.suppress(OSError):  # the end of a terminal, on Linux
            while piece := os.read(master, 4096):
                seen += piece
    os.close(master)
    assert process.returncode == 1
    assert b"3/3  1 failed" in seen
    assert b"p12.md: added" not in seen
    assert b": 2 added, 1 failed." in seen


def test_a_second_one_on_the_same_folder_is_refused(outstation: Outstation, url: str, folder: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, "ingest", str(folder), "--watch"], cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith(b"Watching ")
        until(lambda: [one["file_counts"]["completed"] for one in every(f"{url}/v1/vector_stores")] == [2])
        second = outstation("ingest", str(folder))
        process.send_signal(signal.SIGINT)
        assert process.stderr.read().endswith(b"the same command goes on from there.\n")
    assert second.exit_code == 1
    assert "Another `outstation ingest` is at work" in second.stderr
    assert process.returncode == 130


def test_watching_goes_on_through_a_restart(
    start_gateway: Starter, documents_home: Path, tmp_path: Path, folder: Path
) -> None:
    home = tmp_path / "own"
    shutil.copytree(documents_home / "models" / "bge-small-en-v1.5", home / "models" / "bge-small-en-v1.5")
    first = start_gateway(env={"OUTSTATION_HOME": str(home)})
    told = tmp_path / "told"
    environment = {**os.environ, "OUTSTATION_URL": first.url}
    command = [*COMMAND, "ingest", str(folder), "--watch", "--json"]
    with (
        told.open("wb") as errors,
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors) as process,
    ):
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["added"] == 2
        first.process.kill()
        first.process.wait()
        (folder / "late.md").write_text("# Late\n\nIt came while nobody answered.\n")
        until(lambda: b"No gateway answers" in told.read_bytes())
        again = subprocess.Popen(
            first.process.args,
            cwd=first.home,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OUTSTATION_HOME": str(home)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            assert json.loads(process.stdout.readline())["added"] == 3
            assert in_store(first.url, the_store(first.url)) == in_folder(folder)
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=30) == 130
        finally:
            process.kill()
            again.terminate()
            again.wait(timeout=30)
    assert told.read_bytes().count(b"No gateway answers") == 1
    assert b"It goes on." in told.read_bytes()
