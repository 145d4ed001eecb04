"""Real models call tools: Qwen in its own format, SmolLM2 in words, held to each function's schema."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from backends.errors import InvalidRequest
from backends.llama.backend import LlamaBackend
from backends.types import Grammar, NamedTool, Request
from tests.llama.conftest import Answer, Running, ask, chat

pytestmark = pytest.mark.anyio

STATUS = {
    "type": "function",
    "function": {
        "name": "get_pump_status",
        "description": "The present state of a pump.",
        "parameters": {
            "type": "object",
            "properties": {
                "pump_id": {"type": "string", "pattern": "^P-[0-9]+$"},
                "detail": {"$ref": "#/$defs/detail"},
            },
            "required": ["pump_id"],
            "additionalProperties": False,
            "$defs": {"detail": {"enum": ["short", "long"]}},
        },
    },
}
STOP = {
    "type": "function",
    "function": {
        "name": "stop_pump",
        "parameters": {
            "type": "object",
            "properties": {"pump_id": {"type": "string"}, "delay_s": {"type": "integer", "minimum": 0}},
            "required": ["pump_id", "delay_s"],
            "additionalProperties": False,
        },
    },
}
SCHEMAS = {tool["function"]["name"]: tool["function"]["parameters"] for tool in (STATUS, STOP)}


@pytest.fixture(scope="module")
async def small(running: Running) -> AsyncIterator[LlamaBackend]:
    async with running() as backend:
        yield backend


@pytest.fixture(scope="module")
async def qwen(running: Running, qwen_file: Path) -> AsyncIterator[LlamaBackend]:
    async with running(path=qwen_file) as backend:
        yield backend


def asked(text: str, *tools: dict[str, Any], **more: Any) -> Request:
    choice = more.pop("choice", "auto")
    parallel = more.pop("parallel", True)
    request = chat(text, **{"max_tokens": 200, **more})
    return replace(request, tools=tools, needs=frozenset({"tools"}), tool_choice=choice, parallel_tools=parallel)


def calls(answer: Answer) -> list[tuple[str, Any]]:
    """Each name with its arguments, which must be JSON and keep to the function's schema."""
    made: dict[int, list[str]] = {}
    for chunk in answer.chunks:
        for piece in chunk.tools:
            if piece.id:
                assert piece.index == len(made)
                made[piece.index] = [piece.name, ""]
            made[piece.index][1] += piece.arguments
    found = [(name, json.loads(arguments)) for name, arguments in made.values()]
    for name, arguments in found:
        jsonschema.validate(arguments, SCHEMAS[name])
    return found


async def test_it_calls_when_it_should_and_uses_the_result(qwen: LlamaBackend) -> None:
    request = asked("What is the status of pump P-7? Use the tool.", STATUS)
    answer = await ask(qwen, request)
    assert answer.reason() == "tool_calls"
    ((name, arguments),) = calls(answer)
    assert (name, arguments["pump_id"]) == ("get_pump_status", "P-7")
    (id_,) = [piece.id for chunk in answer.chunks for piece in chunk.tools if piece.id]
    call = {"id": id_, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
    turn = {"role": "assistant", "content": "", "tool_calls": [call]}
    result = {"role": "tool", "content": "Pump P-7 is running at 81 degrees.", "tool_call_id": id_}
    question = {"role": "user", "content": "In one sentence: how warm is the pump?"}
    # Left a choice, this small model calls on and on.
    more = replace(request, id="after", messages=(*request.messages, turn, result, question), needs=frozenset())
    after = await ask(qwen, more)
    assert after.reason() == "stop"
    assert "81" in after.text()


async def test_it_need_not_call(qwen: LlamaBackend) -> None:
    answer = await ask(qwen, asked("Hello, who are you?", STATUS, max_tokens=30))
    assert answer.text().strip()
    assert calls(answer) == []
    assert answer.reason() in ("stop", "length")


async def test_required_and_named_are_held_to_the_schemas(small: LlamaBackend, qwen: LlamaBackend) -> None:
    for seed in range(6):
        backend = small if seed % 2 else qwen
        more = {"temperature": 1.0, "seed": seed, "max_tokens": 300, "parallel": False}
        answer = await ask(backend, asked("Do something about pump P-3.", STATUS, STOP, choice="required", **more))
        assert answer.text() == ""
        if answer.reason() == "tool_calls":
            assert len(calls(answer)) == 1
        named = await ask(backend, asked("Hello", STATUS, STOP, choice=NamedTool("stop_pump"), **more))
        if named.reason() == "tool_calls":
            ((name, _),) = calls(named)
            assert name == "stop_pump"


async def test_a_cut_call_ends_with_length(qwen: LlamaBackend) -> None:
    answer = await ask(qwen, asked("Stop pump P-7 in 5 seconds.", STOP, choice="required", max_tokens=12))
    assert answer.reason() == "length"


async def test_a_schema_for_the_answer_beside_tools(qwen: LlamaBackend) -> None:
    answer_schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    grammar = Grammar("json_schema", json.dumps(answer_schema))
    request = replace(asked("Answer with JSON: is water wet? Do not call a tool.", STATUS), grammar=grammar)
    answer = await ask(qwen, request)
    if answer.reason() == "stop":
        assert isinstance(json.loads(answer.text())["ok"], bool)
    else:
        assert calls(answer)


async def test_what_cannot_be_enforced_names_the_tools(small: LlamaBackend) -> None:
    function = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"not": {"type": "null"}}}}}
    wrong = {"type": "function", "function": {**function, "strict": True}}
    with pytest.raises(InvalidRequest, match=r"function 'f' cannot be enforced: .*not") as caught:
        await ask(small, asked("x", STATUS, wrong))
    assert "bare" not in caught.value.message, "nor what we made of it"
    assert caught.value.param == "tools"
    # Not strict: what can be enforced is.
    lenient = {"type": "function", "function": function}
    assert (await ask(small, asked("x", lenient, choice="required", max_tokens=5))).reason()
    with pytest.raises(InvalidRequest, match="cannot be combined"):
        await ask(small, replace(asked("x", STATUS), grammar=Grammar("regex", "a", "grammar")))
