"""What a completion must be, as clients say it: `response_format`, and `grammar` beside it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import orjson
from pydantic import Discriminator, Field, Tag, model_validator

from backends.types import Grammar
from gateway.schemas.parse import FieldError, Wire

ANY_OBJECT = '{"type":"object"}'


class JsonSchema(Wire):
    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    description: str | None = None
    strict: bool | None = Field(default=None, description="It is enforced whatever this says.")
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")


class ResponseFormat(Wire):
    """As OpenAI's."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _with_its_schema(self) -> ResponseFormat:
        if self.type == "json_schema" and self.json_schema is None:
            raise FieldError("json_schema", "a format of type `json_schema` needs it")
        return self


class GrammarDefinition(Wire):
    """As in OpenAI's custom tools, and GBNF besides."""

    syntax: Literal["lark", "regex", "gbnf"]
    definition: str = Field(min_length=1)


def _tag(value: Any) -> str:
    return "<text>" if isinstance(value, str) else "<definition>"


Structure = (
    Annotated[
        Annotated[str, Field(min_length=1), Tag("<text>")] | Annotated[GrammarDefinition, Tag("<definition>")],
        Discriminator(_tag),
    ]
    | None
)
"""A text is GBNF or Lark, told by its own look."""


def grammar_of(wanted: ResponseFormat | None, raw: Any, grammar: GrammarDefinition | str | None) -> Grammar | None:
    """What the decoder has to enforce; None: nothing.

    Args:
        raw: `response_format` as received: a schema's properties are written in the order that they have there.
    """
    if isinstance(grammar, str):
        return Grammar("gbnf", grammar, "grammar")
    if grammar is not None:
        return Grammar(grammar.syntax, grammar.definition, "grammar")
    if wanted is None or wanted.type == "text":
        return None
    schema = raw["json_schema"].get("schema") if wanted.type == "json_schema" else None
    return Grammar("json_schema", orjson.dumps(schema).decode() if schema is not None else ANY_OBJECT)
