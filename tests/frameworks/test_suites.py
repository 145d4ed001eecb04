"""Frameworks that people put on top of the gateway, at work: langchain-openai, instructor, pydantic-ai.

Each file in `suites/` is a suite of its own, run by the frameworks' own Python. What the model is not capable of is
marked there, with what it says instead.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

SUITES = Path(__file__).parent / "suites"
FILES = sorted(SUITES.glob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_framework_finds_what_it_expects(file, framework_bin, framework_env, framework_gateway):
    command = [framework_bin / "python", "-m", "pytest", "-c", SUITES / "pytest.ini", "--rootdir", SUITES, file]
    done = subprocess.run(
        [*command, "--confcutdir", SUITES], cwd=SUITES, env=framework_env, capture_output=True, text=True, timeout=900
    )
    log = framework_gateway.log.read_text()
    print(done.stdout, done.stderr, *(line for line in log.splitlines() if " info " not in line), sep="\n")
    assert done.returncode == 0
    assert re.search(r"\d+ passed", done.stdout)
