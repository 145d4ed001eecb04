"""Schemas through every dialect of a real gateway with the real model: what works, what is cut, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import jsonschema
import pytest

from tests.conftest import Gateway

M = [{"role": "user", "content": "Report the leak as JSON."}]
Ask = Callable[..., httpx2.Response]
STRICT = {"name": "x", "strict": True}
DIALECTS: dict[str, tuple[str, Callable[[Any, int], dict[str, Any]]]] = {
    "chat": (
        "/chat/completions",
        lambda schema, limit: {
            "messages": M,
            "max_tokens": limit,
            "response_format": {"type": "json_schema", "json_schema": {**STRICT, "schema": schema}},
        },
    ),
    "completions": (
        "/completions",
        lambda schema, limit: {
            "prompt": "A report:",
            "max_tokens": limit,
            "response_format": {"type": "json_schema", "json_schema": {**STRICT, "schema": schema}},
        },
    ),
    "responses": (
        "/responses",
        lambda schema, limit: {
            "input": "Report the leak as JSON.",
            "max_output_tokens": max(limit, 1),
            "text": {"format": {"type": "json_schema", **STRICT, "schema": schema}},
            "store": False,
        },
    ),
    "messages": (
        "/messages",
        lambda schema, limit: {
            "messages": M,
            "max_tokens": limit,
            "output_config": {"format": {"type": "json_schema", "schema": schema}},
        },
    ),
    "chat tools": (
        "/chat/completions",
        lambda schema, limit: {
            "messages": M,
            "max_tokens": limit,
            "tools": [{"type": "function", "function": {**STRICT, "parameters": schema}}],
            "tool_choice": "required",
            "parallel_tool_calls": False,
        },
    ),
    "responses tools": (
        "/responses",
        lambda schema, limit: {
            "input": "Report the leak.",
            "max_output_tokens": limit,
            "tools": [{"type": "function", **STRICT, "parameters": schema}],
            "tool_choice": "required",
            "parallel_tool_calls": False,
            "store": False,
        },
    ),
    "messages tools": (
        "/messages",
        lambda schema, limit: {
            "messages": M,
            "max_tokens": limit,
            "tools": [{"name": "x", "strict": True, "input_schema": schema}],
            "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        },
    ),
}
RICH = {
    "type": "object",
    "properties": {
        "machine": {"type": "string", "pattern": "^P-[0-9]{1,3}$"},
        "severity": {"enum": ["low", "high"]},
        "version": {"const": 2},
        "parts": {"type": "array", "items": {"$ref": "#/$defs/part"}, "minItems": 1, "maxItems": 2},
        "note": {"anyOf": [{"type": "null"}, {"type": "boolean"}]},
        "by": {
            "oneOf": [
                {"type": "object", "properties": {"kind": {"const": kind}}, "required": ["kind"]}
                | {"additionalProperties": False}
                for kind in ("user", "robot")
            ]
        },
    },
    "required": ["machine", "severity", "version", "parts", "note", "by"],
    "additionalProperties": False,
    "$defs": {
        "part": {
            "type": "object",
            "properties": {"spare": {"type": "boolean"}},
            "required": ["spare"],
            "additionalProperties": False,
        }
    },
}  # fmt: skip
LONG = {
    "type": "object",
    "properties": {"a": {"type": "string", "minLength": 400}},
    "required": ["a"],
    "additionalProperties": False,
}
NEEDS_ITSELF = {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}, "required": ["n"]}
REFUSED = [
    ("`$ref`", {"type": "object", "properties": {"a": {"$ref": "https://elsewhere.example/s.json"}}}),
    ("`$ref`", {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}),
    ("`$ref`", {"$ref": "#/$defs/n", "$defs": {"n": NEEDS_ITSELF}}),
    ("`$ref`", {"type": "object", "properties": {"a": {"$ref": "#/$defs/gone"}}}),
    ("longer than", {"type": "object", "properties": {"a": {"enum": ["x" * 1000 + str(n) for n in range(1000)]}}}),
    ("`oneOf`", {"type": "object", "properties": {"a": {"oneOf": [{"type": "integer"}, {"type": "number"}]}}}),
    ("`pattern`", {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=a)b"}}}),
    ("not", {"type": "object", "properties": {"a": {"not": {"type": "string"}}}}),
    ("if", {"type": "object", "if": {"required": ["a"]}, "then": {"required": ["b"]}}),
    ("dependentRequired", {"type": "object", "dependentRequired": {"a": ["b"]}}),
]


@pytest.fixture(scope="module")
def ask(whole_gateway: Gateway) -> Iterator[Ask]:
    with httpx2.Client(base_url=whole_gateway.base_url, timeout=60) as client:

        def asked(dialect: str, schema: Any, limit: int = 300) -> httpx2.Response:
            path, body = DIALECTS[dialect]
            return client.post(path.lstrip("/"), json={"model": "auto", "temperature": 0, **body(schema, limit)})

        yield asked


def said(dialect: str, body: dict[str, Any]) -> tuple[Any, str]:
    """What the model wrote, as JSON, and why it ended."""
    if dialect.startswith("responses"):
        item = body["output"][-1]
        text = item["arguments"] if "tools" in dialect else item["content"][0]["text"]
        ended = "length" if body["status"] == "incomplete" else "stop"
        return text, ended
    if dialect.startswith("messages"):
        block = body["content"][-1] if body["content"] else {"text": ""}
        ended = {"max_tokens": "length"}.get(body["stop_reason"], "stop")
        return json.dumps(block["input"]) if block.get("type") == "tool_use" else block["text"], ended
    choice = body["choices"][0]
    ended = "length" if choice["finish_reason"] == "length" else "stop"
    if dialect == "completions":
        return choice["text"], ended
    calls = choice["message"].get("tool_calls")
    return calls[0]["function"]["arguments"] if calls else choice["message"]["content"], ended


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_finishes_validates(ask: Ask, dialect: str) -> None:
    answer = ask(dialect, RICH)
    assert answer.status_code == 200, answer.text
    text, ended = said(dialect, answer.json())
    assert ended == "stop"
    jsonschema.validate(json.loads(text), RICH)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_is_cut_says_so(ask: Ask, dialect: str) -> None:
    answer = ask(dialect, LONG, 40)
    assert answer.status_code == 200, answer.text
    assert said(dialect, answer.json())[1] == "length"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_cannot_be_enforced_is_refused_by_name(ask: Ask, dialect: str) -> None:
    for named, schema in REFUSED:
        answer = ask(dialect, schema)
        assert answer.status_code == 400, (named, answer.text)
        error = answer.json()["error"]
        if error["code"] == "context_length_exceeded":
            assert "tools" in dialect  # a megabyte of them is in the prompt
            assert named == "longer than"
            continue
        assert error["code"] == "unsupported_schema"
        assert named in error["message"]
        assert error["param"].split(".")[0] in ("response_format", "text", "output_config", "tools")
