"""`run`, `ps` and `doctor` against a real gateway with the real model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from gateway.commands.installation import check_port
from tests.cli.conftest import Outstation

if TYPE_CHECKING:
    from tests.conftest import Gateway


def test_run_streams_an_answer(outstation: Outstation, gateway: Gateway) -> None:
    arguments = ("run", "auto", "Say hello.", "--max-tokens", "8", "--temperature", "0", "-v", "--url", gateway.url)
    result = outstation(*arguments)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip()
    assert "prompt tokens" in result.stderr


def test_run_names_an_unknown_model(outstation: Outstation, gateway: Gateway) -> None:
    result = outstation("run", "absent", "Hi", "--url", gateway.base_url)
    assert result.exit_code == 1
    assert "absent" in result.stderr


def test_ps_shows_the_model(outstation: Outstation, gateway: Gateway) -> None:
    assert "smollm2-135m-instruct" in outstation("ps", "--url", gateway.url).stdout
    (model,) = json.loads(outstation("ps", "--json", "--url", gateway.url).stdout)["models"]
    assert model["status"] == "ready"


def test_the_doctor_knows_its_own_gateway(gateway: Gateway) -> None:
    finding = check_port("127.0.0.1", int(gateway.url.rpartition(":")[2]), None)
    assert (finding.level, "running gateway" in finding.text) == ("ok", True)
