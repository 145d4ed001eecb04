"""The command as a whole: help, version, `serve` before it serves, and how light its start is."""

from __future__ import annotations

import os
import pty
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from backends.models.store import Store
from gateway.cli import cli
from tests.cli.conftest import Outstation
from tests.models.gguf_writer import gguf

ROOT = Path(__file__).parents[2]


def test_help_lists_every_command_with_one_line(outstation: Outstation) -> None:
    text = outstation("--help").stdout
    for name, command in cli.commands.items():
        assert f"  {name} " in text
        assert command.get_short_help_str()
        assert outstation(name, "-h").exit_code == 0


def test_the_documentation_names_every_command_and_option() -> None:
    text = (ROOT / "docs" / "cli.md").read_text("utf-8")
    for name, command in cli.commands.items():
        assert f"## `outstation {name}" in text
        for parameter in command.params:
            for option in parameter.opts:
                assert not option.startswith("--") or f"`{option}" in text, f"{name} {option} is undocumented"


def test_the_version_is_told(outstation: Outstation) -> None:
    result = outstation("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("outstation")


def test_serve_refuses_a_wrong_configuration_with_its_place(outstation: Outstation) -> None:
    Path("outstation.toml").write_text("[server]\nport = 'x'\n")
    result = outstation("serve")
    assert result.exit_code == 1
    assert "line 2" in result.stderr
    assert "server.port" in result.stderr


def test_serve_refuses_an_open_port_without_a_key(outstation: Outstation) -> None:
    result = outstation("serve", "--host", "0.0.0.0")
    assert result.exit_code == 1
    assert "without an API key" in result.stderr


def test_serve_says_that_a_port_is_taken(outstation: Outstation) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        result = outstation("serve", "--port", str(server.getsockname()[1]))
    assert result.exit_code == 1
    assert "Address already in use" in result.output
    assert "--port" in result.output


def test_serve_refuses_a_configured_model_that_is_not_there(outstation: Outstation) -> None:
    Path("outstation.toml").write_text('[[models]]\nname = "pumps"\n')
    result = outstation("serve", "--port", "0")
    assert result.exit_code == 1
    assert "the model 'pumps'" in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("port", ["-1", "65536", "x"])
def test_serve_takes_only_ports(outstation: Outstation, port: str) -> None:
    assert outstation("serve", "--port", port).exit_code == 2


def test_the_command_starts_without_heavy_imports() -> None:
    script = (
        "import sys, gateway.cli\n"
        "heavy = {'numpy', 'llama_cpp', 'onnxruntime', 'fastapi', 'rich', 'httpx2', 'pydantic', 'psutil'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_pull_shows_a_bar_in_a_terminal(home: Path, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(gguf())
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "gateway.cli", "pull", str(tmp_path / "x.gguf")]
    with subprocess.Popen(
        command, stdout=slave, stderr=slave, cwd=ROOT, env={**os.environ, "TERM": "xterm"}
    ) as process:
        os.close(slave)
        seen = b""
        while True:
            try:
                seen += os.read(master, 4096)
            except OSError:  # the end of a terminal, on Linux
                break
    os.close(master)
    assert process.returncode == 0
    assert b"copying" in seen
    assert b"x is here: " in seen
    assert Store(home).get("x").size == len(gguf())
