"""The real model, held to schemas and grammars: whole outputs validate, greedy, at temperature 1, and in one batch."""

from __future__ import annotations

import asyncio
import json
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
from bench.schemas_load import fault, forms
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


async def test_random_schemas(backend: LlamaBackend) -> None:
    """`make bench-schemas` does the same with 500 of them."""
    asked = [form for form in forms(40, seed=5) if form.enforceable]
    requests = [
        held(chat("Fill in the form.", max_tokens=200, temperature=float(i % 2), seed=i), form.schema)
        for i, form in enumerate(asked)
    ]
    answers = [
        answer
        for at in range(0, len(requests), 8)  # so that none waits long in the queue of a slow box
        for answer in await asyncio.gather(*(ask(backend, request) for request in requests[at : at + 8]))
    ]
    ended = [(answer, form) for answer, form in zip(answers, asked, strict=True) if answer.reason() == "stop"]
    assert len(ended) > len(asked) // 2, "the rest is cut, and proves nothing"
    for answer, form in ended:
        assert not fault(form.schema, answer.text()), (form.schema, answer.text())
