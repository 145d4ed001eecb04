"""From a completion's tokens to what the client gets: the marks of each family's format are control tokens here, as in
its own vocabulary. They must reach the parser, and be shown to nobody."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from backends.llama import protocol, sampling
from backends.llama.bindings import Model
from backends.llama.dialogue import Dialogue
from backends.llama.family import Family
from backends.llama.jobs import Choice
from backends.llama.preparer import Preparer
from backends.llama.talk import Talk
from backends.types import Request
from tests.llama.listening import Heard, recordings
from tests.llama.test_families import MARKS
from tests.llama.vocabulary import write_vocabulary

ENDS = ("<|call|>", "<|return|>")


def through(model: Model, template: str, request: Request, text: str) -> tuple[Heard, str | None, str]:
    """A completion's tokens through all that lies between sampling and the client; also what was shown in all."""
    dialogue = Dialogue(template)
    request = dialogue.asked(request)
    preparer = Preparer(model, 4096, lambda _: 0)
    prepared = preparer.prepare(protocol.prepare(request))
    job = preparer.job(protocol.submit(request, request.sampling))
    choice = Choice.begin(model, job, 0, 4096, 0.0)
    listener = dialogue.listener(request, thinking=prepared.thinking)
    got, calls, reason, shown = Heard(), [], None, ""
    for token in model.tokenize(text, special=True, begin=False):
        if choice.constraint:
            assert not choice.constraint.blocked()[token], model.piece(token)
            choice.constraint.take([token])
        chunk = listener.chunk(choice.take(model, sampling.Choice(token)))
        got.said, got.thought = got.said + chunk.text, got.thought + chunk.reasoning
        for piece in chunk.tools:
            if piece.id:
                calls.append([piece.name, ""])
            calls[piece.index][1] += piece.arguments
        shown += chunk.text + chunk.reasoning + "".join(piece.name + piece.arguments for piece in chunk.tools)
        if reason := chunk.finish_reason:
            break  # with a call, its grammar knows of its end before the model says so
    got.calls = [(name, json.loads(arguments)) for name, arguments in calls]
    return got, reason, shown


Vocabulary = Callable[[str], Model]


@pytest.fixture(scope="module")
def speaking(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    """A model file with this chat template, whose marks are control tokens."""

    def write(template: str) -> Model:
        marks = Talk.of(template).control_marks(tools=True)
        path = tmp_path_factory.mktemp("vocabulary") / "model.gguf"
        return Model(write_vocabulary(path, [*dict.fromkeys(marks), *ENDS], ENDS[1], template), vocab_only=True)

    return write


@pytest.mark.parametrize(("family", "one"), recordings())
def test_control_tokens_reach_the_parser_and_no_client(
    family: Family, one: dict[str, Any], speaking: Vocabulary
) -> None:
    if "impossible" in one:
        return
    marks = next(template for name, _, template in MARKS if name == family.name)
    template = "{# " + marks.replace("#}", "") + " <think> #}{{ messages[-1].content }}"
    model = speaking(template)
    tools = tuple(one["tools"])
    needs = frozenset({"tools"} if tools else ())
    request = Request("r", "m", "chat", messages=({"role": "user", "content": "?"},), tools=tools, needs=needs)
    end = ENDS[0] if one["text"].endswith(ENDS[0]) else ENDS[1]
    got, reason, shown = through(model, template, request, one["text"].removesuffix(end) + end)
    assert got == Heard(one.get("says", ""), one.get("thinks", ""), [(n, a) for n, a in one.get("calls", ())])
    assert reason == ("tool_calls" if one.get("calls") else "stop")
    assert not any(mark in shown for mark in Talk.of(template).control_marks(tools=True))


def test_an_answer_that_someone_else_began(speaking: Vocabulary) -> None:
    for template, begin in (
        (
            "{# <|start|>assistant<|channel|>analysis<|message|> #}{{ messages[-1].content }}",
            "<|channel|>final<|message|>",
        ),
        ("{# <think> #}{{ messages[-1].content }}<think>{{ '\\n' }}", "<think>\n\n</think>\n\n"),
    ):
        model = speaking(template)
        messages = ({"role": "user", "content": "?"},)
        request = Request("r", "m", "chat", messages=messages, continuation="The pump")
        asked = Dialogue(template).asked(request)
        preparer = Preparer(model, 4096, lambda _: 0)
        preparer.prepare(protocol.prepare(asked))
        (prompt,) = preparer.job(protocol.submit(asked, asked.sampling)).prompts
        assert b"".join(map(model.piece, prompt)).decode() == f"?{begin}The pump"
        got, _, _ = through(model, template, request, " is warm.<|return|>")
        assert got == Heard(" is warm.")
