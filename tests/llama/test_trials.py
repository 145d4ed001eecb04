"""Grammars that take what compiles them down: in a process of their own, and against a real model's."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest

from backends.errors import InvalidRequest
from backends.llama.backend import LlamaBackend
from backends.llama.beside import Beside
from backends.llama.grammar import Grammars, canonical
from backends.llama.trials import Trials
from backends.types import Grammar
from tests.llama.conftest import Running, ask, chat

CHAIN = {
    "$ref": "#/$defs/d0",
    "$defs": {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(6000)} | {"d6000": {"type": "string"}},
}
MERGED = [
    {"type": "object", "properties": {"x": {"type": "string", "pattern": f"a{i}"}}, "required": ["x"]}
    for i in range(40)
]
ENDLESS = Grammar("json_schema", canonical({"allOf": MERGED}))
"""Forty patterns for one value, which only a look at the properties' names tells."""
LARK = Grammar("lark", "start: X\nX: " + " & ".join(f"/(.|\\n)*a{i}(.|\\n)*/" for i in range(50)), "grammar")
RULES = Grammar("lark", "start: r0\n" + "".join(f'r{i}: "a" r{i + 1}\n' for i in range(8000)) + 'r8000: "c"', "grammar")
DEEP = Grammar("lark", f"start: %json {canonical(CHAIN)}", "grammar")
"""No rule leads anywhere here; but the schema does."""
LONG = Grammar("regex", "a?" * 100_000, "grammar")
FINE = Grammar("json_schema", canonical({"type": "string", "pattern": "^(up|down)-[0-9]{2}$"}))


@pytest.fixture(scope="module")
def trials() -> Iterator[Trials]:
    trials = Trials(None)
    yield trials
    trials.close()


def test_what_is_tried(trials: Trials) -> None:
    assert trials.survives(FINE, "answer")
    assert trials.survives(Grammar("lark", "start: ("), "answer"), "what is wrong is for the model's own process to say"
    assert trials.survives(Grammar("json_schema", "{"), "answer")


@pytest.mark.parametrize("grammar", [ENDLESS, DEEP, LONG], ids=["patterns", "stack", "steps"])
def test_the_process_ends_by_it_and_there_is_another(trials: Trials, grammar: Grammar) -> None:
    assert not trials.survives(grammar, "answer")
    assert trials.survives(FINE, "answer")


def test_a_process_that_says_nothing_in_time_is_ended() -> None:
    trials = Trials(None)
    assert trials.survives(FINE, "answer")
    assert trials._process
    os.kill(trials._process.pid, signal.SIGSTOP)
    trials._answer_s = 0.5
    assert not trials.survives(FINE, "answer")
    trials._answer_s = 60.0
    assert trials.survives(FINE, "answer")
    trials.close()


def test_a_grammar_is_tried_once() -> None:
    from llguidance import LLTokenizer

    tokenizer, tried = LLTokenizer("byte"), []

    def trial(*asked: Any) -> bool:
        tried.append(asked)
        return len(tried) < 2

    grammars = Grammars(lambda: tokenizer, tokenizer.vocab_size, trial=trial)
    assert not grammars.quick(FINE)
    grammars.compile(FINE)
    grammars.compile(FINE)
    assert grammars.quick(FINE)
    assert tried == [(FINE, "answer")]
    grammars.compile(Grammar("json_schema", canonical({"type": "boolean"})))
    assert len(tried) == 1
    with pytest.raises(InvalidRequest, match="`grammar`") as error:
        grammars.compile(Grammar("regex", "a+", "grammar"))
    assert (error.value.code, error.value.param) == ("grammar_too_complex", "grammar")


def test_work_beside_is_done_in_turn_and_can_be_called_off() -> None:
    done: list[str] = []
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def handle(message: Any) -> None:
        begun.set()
        go_on.wait(60)
        done.append(message["id"])
        if message["id"] == "last":
            ended.set()

    beside = Beside(handle)
    beside.put({"id": "first"})
    assert begun.wait(60)
    for name in ("a", "b", "last"):
        beside.put({"id": name})
    beside.forget("b")
    beside.forget("unknown")
    go_on.set()
    assert ended.wait(60)
    assert done == ["first", "a", "last"]


@pytest.fixture
async def backend(running: Running) -> AsyncIterator[LlamaBackend]:
    async with running(max_sequences=4) as backend:
        yield backend


@pytest.mark.anyio
async def test_a_model_answers_others_while_it_refuses_them(backend: LlamaBackend) -> None:
    async def refused(grammar: Grammar) -> str:
        with pytest.raises(InvalidRequest) as error:
            await ask(backend, replace(chat("Hello"), grammar=grammar))
        assert error.value.param == grammar.param
        return error.value.code

    await ask(backend, chat("Hello"))
    answered: list[str] = []

    async def noted(name: str, work: Any) -> Any:
        result = await work
        answered.append(name)
        return result

    form = Grammar("json_schema", canonical({"type": "boolean"}))
    async with asyncio.timeout(240):
        codes = asyncio.gather(*(noted("hostile", refused(grammar)) for grammar in (LARK, RULES, ENDLESS)))
        await asyncio.sleep(0.5)
        others = [
            noted("free", ask(backend, chat("Hello"))),
            noted("held", ask(backend, replace(chat("Hi"), grammar=form))),
        ]
        assert all(answer.text() for answer in (await asyncio.gather(*others)))
        assert await codes == ["unsupported_schema", "unsupported_schema", "grammar_too_complex"]
    assert (await ask(backend, replace(chat("Which way?"), grammar=FINE))).reason() == "stop"
