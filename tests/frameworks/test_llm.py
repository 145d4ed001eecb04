"""The `llm` command line, told of the gateway as its manual says, in `extra-openai-models.yaml`."""

from __future__ import annotations

import json
import re
import subprocess

import pytest

MODELS = """
- model_id: site
  model_name: qwen
  api_base: {url}
  supports_tools: true
  supports_schema: true
- model_id: site-responses
  model_name: qwen
  api_base: {url}
  supports_tools: true
  supports_schema: true
  responses: true
"""
WEATHER = '''def get_weather(city: str) -> str:
    "The weather of a city."
    return "Rain, 12 degrees."'''
SCHEMA = """{
  "type": "object",
  "properties": {"machine": {"type": "string"}, "severity": {"enum": ["low", "medium", "high"]}},
  "required": ["machine", "severity"],
  "additionalProperties": false
}"""
GREEDY = ("-o", "temperature", "0")


@pytest.fixture
def llm(framework_bin, framework_env, framework_gateway, tmp_path):
    (tmp_path / "extra-openai-models.yaml").write_text(MODELS.format(url=framework_gateway.base_url))
    to_the_site = {"OPENAI_BASE_URL": framework_gateway.base_url, "OPENAI_API_KEY": "none"}
    env = {**framework_env, **to_the_site, "LLM_USER_PATH": str(tmp_path)}

    def run(*args: str, said: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [framework_bin / "llm", *args], env=env, input=said, capture_output=True, text=True, timeout=300
        )

    return run


@pytest.fixture(params=["site", "site-responses"])
def model(request):
    return request.param


def test_a_conversation(llm, model):
    first = llm("-m", model, "-s", "You are terse.", "--usage", *GREEDY, said="My name is Ada.")
    assert first.returncode == 0, first.stderr
    assert first.stdout.strip()
    assert re.match(r"Token usage: \d+ input, \d+ output", first.stderr)
    second = llm("-c", "What is my name?", "--no-stream", *GREEDY)
    assert "Ada" in second.stdout


def test_an_object_of_a_schema(llm, model):
    found = llm("-m", model, "--schema", SCHEMA, "Pump P-7 leaks: severity high.", *GREEDY)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["severity"] == "high"


def test_a_tool_is_called_and_its_result_taken(llm, model):
    """The model never ends the chain itself: given the result, it only calls again. That it was asked a second time,
    and answered, is what the limit of two tells."""
    asked = ("--functions", WEATHER, "--td", "--chain-limit", "2", "What is the weather in Paris?", *GREEDY)
    done = llm("-m", model, *asked)
    assert "Tool call: get_weather({'city': 'Paris'})" in done.stderr
    assert "Rain, 12 degrees." in done.stderr
    assert done.stderr.strip().splitlines()[-1] == "Error: Chain limit of 2 exceeded."


def test_an_embedding(llm):
    """By the name that it knows of itself, which is an alias here."""
    done = llm("embed", "-m", "3-small", "-c", "The pump leaks.")
    assert len(json.loads(done.stdout)) == 384


def test_an_error_is_told_in_our_words(llm):
    done = llm("-m", "gpt-4o", "Hello")
    assert done.returncode == 1
    assert "There is no model 'gpt-4o' here." in done.stderr
