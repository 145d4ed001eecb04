"""What an answer must be, and whether it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import orjson

from backends.types import Chunk, NamedTool, Request
from gateway.said import said_of
from gateway.validation.schema import JsonSchema
from policies.base import Route

STRUCTURE, TOOLS = "structured_output", "tools"


def promised(request: Request, route: Route) -> frozenset[str]:
    """What the request asks to be held to and the route's provider only promises: `structured_output`, `tools`."""
    if route.location == "local":
        return frozenset()
    asked = {STRUCTURE} if request.grammar is not None else set()
    if _must_call(request) or (request.tool_choice == "auto" and any(_strict(tool) for tool in request.tools)):
        asked.add(TOOLS)
    return frozenset(asked) - route.enforces


def held_whole(request: Request, missing: frozenset[str]) -> bool:
    """Whether all of an answer has to wait until it is judged. A call that need not come is waited for alone."""
    return STRUCTURE in missing or (TOOLS in missing and _must_call(request))


def _must_call(request: Request) -> bool:
    return bool(request.tools) and request.tool_choice not in ("auto", "none")


def _strict(tool: Mapping[str, object]) -> bool:
    function = tool.get("function")
    return isinstance(function, Mapping) and bool(function.get("strict"))


@dataclass(slots=True)
class Call:
    """One call of a tool. `arguments`: JSON."""

    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(slots=True)
class Spoken:
    """One choice, as far as it has come."""

    texts: list[str] = field(default_factory=list)
    calls: dict[int, Call] = field(default_factory=dict)
    finish_reason: str = ""
    refused: bool = False

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def hear(self, chunk: Chunk) -> bool:
        """Adds a piece. True: there is a piece of a call in it."""
        said = said_of(chunk)
        self.texts.append(said.text)
        self.refused = self.refused or bool(said.refusal)
        self.finish_reason = said.finish_reason or self.finish_reason
        for piece in said.tools:
            call = self.calls.setdefault(piece.index, Call())
            call.id, call.name = call.id or piece.id, call.name or piece.name
            call.arguments += piece.arguments
        return bool(said.tools)

    @property
    def cut(self) -> bool:
        """It says of itself that it is not whole, or that it is no answer: there is nothing to judge."""
        return self.refused or self.finish_reason in ("length", "content_filter")


@dataclass(frozen=True, slots=True)
class Form:
    """What an answer must be.

    Attributes:
        schema: of its text, where it makes no call; None: any text.
        functions: that may be called, with the schema of their arguments; None: any JSON object; empty: not judged.
        must_call: at least one; `several`: more than one may be.
    """

    schema: JsonSchema | None = None
    functions: Mapping[str, JsonSchema | None] = field(default_factory=dict)
    must_call: bool = False
    several: bool = True

    def problem(self, choices: Sequence[Spoken]) -> tuple[int, str] | None:
        """The first choice that is wrong, and what is: in words that quote nothing of it. Raises `TooHardError`."""
        for index, choice in enumerate(choices):
            if not choice.cut and (why := self._wrong(choice)):
                return index, why
        return None

    def _wrong(self, choice: Spoken) -> str:
        if choice.calls:
            return self._wrong_calls(list(choice.calls.values())) if self.functions else ""
        if self.must_call:
            return "it calls no function"
        return self.schema.problem(choice.text) if self.schema else ""

    def _wrong_calls(self, calls: Sequence[Call]) -> str:
        if len(calls) > 1 and not self.several:
            return "it calls more than one function"
        for call in calls:
            if call.name not in self.functions:
                return f"it calls a function that is not one of {', '.join(map(repr, self.functions))[:300]}"
            schema = self.functions[call.name]
            if why := schema.problem(call.arguments) if schema else _no_object(call.arguments):
                return f"arguments of {call.name}: {why}"
        return ""


def _no_object(arguments: str) -> str:
    try:
        return "" if isinstance(orjson.loads(arguments or "{}"), dict) else "they are no JSON object"
    except orjson.JSONDecodeError:
        return "they are no JSON"


def functions_of(request: Request) -> list[tuple[str, bytes, bool]]:
    """Name, parameters as JSON, strict: of those that may be called."""
    only = request.tool_choice.name if isinstance(request.tool_choice, NamedTool) else None
    said = [tool["function"] for tool in request.tools if isinstance(tool.get("function"), Mapping)]
    return [
        (function["name"], orjson.dumps(function.get("parameters") or {}), bool(function.get("strict")))
        for function in said
        if only in (None, function["name"])
    ]
