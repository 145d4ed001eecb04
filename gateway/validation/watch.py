"""Holds an answer back until it is known to be what it must be."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backends.errors import EngineFailed, InvalidRequest
from backends.types import Chunk, Event, Request
from gateway.validation.form import STRUCTURE, TOOLS, Form, Spoken, functions_of, held_whole, promised
from gateway.validation.keywords import TooHardError
from gateway.validation.schema import SECONDS, JsonSchema, UnsupportedSchemaError, refused
from policies.base import Route

KEPT = 64  # schemas
MOST_HELD_BYTES = 16 * 1024 * 1024


class CannotJudge(InvalidRequest):
    """This provider only promises the form, and nobody here can tell whether it keeps to it."""

    code = "unsupported_schema"


class InvalidAnswer(EngineFailed):
    """A provider's answer is not what it had to be.

    Attributes:
        reply: messages that tell the provider so; empty: there is no use in it.
    """

    code = "invalid_answer"

    def __init__(self, model: str, problem: str, reply: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(f"The answer of {model} has not the form that was asked for: {problem}.")
        self.reply = reply


@dataclass(frozen=True, slots=True)
class _Asked:
    """The schemas of a request, as JSON."""

    text: str | None
    functions: Sequence[tuple[str, bytes, bool]]


class Watches:
    """Makes watches; looks through each schema once. Belongs to the event loop."""

    def __init__(self) -> None:
        self._schemas: OrderedDict[str, JsonSchema] = OrderedDict()

    async def watch(self, request: Request, route: Route) -> Watch | None:
        """None: the route holds its answers to what is asked for, or nothing is.

        Raises:
            CannotJudge: a schema that no answer can be judged by.
        """
        missing = promised(request, route)
        if not missing:
            return None
        try:
            form = await self._form(request, missing)
        except InvalidRequest as error:
            raise CannotJudge(error.message, param=error.param) from None
        return Watch(form, request, route, whole=held_whole(request, missing))

    async def _form(self, request: Request, missing: frozenset[str]) -> Form:
        schema = None
        if STRUCTURE in missing and request.grammar is not None and request.grammar.kind == "json_schema":
            schema = await self._schema(request.grammar.source, "The JSON schema", request.grammar.param)
        functions: dict[str, JsonSchema | None] = {}
        for name, parameters, strict in functions_of(request) if TOOLS in missing else ():
            try:
                what = f"The parameters of the function {name!r}"
                functions[name] = await self._schema(parameters.decode(), what, "tools")
            except InvalidRequest:
                if strict:
                    raise
                functions[name] = None  # what is not strict is held to as far as it can be
        must_call = TOOLS in missing and request.tool_choice != "auto"
        return Form(schema, functions, must_call, request.parallel_tools)

    async def _schema(self, source: str, what: str, param: str) -> JsonSchema:
        known = self._schemas.get(source)
        if known is None:
            try:
                known = self._schemas[source] = await asyncio.to_thread(JsonSchema, source)
            except UnsupportedSchemaError as error:
                raise refused(what, error, param) from None
        self._schemas.move_to_end(source)
        while len(self._schemas) > KEPT:
            self._schemas.popitem(last=False)
        return known


class Watch:
    """Over one answer.

    Attributes:
        whole: all of it is held back; otherwise from the first piece of a call on.
    """

    def __init__(self, form: Form, request: Request, route: Route, *, whole: bool) -> None:
        self.whole = whole
        self._form = form
        self._request = request
        self._route = route
        self._held: list[Chunk] = []
        self._told = [Spoken() for _ in range(request.choices)]
        self._heard = [Spoken() for _ in range(request.choices)]
        self._bytes = 0

    def holds(self, chunk: Chunk, raw: Event) -> bool:
        """Whether the chunk has to wait. `raw`: as the provider said it, without what was put back into it.

        Raises:
            InvalidAnswer: it gets too long.
        """
        assert isinstance(raw, Chunk)
        calls = self._told[chunk.index].hear(chunk)
        self._heard[raw.index].hear(raw)
        if not (self.whole or self._held or calls):
            return False
        self._bytes += len(chunk.text) + (len(str(chunk.wire)) if chunk.wire else 0)
        if self._bytes > MOST_HELD_BYTES:
            raise InvalidAnswer(self._route.name, f"it is longer than {MOST_HELD_BYTES >> 20} MB")
        self._held.append(chunk)
        return True

    async def released(self) -> Sequence[Chunk]:
        """What was held back, of a whole answer.

        Raises:
            InvalidAnswer: it is not what it must be.
        """
        try:
            wrong = await asyncio.to_thread(self._form.problem, self._told)
        except TooHardError:
            raise InvalidAnswer(self._route.name, f"it cannot be judged within {SECONDS:g} s of computing") from None
        if wrong:
            index, problem = wrong
            raise InvalidAnswer(self._route.name, problem, self._reply(self._heard[index], problem))
        return self._held

    def _reply(self, said: Spoken, problem: str) -> list[dict[str, Any]]:
        """The answer in the provider's own words, and what is wrong with it."""
        messages = self._request.raw.get("messages") or [{}]
        if self._request.kind != "chat" or messages[-1].get("role") == "assistant":
            return []
        complaint = f"That is not what was asked for: {problem}. Answer again, with nothing but what is right."
        calls = list(said.calls.values())
        if calls and all(call.id and call.name in self._form.functions for call in calls):
            made = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in calls
            ]
            turn = {"role": "assistant", "content": said.text or None, "tool_calls": made}
            failed = f"Not run: {problem}. Call again."
            return [turn, *({"role": "tool", "tool_call_id": call.id, "content": failed} for call in calls)]
        words = said.text or "".join(call.name + call.arguments for call in calls)
        turns = [{"role": "assistant", "content": words}] if words else []
        return [*turns, {"role": "user", "content": complaint}]
