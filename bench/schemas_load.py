"""The load of `bench.schemas`: forms to be filled in under a schema, and equal answers with and without a grammar."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import jsonschema

from bench.client import Answer, ask
from bench.load import COMMON, QUESTIONS, SYSTEM_PROMPT
from bench.peers import MODEL
from bench.schemas_random import Schema, random_schema, refused_schema

Outcome = Literal["valid", "invalid", "cut", "refused", "failed"]
TOKENS = 128  # of a form at most
EACH_REFUSED = 20  # of so many schemas one has a keyword that cannot be enforced

READINGS = {f"reading_{number:02}": {"type": "integer", "minimum": 0, "maximum": 9999} for number in range(20)}
STATES = {f"state_{number:02}": {"enum": ["on", "off", "standby"]} for number in range(10)}
FLAT: Schema = {
    "type": "object",
    "properties": READINGS | STATES,
    "required": [*READINGS, *STATES],
    "additionalProperties": False,
}
FINDING: Schema = {
    "type": "object",
    "properties": {
        "machine": {"type": "string", "maxLength": 40},
        "finding": {"type": "string", "minLength": 20, "maxLength": 200},
        "severity": {"enum": ["low", "medium", "high"]},
        "parts": {"type": "array", "items": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"}, "minItems": 1},
    },
    "required": ["machine", "finding", "severity", "parts"],
    "additionalProperties": False,
}
NESTED: Schema = {
    "type": "object",
    "properties": {"findings": {"type": "array", "items": {"$ref": "#/$defs/finding"}, "minItems": 8}},
    "required": ["findings"],
    "additionalProperties": False,
    "$defs": {"finding": FINDING},
}
SENTENCES = r"((pump|valve|motor)-[0-9]{3}: [a-z ]{5,60}\. ){12,40}"


def _format(schema: Schema) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "form", "schema": schema}}}


GRAMMARS: Mapping[str, dict[str, Any]] = {
    "a flat schema": _format(FLAT),
    "a nested schema with strings": _format(NESTED),
    "json_object": {"response_format": {"type": "json_object"}},
    "a regular expression": {"grammar": {"syntax": "regex", "definition": SENTENCES}},
}
"""What holds an answer, as a request says it. But for an object of any kind, none can end within the tokens asked."""


@dataclass(frozen=True, slots=True)
class Form:
    """One schema to be filled in."""

    schema: Schema
    enforceable: bool = True


@dataclass(frozen=True, slots=True)
class Filled:
    """How that ended; `why` is the validator's or the gateway's own word."""

    outcome: Outcome
    why: str = ""
    tokens: int = 0


def forms(count: int, seed: int) -> list[Form]:
    """So many schemas, always the same ones of a seed."""
    rng = random.Random(seed)
    return [
        Form(refused_schema(rng), enforceable=False) if number % EACH_REFUSED == 7 else Form(random_schema(rng))
        for number in range(count)
    ]


async def fill(port: int, asked: Sequence[Form], temperatures: Sequence[float], clients: int) -> list[list[Filled]]:
    """Each form at each temperature, `clients` of them at once, so that all sorts share the engine's steps."""
    free = asyncio.Semaphore(clients)

    async def one(number: int, form: Form, temperature: float) -> Filled:
        async with free:
            return judge(form, await ask(port, _fill_in(form, number, temperature)))

    every = (one(number, form, t) for number, form in enumerate(asked) for t in temperatures)
    filled = await asyncio.gather(*every)
    return [list(filled[at :: len(temperatures)]) for at in range(len(temperatures))]


def _fill_in(form: Form, number: int, temperature: float) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"Fill in form {number} as JSON. Use short values."}]
    options = {"max_tokens": TOKENS, "temperature": temperature, "seed": number}
    return {"model": MODEL, "messages": messages, **options, **_format(form.schema)}


def judge(form: Form, answer: Answer) -> Filled:
    """What became of one form."""
    try:
        body = json.loads(answer.body)
    except ValueError:
        return Filled("failed", answer.error or "no answer")
    if answer.status == 400 and body["error"]["code"] == "unsupported_schema":
        return Filled("refused", body["error"]["message"])
    if answer.status != 200:
        return Filled("failed", str(body.get("error")))
    choice, tokens = body["choices"][0], body["usage"]["completion_tokens"]
    if choice["finish_reason"] == "length":
        return Filled("cut", tokens=tokens)
    wrong = fault(form.schema, choice["message"]["content"])
    return Filled("invalid" if wrong else "valid", wrong, tokens)


def fault(schema: Schema, text: str) -> str:
    """Why a text is not what a schema says, by jsonschema, Draft 2020-12, formats included; empty: it is."""
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    try:
        value = json.loads(text)
        jsonschema.Draft202012Validator(schema, format_checker=_with_times(checker)).validate(value)
    except ValueError as error:
        return f"no JSON: {error}"
    except jsonschema.ValidationError as error:
        return f"{error.json_path}: {error.message}"
    return ""


def _with_times(known: jsonschema.FormatChecker) -> jsonschema.FormatChecker:
    """What jsonschema checks without further packages, and `date-time`; leap seconds are Python's to refuse."""
    checker = jsonschema.FormatChecker()
    checker.checkers = dict(known.checkers)
    checker.checks("date-time", ValueError)(
        lambda said: not isinstance(said, str) or bool(datetime.fromisoformat(said.upper().replace(":60", ":59")))
    )
    return checker


@dataclass(frozen=True, slots=True)
class Wave:
    """Answers that were asked for at one moment.

    Attributes:
        counts: completion tokens of each.
        seconds: until the last one had ended.
        failed: how many were not whole.
    """

    counts: Sequence[int]
    seconds: float
    failed: int = 0

    @property
    def rate(self) -> float:
        """Tokens a second of all of them together."""
        return sum(self.counts) / self.seconds


class Streams:
    """Questions under one system prompt, so many at once; no two alike, all of the same length.

    Raises RuntimeError where none of a wave is answered.
    """

    def __init__(self, port: int, streams: int) -> None:
        self._port = port
        self._streams = streams
        self._asked = 1000

    async def free(self, tokens: Sequence[int]) -> Wave:
        """One wave of answers that go on to so many tokens."""
        return await self._wave(tokens, {"ignore_eos": True})

    async def held(self, tokens: int, by: Mapping[str, Any]) -> Wave:
        """One wave of answers that keep to a grammar, of so many tokens at most."""
        return await self._wave([tokens] * self._streams, by)

    async def _wave(self, tokens: Sequence[int], more: Mapping[str, Any]) -> Wave:
        bodies = [self._body(number, limit) | dict(more) for number, limit in enumerate(tokens)]
        began = time.perf_counter()
        answers = await asyncio.gather(*(ask(self._port, body) for body in bodies))
        seconds = time.perf_counter() - began
        failed = sum(not answer.ok for answer in answers)
        if failed == len(answers):
            raise RuntimeError(f"no answer is whole: {answers[0].error or answers[0].body[:300]!r}")
        return Wave([answer.tokens for answer in answers], seconds, failed)

    def _body(self, number: int, tokens: int) -> dict[str, Any]:
        self._asked += 1
        text = f"{QUESTIONS[number % len(QUESTIONS)]} Job {self._asked}. Answer with a long JSON object of all details."
        messages = [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": text}]
        return {"model": MODEL, "messages": messages, "max_tokens": tokens, **COMMON}
