"""What a new configuration keeps: a provider's connections, and what is known of its endpoints."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import load_config
from gateway.providers import provider_settings, remote_routes

ACME = """[[providers]]
name = "acme"
base_url = "https://acme.example/v1"
[[providers.models]]
name = "large"
context_length = 1000
input_price = 1
output_price = 2
quality = 3
"""


@pytest.mark.parametrize(
    ("line", "instead"),
    [("input_price = 1", "input_price = 5"), ("output_price = 2", "output_price = 5"), ("quality = 3", "quality = 5")],
)
def test_a_new_price_or_rank_is_no_new_provider(tmp_path: Path, line: str, instead: str) -> None:
    file, read = tmp_path / "outstation.toml", []
    for text in (ACME, ACME.replace(line, instead)):
        file.write_text(text, encoding="utf-8")
        read.append(load_config(file, environ={"OUTSTATION_HOME": str(tmp_path)}))
    before, after = read
    assert provider_settings(before) == provider_settings(after)
    assert remote_routes(before) != remote_routes(after)
