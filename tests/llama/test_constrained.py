"""The real model, held to schemas and grammars: whole outputs validate, greedy, at temperature 1, and in one batch."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import jsonschema
import pytest

from backends.errors import InvalidRequest
from backends.llama.backend import LlamaBackend
from backends.llama.grammar import canonical
from backends.types import Chunk, Grammar, Request
from tests.llama.conftest import Running, ask, chat, completion

pytestmark = pytest.mark.anyio

FINDING = {
    "type": "object",
    "properties": {
        "machine": {"type": "string", "maxLength": 30},
        "severity": {"enum": ["low", "medium", "high"]},
        "hours": {"type": "integer", "minimum": 0, "maximum": 99},
        "parts": {"type": "array", "items": {"$ref": "#/$defs/part"}, "minItems": 1, "maxItems": 3},
    },
    "required": ["machine", "severity", "hours", "parts"],
    "additionalProperties": False,
    "$defs": {
        "part": {
            "type": "object",
            "properties": {"id": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"}, "spare": {"type": "boolean"}},
            "required": ["id", "spare"],
            "additionalProperties": False,
        }
    },
}
ASKED = "Report the finding as JSON: the pump P-7 leaks at its seal, two hours of work."


@pytest.fixture(scope="module")
async def backend(running: Running) -> AsyncIterator[LlamaBackend]:
    async with running(max_sequences=8) as backend:
        yield backend


def held(request: Request, schema: Mapping[str, Any]) -> Request:
    return replace(request, grammar=Grammar("json_schema", canonical(schema)))


async def test_a_greedy_answer_is_what_the_schema_says(backend: LlamaBackend) -> None:
    answer = await ask(backend, held(chat(ASKED, max_tokens=300), FINDING))
    assert answer.reason() == "stop"
    found = json.loads(answer.text())
    jsonschema.validate(found, FINDING)
    assert list(found) == ["machine", "severity", "hours", "parts"], "properties come in the schema's order"


async def test_eight_at_once_at_temperature_one_and_one_that_is_free(backend: LlamaBackend) -> None:
    requests = [held(chat(ASKED, max_tokens=400, temperature=1.0, seed=seed), FINDING) for seed in range(7)]
    *answers, free = await asyncio.gather(*(ask(backend, r) for r in [*requests, chat("Tell me a story.")]))
    whole = [answer for answer in answers if answer.reason() == "stop"]
    assert len(whole) >= 5
    for answer in whole:
        jsonschema.validate(json.loads(answer.text()), FINDING)
    assert not free.text().startswith("{")


async def test_a_cut_object_says_so(backend: LlamaBackend) -> None:
    answer = await ask(backend, held(chat(ASKED, max_tokens=8), FINDING))
    assert answer.reason() == "length"
    with pytest.raises(json.JSONDecodeError):
        json.loads(answer.text())


async def test_each_choice_follows_it_alone(backend: LlamaBackend) -> None:
    grammar = Grammar("regex", r"(red|green|blue) [0-9]{2}")
    request = replace(completion("A colour and a number:", n=4, temperature=1.0, seed=3), grammar=grammar)
    answer = await ask(backend, request)
    texts = [answer.text(index) for index in range(4)]
    assert all(re.fullmatch(r"(red|green|blue) \d\d", text) for text in texts)
    assert len(set(texts)) > 1


async def test_log_probabilities_stay_the_models_own(backend: LlamaBackend) -> None:
    request = completion("The capital of France is", max_tokens=1, top_logprobs=3)
    free = await ask(backend, request)
    only = await ask(backend, replace(request, id="held", grammar=Grammar("regex", " (Zebra|Quartz)")))
    ((first,), (other,)) = (answer.chunks[0].logprobs for answer in (free, only))
    assert other.token != first.token
    assert other.logprob < first.logprob
    assert [top.token for top in other.top] == [top.token for top in first.top]


async def test_a_seed_reproduces(backend: LlamaBackend) -> None:
    request = held(chat(ASKED, max_tokens=120, temperature=1.0, seed=11), FINDING)
    first, again = [await ask(backend, replace(request, id=name)) for name in ("a", "b")]
    assert first.tokens() == again.tokens()


async def test_what_cannot_be_enforced_is_refused_before_anything_is_computed(backend: LlamaBackend) -> None:
    with pytest.raises(InvalidRequest, match="uniqueItems"):
        await ask(backend, held(chat(ASKED), {"type": "array", "uniqueItems": True}))
    assert (await ask(backend, chat("Hello"))).text(), "the engine goes on"


async def test_a_disconnect_leaves_nothing_behind(backend: LlamaBackend) -> None:
    request = held(chat(ASKED, max_tokens=400, temperature=1.0), FINDING)
    async with aclosing(backend.generate(request)) as events:
        async for event in events:
            if isinstance(event, Chunk):
                break
    async with asyncio.timeout(20):
        while backend.state().running:
            await asyncio.sleep(0.01)


def random_schema(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    """Of every keyword that is enforced; bounded, so that a model at temperature 1 comes to an end."""
    kinds = ["string", "integer", "boolean", "enum", "pattern", "const", "number"]
    kind = rng.choice(kinds if depth > 2 else [*kinds, "object", "object", "object", "array", "anyOf"])
    if kind == "object":
        names = rng.sample(["id", "name", "größe", "a b", "x-1", 'q"'], rng.randint(1, 4))
        properties = {name: random_schema(rng, depth + 1) for name in names}
        required = [name for name in names if rng.random() < 0.7]
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    if kind == "array":
        least = rng.randint(0, 2)
        return {"type": "array", "items": random_schema(rng, depth + 1), "minItems": least, "maxItems": least + 2}
    if kind == "anyOf":
        return {"anyOf": [random_schema(rng, depth + 1) for _ in range(rng.randint(1, 3))]}
    least = rng.randint(-50, 50)
    plain: dict[str, dict[str, Any]] = {
        "string": {"type": "string", "minLength": rng.randint(0, 2), "maxLength": rng.randint(3, 12)},
        "integer": {"type": "integer", "minimum": least, "maximum": least + rng.randint(0, 99)},
        "number": {"type": "number", "minimum": 0, "maximum": 1},
        "boolean": {"type": ["boolean", "null"]},
        "enum": {"enum": rng.sample(["on", "off", "standby", 1, 2, None, True], 3)},
        "pattern": {"type": "string", "pattern": rng.choice(["^[a-f0-9]{8}$", "^(up|down)-[0-9]+$", "^P-[1-9]$"])},
        "const": {"const": rng.choice(["fixed", 7, None, {"k": [1, 2]}])},
    }
    return plain[kind]


async def test_random_schemas(backend: LlamaBackend) -> None:
    """`python -m bench.schemas` does the same 500 times."""
    rng = random.Random(5)
    schemas = [random_schema(rng) for _ in range(40)]
    requests = [
        held(chat("Fill in the form.", max_tokens=200, temperature=float(i % 2), seed=i), schema)
        for i, schema in enumerate(schemas)
    ]
    answers = await asyncio.gather(*(ask(backend, request) for request in requests))
    ended = [(a, schema) for a, schema in zip(answers, schemas, strict=True) if a.reason() == "stop"]
    assert len(ended) >= 30
    for answer, schema in ended:
        jsonschema.validate(json.loads(answer.text()), schema)
