"""A model's way of talking, as its chat template tells it: what it is given of tools, and what its text says of calls
and thoughts. Pure."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

from backends.llama import tools
from backends.llama.tool_parser import THINK, Parser
from backends.types import Chunk, Request, Usage


class Dialogue:
    """Of one model; `template` is the source of its chat template."""

    def __init__(self, template: str | None) -> None:
        self._template = template or ""

    @cached_property
    def form(self) -> tools.ToolFormat:
        """How it calls tools."""
        return tools.format_of(self._template)

    @property
    def thinks(self) -> bool:
        """Whether it may think aloud first."""
        return THINK in self._template

    def asked(self, request: Request) -> Request:
        """The request in the model's own terms: its template's messages and variables, the grammar of its calls."""
        if request.kind != "chat":
            return request
        given = request.tools if "tools" in request.needs else ()
        speaks_of_tools = given or any(m["role"] == "tool" or m.get("tool_calls") for m in request.messages)
        if not speaks_of_tools:
            return request
        messages, variables = tools.local_messages(request.messages, self.form, given)
        grammar = request.grammar
        if given:
            functions = tools.functions_of(given)
            grammar = tools.grammar(
                self.form, functions, request.tool_choice, parallel=request.parallel_tools, otherwise=request.grammar
            )
        return replace(
            request,
            messages=tuple(messages),
            template_kwargs={**variables, **request.template_kwargs},
            grammar=grammar,
        )

    def listener(self, request: Request, *, thinking: bool = False) -> Listener:
        """For the answer. `thinking`: the prompt ends in the midst of a thought."""
        form = self.form if "tools" in request.needs and request.kind == "chat" else None
        thinks = request.kind == "chat" and (self.thinks or thinking)
        parsers = [Parser(form, thinks=thinks, thinking=thinking) for _ in range(request.choices)]
        return Listener(parsers if form or thinks else [])


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
