"""The tables and the file that keeps them; the load that is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import report
from bench.load import COMMON, Load
from bench.peers import free_port, llama_server, llama_server_busy, outstation, outstation_busy
from bench.run import parse
from bench.stats import Figures


def test_a_table_sets_each_server_against_the_reference() -> None:
    def rounds(speed: float) -> list[Figures]:
        return [Figures(speed, 0.05, 0.5, 0.01, 0.02)]

    table = report.load_table("T", "N", {("llama-server", 8): rounds(100.0), ("outstation", 8): rounds(150.0)})
    assert table.rows[1][:4] == ["8", "outstation", "150 (150–150)", "1.50"]
    assert table.rows[1][4:6] == ["50.0 ms", "500 ms"]
    assert table.markdown().count("\n|") == 4


def test_without_the_reference_there_is_no_ratio() -> None:
    table = report.load_table("T", "N", {("outstation", 1): [Figures(1, 1, 1, 1, float("nan"))]})
    assert table.rows[0][3] == "–"
    assert table.rows[0][7] == "–"


def test_results_keep_what_people_wrote(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    path.write_text(f"Before.\n{report.BEGIN}\nold\n{report.END}\nAfter.\n")
    report.keep(path, "new")
    assert path.read_text() == f"Before.\n{report.BEGIN}\n\nnew\n{report.END}\nAfter.\n"
    path.write_text("no markers")
    with pytest.raises(ValueError, match="markers"):
        report.keep(path, "new")


def test_no_two_questions_are_alike_but_their_prefix() -> None:
    load = Load(extras={"ignore_eos": True})
    bodies = [load.question() for _ in range(40)]
    assert len({body["messages"][1]["content"] for body in bodies}) == 40
    assert len({body["messages"][0]["content"] for body in bodies}) == 1
    assert all(body["ignore_eos"] and body["max_tokens"] == 64 for body in bodies)
    assert all(body[key] == value for body in bodies for key, value in COMMON.items())


def test_long_prompts_share_no_prefix() -> None:
    load = Load()
    first, second = (load.long_prompt(3500)["messages"][0]["content"].split()[:8] for _ in range(2))
    assert first != second
    assert Load().long_prompt(50) == Load().long_prompt(50), "the same seed asks the same"


def test_what_a_status_page_says() -> None:
    page = {"models": [{"running": 2, "waiting": 1}, {"running": 0, "waiting": 0}]}
    assert outstation_busy(page) == 3
    assert llama_server_busy([{"is_processing": True}, {"is_processing": False}]) == 1


def test_the_command_lines(tmp_path: Path) -> None:
    port = free_port()
    command = llama_server(Path("/bin/llama-server")).command(port, Path("m.gguf"), tmp_path)
    assert command[command.index("--port") + 1] == str(port)
    assert "127.0.0.1" in command
    outstation().command(port, Path('a "quoted" folder/m.gguf'), tmp_path)
    assert 'file = "a \\"quoted\\" folder/m.gguf"' in (tmp_path / "outstation.toml").read_text()


def test_quick_is_one_round_unless_said_otherwise() -> None:
    assert parse(["--quick"]).rounds == 1
    assert parse(["--quick", "--rounds", "2"]).rounds == 2
    assert parse([]).rounds == 3
