"""The bench of structured output: what it asks, how it judges, and that it does so of a real gateway."""

from __future__ import annotations

import json
import sys

import jsonschema
import pytest

from bench import schemas_report as report
from bench.client import Answer
from bench.schemas import MODELS, loaded, main, parse
from bench.schemas_load import GRAMMARS, Filled, Form, Wave, fault, forms, judge

KEYWORDS = (
    "$ref", "$defs", "enum", "const", "pattern", "format", "minItems", "maxItems", "anyOf", "oneOf", "allOf", "minimum",
    "exclusiveMaximum", "multipleOf", "additionalProperties", "required", "patternProperties", "prefixItems",
    "minLength", "minProperties",
)  # fmt: skip


def test_the_forms_are_schemas_of_every_keyword_and_always_the_same() -> None:
    asked = forms(200, seed=1)
    for form in asked:
        jsonschema.Draft202012Validator.check_schema(form.schema)
    text = json.dumps([form.schema for form in asked if form.enforceable])
    assert not [keyword for keyword in KEYWORDS if f'"{keyword}":' not in text]
    assert sum(not form.enforceable for form in asked) == 10
    assert asked == forms(200, seed=1)
    assert asked != forms(200, seed=2)


def answered(text: str, reason: str = "stop") -> Answer:
    choice = {"message": {"content": text}, "finish_reason": reason}
    return Answer(status=200, body=json.dumps({"choices": [choice], "usage": {"completion_tokens": 3}}).encode())


def refused(status: int, code: str) -> Answer:
    return Answer(status=status, body=json.dumps({"error": {"code": code, "message": "why"}}).encode())


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (answered("5"), "valid"),
        (answered("9"), "invalid"),
        (answered("5 5"), "invalid"),
        (answered("9", "length"), "cut"),
        (refused(400, "unsupported_schema"), "refused"),
        (refused(400, "context_length_exceeded"), "failed"),
        (refused(503, "unsupported_schema"), "failed"),
        (Answer(error="TimeoutError"), "failed"),
    ],
)
def test_each_form_ends_in_one_outcome(answer: Answer, outcome: str) -> None:
    assert judge(Form({"type": "integer", "maximum": 7}), answer).outcome == outcome


@pytest.mark.parametrize(
    ("form", "right", "wrong"),
    [
        ("date", "2024-02-29", "2023-02-29"),
        ("date-time", "2024-02-29T23:59:60z", "2023-02-29T10:00:00Z"),
        ("ipv4", "10.0.0.1", "10.0.0.256"),
        ("uuid", "00000000-0000-0000-0000-000000000000", "0"),
    ],
)
def test_formats_are_checked(form: str, right: str, wrong: str) -> None:
    schema = {"type": "string", "format": form}
    assert not fault(schema, json.dumps(right))
    assert wrong in fault(schema, json.dumps(wrong))


def wave(tokens: int, seconds: float) -> Wave:
    return Wave([tokens, tokens], seconds)


def test_the_tables_say_what_was_seen() -> None:
    filled = [Filled("valid")] * 3 + [Filled("invalid", "$: no"), Filled("cut"), Filled("refused")]
    table = report.filled_table([Form({})] * 5 + [Form({}, enforceable=False)], {"greedy": filled}, 16).markdown()
    assert "| greedy   | 6     | 4        | **75.0%** (3 of 4) | 1       | 1   | 1       | 0      |" in table
    pairs = [report.Pair(wave(45, 1.0), wave(50, 1.0)), report.Pair(wave(45, 0.5), wave(50, 1.0))]
    table = report.rate_table("m", {"a schema": pairs}, streams=2, tokens=64).markdown()
    for cell in ("100 (100–100)", "135 (90–180)", "**135.0%**", "| 45 "):
        assert cell in table


def test_each_part_has_a_place_of_its_own(tmp_path) -> None:
    path = tmp_path / "RESULTS.md"
    path.write_text("# Results\n\nothers' words\n")
    for said in ("1", "2"):
        report.part("schemas", first=True).keep(path, f"forms {said}")
        report.part("m").keep(path, f"rates {said}")
    kept = path.read_text()
    assert [kept.count(text) for text in ("forms 1", "forms 2", "rates 2", "## Structured output")] == [0, 1, 1, 1]
    assert kept.index("others'") < kept.index("forms 2") < kept.index("rates 2")


def test_a_real_gateway_is_measured(model_file, tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / f"{MODELS[0]}.gguf").symlink_to(model_file)
    some = ["--model", MODELS[0], "--grammar", "json_object", "--streams", "2"]
    monkeypatch.setattr("sys.argv", ["x", "--quick", "--schemas", "4", "--tokens", "8", "--home", str(tmp_path), *some])
    monkeypatch.setattr("sys.argv", [*sys.argv, "--out", str(tmp_path)])
    assert main() == 0, "every answer is valid, cut, or refused for a reason"
    printed = capsys.readouterr().out
    assert printed.count("### ") == 2
    assert "json_object" in printed
    assert "temperature 1" in printed
    monkeypatch.setattr("sys.argv", [*sys.argv, "--scenario", "rates", "--more"])
    assert main() == 0
    pairs = loaded(tmp_path / f"schemas-{MODELS[0]}.json")
    assert [len(pair.held.counts) for pair in pairs["json_object"]] == [2, 2]
    assert "2 interleaved rounds" in capsys.readouterr().out


def test_what_is_asked_by_default() -> None:
    args = parse([])
    assert (args.schemas, args.streams, args.write) == (500, 8, False)
    assert args.grammar == list(GRAMMARS)
