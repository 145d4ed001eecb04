"""`doctor`: each check against facts that are right, doubtful and wrong."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.models.store import LocalModel, Store
from gateway.commands.installation import (
    built_features,
    check_config,
    check_configured_files,
    check_engine,
    check_home,
    check_models,
    check_port,
)
from gateway.commands.machine import (
    check_clock,
    check_cores,
    check_limit,
    check_memory,
    check_processor,
    cpu_quota,
    memory_limit,
)
from gateway.commands.ports import in_use
from tests.cli.conftest import FakeGateway, Outstation
from tests.models.gguf_writer import gguf


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which something listens that is not a gateway."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.01)
        yield server.getsockname()[1]


def test_a_box_is_examined_line_by_line(outstation: Outstation, tiny: LocalModel) -> None:
    Path("outstation.toml").write_text("[server]\nport = 0\n")
    result = outstation("doctor", "--json")
    findings = {finding["subject"]: finding for finding in json.loads(result.stdout)}
    assert list(findings) == [
        "processor", "cores", "configuration", "home", "model tiny", "memory", "port", "clock", "engine",
        "runtime",
    ]  # fmt: skip
    failed = [subject for subject, finding in findings.items() if finding["level"] == "fail"]
    assert result.exit_code == (1 if failed else 0)
    assert findings["model tiny"]["level"] == "ok"


def test_a_failure_is_told_with_what_to_do_and_exits_with_1(outstation: Outstation, tiny: LocalModel) -> None:
    Path("outstation.toml").write_text("[server]\nprot = 1\n")
    tiny.path.write_bytes(b"GGUF")
    result = outstation("doctor")
    assert result.exit_code == 1
    assert "fail  configuration: " in result.stdout
    assert "Did you mean `port`?" in result.stdout
    assert "fail  model: " in result.stdout
    assert "outstation pull tiny" in result.stdout


def test_an_empty_store_is_no_failure(tmp_path: Path) -> None:
    ((finding, need),) = check_models(Store(tmp_path), deep=False)
    assert (finding.level, need) == ("warn", 0)
    assert "outstation pull" in finding.todo


def test_a_model_needs_its_file_and_its_cache(home: Path, tiny: LocalModel) -> None:
    ((finding, need),) = check_models(Store(home), deep=False)
    assert finding.level == "ok"
    assert need == tiny.size + 64 * 32  # context length times bytes a cell


def test_a_deep_look_hashes_the_file(home: Path, tiny: LocalModel) -> None:
    ((finding, _),) = check_models(Store(home), deep=True)
    assert finding.level == "fail"
    assert f"not {'0' * 64}" in finding.text
    assert finding.todo == "Fetch it again: `outstation pull --force tiny`."


@pytest.mark.parametrize(
    ("cpuinfo", "machine", "level", "expected"),
    [
        (
            "model name\t: A\nflags\t\t: fpu avx avx2 fma f16c avx512f\n",
            "x86_64",
            "ok",
            "A: AVX, AVX2, FMA, F16C, AVX-512",
        ),
        ("model name\t: B\nflags\t\t: fpu avx\n", "x86_64", "warn", "B: AVX"),
        ("flags\t\t: fpu\n", "x86_64", "warn", "no vector instructions"),
        ("Features\t: fp asimd asimddp i8mm\n", "aarch64", "ok", "NEON, dot product, int8 matmul"),
        ("Features\t: fp asimd\n", "aarch64", "warn", "NEON"),
        ("", "riscv64", "ok", "cannot be read here"),
    ],
)
def test_processors(cpuinfo: str, machine: str, level: str, expected: str) -> None:
    finding = check_processor(cpuinfo, machine)
    assert finding.level == level
    assert expected in finding.text
    assert bool(finding.todo) == (level != "ok")


def test_a_quota_below_the_cores_is_told(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert cpu_quota(tmp_path) is None
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert cpu_quota(tmp_path) == 0.5
    finding = check_cores(tmp_path)
    assert finding.level == "warn"
    assert "limited to 0.5" in finding.text


def test_older_control_groups_are_read(tmp_path: Path) -> None:
    for folder, name, text in (
        ("cpu", "cpu.cfs_quota_us", "150000\n"),
        ("cpu", "cpu.cfs_period_us", "100000\n"),
        ("memory", "memory.limit_in_bytes", "1000000\n"),
    ):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / name).write_text(text)
    assert cpu_quota(tmp_path) == 1.5
    assert memory_limit(tmp_path) == 1_000_000
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert memory_limit(tmp_path) is None


def test_memory_against_the_models() -> None:
    assert check_memory(1000, 900, {}).level == "ok"
    assert "the largest model, b, needs about 500 B" in check_memory(1000, 900, {"a": 100, "b": 500}).text
    tight = check_memory(1000, 300, {"a": 100, "b": 500})
    assert (tight.level, "b (500 B)" in tight.todo) == ("warn", True)
    assert check_memory(1000, 900, {"a": 2000}).level == "fail"


def test_the_limit_against_all_models_together() -> None:
    assert check_limit(3, {"a": 1 << 20, "b": 2 << 20}).level == "ok"
    assert check_limit(2, {"a": 1 << 20, "b": 2 << 20}).level == "warn"
    never = check_limit(1, {"a": 1 << 20, "b": 2 << 20})
    assert (never.level, never.todo.startswith("b can never be loaded")) == ("fail", True)


def test_the_clock_against_release_and_models() -> None:
    now = time.time()
    assert check_clock(now, {"a": int(now)}).level == "ok"
    assert check_clock(now, {"a": int(now) + 86_400}).level == "warn"
    assert check_clock(0.0, {}).level == "fail"


def test_the_home_must_be_writable(tmp_path: Path) -> None:
    assert check_home(tmp_path / "new").level == "ok"
    (tmp_path / "file").write_text("")
    finding = check_home(tmp_path / "file")
    assert finding.level == "fail"
    assert "OUTSTATION_HOME" in finding.todo


def test_the_configuration_is_read(tmp_path: Path) -> None:
    finding, config = check_config(None)
    assert (finding.level, config is not None) == ("ok", True)
    finding, config = check_config(tmp_path / "absent.toml")
    assert (finding.level, config) == ("fail", None)


def test_models_that_the_configuration_names_are_examined(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.gguf", tmp_path / "bad.gguf"
    good.write_bytes(gguf())
    bad.write_bytes(b"GGUF")
    text = '[[models]]\nname = "good"\nfile = "good.gguf"\n[[models]]\nname = "bad"\nfile = "bad.gguf"\n'
    (tmp_path / "outstation.toml").write_text(text)
    finding, config = check_config(None)
    assert finding.level == "ok"
    assert config is not None
    levels = {finding.subject: finding.level for finding, _ in check_configured_files(config)}
    assert levels == {"model good": "ok", "model bad": "fail"}
    bad.unlink()
    finding, _ = check_config(None)
    assert finding.level == "fail"
    assert "there is no file" in finding.text


def test_a_port_is_free_ours_or_taken(scripted: FakeGateway, taken: int) -> None:
    assert check_port("127.0.0.1", 0, None).level == "ok"
    ours = check_port("127.0.0.1", int(scripted.url.rpartition(":")[2]), None)
    assert (ours.level, "running gateway" in ours.text) == ("ok", True)
    finding = check_port("127.0.0.1", taken, None, wait_s=0.2)
    assert finding.level == "fail"
    assert "already in use" in finding.text
    assert in_use("192.0.2.1", 8484) == "cannot assign requested address"


def engine(script: str, flags: str = "") -> tuple[str, str]:
    finding = check_engine([sys.executable, "-c", script], flags)
    return finding.level, finding.text


def test_an_engine_is_loaded_missing_or_built_for_another_processor() -> None:
    good = 'print(\'log\\n{"version": "1", "info": "CPU : AVX = 1 | AVX2 = 1 | AVX512 = 0 | LLAMAFILE = 1 | "}\')'
    assert engine(good) == ("ok", "llama-cpp-python 1, built with AVX, AVX2")
    assert engine(good, "avx2 avx512f")[0] == "warn"
    assert engine("import absent_module") == (
        "fail",
        "llama.cpp cannot be loaded: ModuleNotFoundError: No module named 'absent_module'",
    )
    assert engine("import os, signal; os.kill(os.getpid(), signal.SIGILL)") == (
        "fail",
        "llama.cpp does not run on this processor (killed by signal 4)",
    )
    assert engine("print('nonsense')")[0] == "fail"
    assert check_engine(["/nowhere/python"], "").level == "fail"


def test_only_instruction_sets_count_as_features() -> None:
    assert built_features("CPU : SSE3 = 1 | AVX = 0 | OPENMP = 1 | REPACK = 1 | ") == ["SSE3"]
