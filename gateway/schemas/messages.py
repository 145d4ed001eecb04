"""`POST /v1/messages`, as Anthropic has it: what comes in. (`message_objects` has what goes out.)"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, Tag, model_validator

from gateway.schemas.generation import Named, StopText
from gateway.schemas.parse import FewPieces, FieldError, Many, Wire
from gateway.schemas.unions import TEXT_OR_LIST, by_type

BLOCK_TYPES = ("text", "image", "tool_use", "tool_result", "thinking", "redacted_thinking")
SAID_BY = {
    "user": frozenset({"text", "image", "tool_result"}),
    "assistant": frozenset({"text", "tool_use", "thinking", "redacted_thinking"}),
    "system": frozenset({"text"}),
}
"""Which blocks a turn may have."""


class TextBlock(Wire):
    type: Literal["text"]
    text: str


class Base64Source(Wire):
    type: Literal["base64"]
    media_type: str = Field(pattern=r"^image/[a-z0-9.+-]{1,40}$")
    data: str


class URLSource(Wire):
    type: Literal["url"]
    url: str


class ImageBlock(Wire):
    type: Literal["image"]
    source: Annotated[Base64Source | URLSource, Field(discriminator="type")]


class ToolUseBlock(Wire):
    type: Literal["tool_use"]
    id: str = Field(min_length=1)
    name: str
    input: dict[str, Any]


class ThinkingBlock(Wire):
    """What a model thought. Local models whose template has a place for it are shown it; the signature is not read."""

    type: Literal["thinking"]
    thinking: str


class RedactedThinkingBlock(Wire):
    """Nobody here can read it: it is left out."""

    type: Literal["redacted_thinking"]
    data: str


class UnknownBlock(Wire):
    """Only refuses: its `type` is none of those that have a class here."""

    type: Literal["text", "image", "tool_use", "tool_result", "thinking", "redacted_thinking"]  # as BLOCK_TYPES


class UnknownResultBlock(Wire):
    type: Literal["text", "image"]


ResultBlock = Annotated[
    Annotated[TextBlock, Tag("<text>")]
    | Annotated[ImageBlock, Tag("<image>")]
    | Annotated[UnknownResultBlock, Tag("<unknown>")],
    by_type("text", "image"),
]
ResultContent = Annotated[Annotated[str, Tag("<text>")] | Annotated[Many[ResultBlock], Tag("<list>")], TEXT_OR_LIST]


class ToolResultBlock(Wire):
    type: Literal["tool_result"]
    tool_use_id: str
    content: ResultContent | None = None
    is_error: bool | None = Field(default=None, description="The result then begins with `Error: `.")


Block = Annotated[
    Annotated[TextBlock, Tag("<text>")]
    | Annotated[ImageBlock, Tag("<image>")]
    | Annotated[ToolUseBlock, Tag("<tool_use>")]
    | Annotated[ToolResultBlock, Tag("<tool_result>")]
    | Annotated[ThinkingBlock, Tag("<thinking>")]
    | Annotated[RedactedThinkingBlock, Tag("<redacted_thinking>")]
    | Annotated[UnknownBlock, Tag("<unknown>")],
    by_type(*BLOCK_TYPES),
]
Content = Annotated[Annotated[str, Tag("<text>")] | Annotated[Many[Block], Tag("<list>")], TEXT_OR_LIST]
System = Annotated[Annotated[str, Tag("<text>")] | Annotated[Many[TextBlock], Tag("<list>")], TEXT_OR_LIST]


class Turn(Wire):
    """Turns of the same role that follow each other are one."""

    role: Literal["user", "assistant", "system"]
    content: Content

    @model_validator(mode="after")
    def _in_its_place(self) -> Turn:
        for at, block in enumerate(self.blocks):
            if block.type not in SAID_BY[self.role]:
                raise FieldError(f"content[{at}].type", f"no {block.type} can stand in a turn of the {self.role}")
        return self

    @property
    def blocks(self) -> list[Any]:
        """What it consists of; none where it is a text."""
        return [] if isinstance(self.content, str) else self.content


class Tool(Wire):
    """A function that may be called. Tools that another server runs are refused."""

    type: Literal["custom"] | None = None
    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,128}$")
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None


class ToolChoice(Wire):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Wire):
    """`enabled` and `adaptive` switch thinking on, `disabled` off, in local models whose template has the switch
    `enable_thinking`. A budget cannot be held."""

    type: str


class OutputFormat(Wire):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Wire):
    format: OutputFormat | None = Field(default=None, description="Enforced by the decoder of a local model.")


class CountRequest(Named):
    """What is counted: all of a request that takes part in its prompt."""

    messages: Annotated[Many[Turn], FewPieces] = Field(min_length=1, max_length=10_000)
    system: System | None = None
    tools: Many[Tool] | None = Field(default=None, max_length=128)
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    thread: dict[str, Any] | None = Field(
        default=None, description="Refused: nothing is kept here, so each request has to bring the whole conversation."
    )

    @model_validator(mode="after")
    def _no_contradiction(self) -> CountRequest:
        names = [tool.name for tool in self.tools or ()]
        if len(set(names)) < len(names):
            raise FieldError("tools", "two tools have the same name")
        if (choice := self.tool_choice) is not None:
            if choice.type != "none" and not names:
                raise FieldError("tool_choice", "it needs `tools`")
            if choice.type == "tool" and choice.name not in names:
                raise FieldError("tool_choice.name", "there is no tool of this name in `tools`")
        _check_history(self.messages)
        return self


class Metadata(Wire):
    user_id: str | None = Field(default=None, description="A provider gets it as `user`.")


class MessagesRequest(CountRequest):
    """A conversation. Fields that are not listed are accepted; those that are not Anthropic's reach a provider."""

    max_tokens: int = Field(ge=1, description="Completion tokens at most.")
    stream: bool | None = Field(default=None, description="Server-sent events, ended by `message_stop`.")
    temperature: float | None = Field(default=None, ge=0, le=2, description="0 is greedy.")
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0, le=1_000_000, description="0 keeps all tokens.")
    stop_sequences: Annotated[Many[StopText], Field(max_length=16)] | None = None
    metadata: Metadata | None = None


def _check_history(turns: list[Turn]) -> None:
    """Each result answers a call of the assistant's turn before it, and each call has one before the next turn."""
    calls: dict[str, str] = {}
    before = ""
    for at, turn in enumerate(turns):
        if turn.role != "user" and turn.role != before:
            _check_answered(calls)
            calls = {}
        for place, block in _placed(turn, f"messages[{at}]"):
            if block.type == "tool_use":
                if block.id in calls:
                    raise FieldError(f"{place}.id", "another call of this turn has the same id")
                calls[block.id] = place
            elif block.type == "tool_result" and calls.pop(block.tool_use_id, None) is None:
                raise FieldError(f"{place}.tool_use_id", "no call of the assistant's turn before it has this id")
        before = turn.role
    _check_answered(calls)


def _placed(turn: Turn, place: str) -> Iterator[tuple[str, Any]]:
    return ((f"{place}.content[{at}]", block) for at, block in enumerate(turn.blocks))


def _check_answered(calls: dict[str, str]) -> None:
    for place in calls.values():
        raise FieldError(place, "this call has no `tool_result` in the turn after it")
