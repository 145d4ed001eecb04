"""From the bytes of a body to a checked schema, with errors in words that name the field at fault."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HTTPRequest

from backends.errors import InvalidRequest


class Wire(BaseModel):
    """A shape on the wire. Unknown fields pass (they ride along in `Request.raw`); types are never converted."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)


Schema = TypeVar("Schema", bound=BaseModel)
Item = TypeVar("Item")
Many = Annotated[list[Item], Field(fail_fast=True)]
"""A list whose first wrong item ends the check: ten million of them would stop the gateway for a minute."""

MOST_PIECES = 10_000
"""Parts, blocks and calls of all turns together: a body of ten megabytes has room for half a million, which would stop
the gateway for seconds."""

FLAT = 200
"""Brackets in a body that cannot be too deep; the writer, unlike the parser, stops at 254 levels."""


def _few_pieces(turns: Any) -> Any:
    """Counted before each is looked at."""
    found = sum(map(_pieces, turns)) if isinstance(turns, list) else 0
    if found > MOST_PIECES:
        raise ValueError(f"at most {MOST_PIECES} parts, blocks and calls in all, got {found}")
    return turns


def _pieces(turn: Any) -> int:
    lists = [turn[name] for name in ("content", "output", "tool_calls") if name in turn] if type(turn) is dict else ()
    return sum(1 + _pieces(piece) for pieces in lists if type(pieces) is list for piece in pieces)


FewPieces = BeforeValidator(_few_pieces)
"""For the turns of a conversation."""


class FieldError(ValueError):
    """What a schema's own validator raises: the message, and the field below its place that is at fault."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


async def read_body(http: HTTPRequest) -> bytes:
    """The whole body. Raises `ClientDisconnect` if the client leaves before its end."""
    parts = []
    while True:
        message = await http.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def parse_json(body: bytes) -> dict[str, Any]:
    """The body's object. Refuses what JSON forbids and some parsers allow: NaN, lone surrogates, invalid UTF-8.

    Raises:
        InvalidRequest: not JSON, or JSON but no object.
    """
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.", code="invalid_json") from None
    if body.count(b"[") + body.count(b"{") > FLAT:
        check_depth(data)
    if not isinstance(data, dict):
        raise InvalidRequest(f"The body must be a JSON object, not {_kind(data)}.", code="invalid_json")
    return data


def check_depth(data: object) -> None:
    """What was read must also be passed on: to a model's process, to a provider, or back. Raises `InvalidRequest`."""
    try:
        orjson.dumps(data)
    except orjson.JSONEncodeError:
        raise InvalidRequest("The body is nested too deeply.", code="invalid_json") from None


def check(schema: type[Schema], data: dict[str, Any]) -> Schema:
    """`data` as a `schema`.

    Raises:
        InvalidRequest: `param` is the dotted path of the first field at fault.
    """
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        more = f" (Further fields at fault: {len(problems) - 1}.)" if len(problems) > 1 else ""
        param = _param(problems[0])
        raise InvalidRequest(_sentence(param, problems[0]) + more, param=param or None) from None


def dotted(place: tuple[int | str, ...]) -> str:
    """`messages[0].content[1].text`; union tags, which are written `<so>`, are no part of it."""
    parts = [part for part in place if not (isinstance(part, str) and (part.startswith("<") or part == "[key]"))]
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).lstrip(".")


def _param(detail: ErrorDetails) -> str:
    place = detail["loc"]
    if detail["type"] == "value_error" and isinstance(error := detail["ctx"]["error"], FieldError):
        place = (*place, error.field)
    return dotted(place)


def _sentence(param: str, detail: ErrorDetails) -> str:
    if detail["type"] == "missing":
        return f"`{param}` is missing."
    if detail["type"] == "value_error":
        return f"`{param}`: {detail['ctx']['error']}."
    if detail["type"] == "extra_forbidden":
        return f"`{param}` is not a known field."
    if detail["type"] == "string_type" and detail["loc"][-1:] == ("<text>",):
        return f"`{param}`: expected a string or an array, got {_kind(detail['input'])}."
    wanted = detail["msg"].removeprefix("Input should be ").replace("String should", "a string that should")
    wanted = wanted.replace("List should have", "a list that has").replace(" after validation", "")
    wanted = "an object" if detail["type"] == "model_type" else wanted
    found = "" if detail["type"].endswith(("too_short", "too_long")) else f", got {_kind(detail['input'])}"
    return f"`{param}`: expected {wanted}{found}."


def _kind(value: object) -> str:
    """A value's JSON type; a number is shown as well. Texts never are: they are the user's."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return f"{value!r}"[:40]
    names: dict[type, str] = {str: "a string", list: "an array", dict: "an object"}
    return names.get(type(value), "something else")
