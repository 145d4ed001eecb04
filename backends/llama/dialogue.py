"""What one model is given of a conversation, and what its answers say, think and call, as its chat template tells it.
Pure."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

from backends.llama.family import Calls, Opening
from backends.llama.history import cleaned
from backends.llama.talk import Parser, Talk
from backends.types import Chunk, Request, Usage


class Dialogue:
    """Of one model; `template` is the source of its chat template."""

    def __init__(self, template: str | None) -> None:
        self._template = template or ""

    @cached_property
    def talk(self) -> Talk:
        """How it talks."""
        return Talk.of(self._template)

    def asked(self, request: Request) -> Request:
        """The request in the model's own terms: its template's messages and variables, the grammar of its calls.

        Raises:
            InvalidRequest: an earlier call that is no call; a grammar beside tools.
        """
        if request.kind != "chat":
            return request
        tools = request.tools if "tools" in request.needs else ()
        messages, variables = self.talk.family.history(cleaned(request.messages), tools, self._template)
        calls = _calls(request)
        return replace(
            request,
            messages=tuple(messages),
            template_kwargs={**variables, **self.talk.family.variables(request.template_kwargs)},
            grammar=calls.grammar() if calls else request.grammar,
        )

    def listener(self, request: Request, *, thinking: bool = False) -> Listener:
        """For the answer to what `asked` returned. `thinking`: the prompt ends in the midst of a thought."""
        if request.kind != "chat":
            return Listener([])
        calls = Calls.of(request.grammar) if request.grammar and request.grammar.kind == "tools" else None
        opening: Opening = "answer" if request.continuation else "thinking" if thinking else "may think"
        if not calls and self.talk.plain(opening):
            return Listener([])
        return Listener([Parser(self.talk, calls, opening) for _ in range(request.choices)])


def _calls(request: Request) -> Calls | None:
    """What may be called."""
    if "tools" not in request.needs or not request.tools:
        return None
    return Calls.asked(request.tools, request.tool_choice, parallel=request.parallel_tools, otherwise=request.grammar)


class Listener:
    """Hears what each choice says. `parsers`: none, where all of it is text."""

    def __init__(self, parsers: list[Parser]) -> None:
        self._parsers = parsers
        self._reasoning_tokens = 0

    def chunk(self, chunk: Chunk) -> Chunk:
        """The same piece, told apart."""
        if not self._parsers:
            return chunk
        parser = self._parsers[chunk.index]
        parts = [parser.feed(chunk.text)] if chunk.text else []
        if chunk.finish_reason:
            parts.append(parser.close())
        reasoning = "".join(part.reasoning for part in parts)
        if parser.thinking or reasoning:
            self._reasoning_tokens += len(chunk.tokens)
        # A call that was cut is no call that could be made: its reason stays `length`.
        reason = "tool_calls" if chunk.finish_reason == "stop" and parser.calls else chunk.finish_reason
        return replace(
            chunk,
            text="".join(part.text for part in parts),
            reasoning=reasoning,
            tools=tuple(piece for part in parts for piece in part.tools),
            finish_reason=reason,
        )

    def usage(self, usage: Usage) -> Usage:
        """With what was thought."""
        return replace(usage, reasoning_tokens=self._reasoning_tokens) if self._reasoning_tokens else usage
