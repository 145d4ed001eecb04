"""Each example runs as it stands, against a real gateway with the real model."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "clients" / "examples"


def run(gateway, *command):
    env = {**os.environ, "OPENAI_BASE_URL": gateway.base_url}
    done = subprocess.run(command, cwd=EXAMPLES, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done


def test_python_chat(gateway):
    done = run(gateway, sys.executable, "openai_chat.py", "What is a pump?")
    assert done.stdout.strip()
    assert "local/smollm2-135m-instruct" in done.stderr


def test_python_stream(gateway):
    done = run(gateway, sys.executable, "openai_stream.py", "What is a pump?")
    assert done.stdout.strip()
    assert "tokens" in done.stderr


def test_curl(gateway):
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    done = run(gateway, "sh", "curl.sh", 'What is a "pump"?')
    models, chat, stream = done.stdout.split("# ")[1:]
    assert json.loads(models.partition("\n")[2])["object"] == "list"
    assert json.loads(chat.partition("\n")[2])["choices"][0]["message"]["content"]
    assert stream.rstrip().endswith("data: [DONE]")


def test_node(gateway):
    if not shutil.which("node"):
        pytest.skip("node is not installed")
    if not (EXAMPLES / "node_modules" / "openai").is_dir():
        pytest.skip("`npm install` has not been run in clients/examples")
    done = run(gateway, "node", "openai_chat.mjs", "What is a pump?")
    assert len(done.stdout.split()) > 2
    assert "local/smollm2-135m-instruct" in done.stderr


def test_python_search(whole_gateway):
    done = run(whole_gateway, sys.executable, "search.py")
    best, *others = done.stdout.splitlines()
    assert "shaft seal" in best
    assert all(float(best.split()[0]) >= float(other.split()[0]) for other in others)


def test_curl_search(whole_gateway):
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    done = run(whole_gateway, "sh", "search.sh", 'Why is the "floor" wet?')
    embedded, ranked = (json.loads(part.partition("\n")[2]) for part in done.stdout.split("# ")[1:])
    assert len(embedded["data"][0]["embedding"]) == 8
    assert ranked["results"][0]["index"] == 1


def test_an_example_says_when_no_gateway_is_there():
    env = {**os.environ, "OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}
    command = [sys.executable, "openai_chat.py"]
    done = subprocess.run(command, cwd=EXAMPLES, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "Connection error" in done.stderr
