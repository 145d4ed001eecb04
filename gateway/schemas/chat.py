"""`POST /v1/chat/completions`: what comes in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, Tag, model_validator

from gateway.schemas.file_search import ChatControls
from gateway.schemas.generation import Generation
from gateway.schemas.parse import FewPieces, FieldError, Many, Wire
from gateway.schemas.unions import TEXT_OR_LIST, TEXT_OR_OBJECT, by_type

PART_TYPES = ("text", "refusal", "image_url", "input_audio", "file")


class TextPart(Wire):
    type: Literal["text"]
    text: str


class RefusalPart(Wire):
    type: Literal["refusal"]
    refusal: str


class ImagePart(Wire):
    type: Literal["image_url"]
    image_url: dict[str, Any]


class AudioPart(Wire):
    type: Literal["input_audio"]
    input_audio: dict[str, Any]


class FilePart(Wire):
    type: Literal["file"]
    file: dict[str, Any]


class UnknownPart(Wire):
    """Only refuses: its `type` is none of those above."""

    type: Literal["text", "refusal", "image_url", "input_audio", "file"]  # as PART_TYPES


Part = Annotated[
    Annotated[TextPart, Tag("<text>")]
    | Annotated[RefusalPart, Tag("<refusal>")]
    | Annotated[ImagePart, Tag("<image_url>")]
    | Annotated[AudioPart, Tag("<input_audio>")]
    | Annotated[FilePart, Tag("<file>")]
    | Annotated[UnknownPart, Tag("<unknown>")],
    by_type(*PART_TYPES),
]
Content = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[Many[Part], Field(min_length=1), Tag("<list>")],
    TEXT_OR_LIST,
]


class ToolCallFunction(Wire):
    name: str = Field(min_length=1)
    arguments: str


class ToolCall(Wire):
    id: str
    type: Literal["function"]
    function: ToolCallFunction


class Message(Wire):
    """One turn of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = Field(default=None, description="Text or parts; images and audio need a model for them.")
    name: str | None = None
    tool_calls: Many[ToolCall] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None

    @model_validator(mode="after")
    def _something_said(self) -> Message:
        if self.content is None and self.role != "assistant":
            raise FieldError("content", f"a {self.role} message needs `content`: a string or a list of parts")
        if self.role == "assistant" and self.content is None and not self.tool_calls and self.refusal is None:
            raise FieldError("content", "an assistant message needs `content` or `tool_calls`")
        if self.role == "tool" and not self.tool_call_id:
            raise FieldError("tool_call_id", "a tool message needs `tool_call_id`")
        return self


class Function(Wire):
    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Wire):
    type: Literal["function"]
    function: Function


class FunctionName(Wire):
    name: str


class NamedChoice(Wire):
    """This function must be called."""

    type: Literal["function"]
    function: FunctionName


Choice = Annotated[
    Annotated[Literal["auto", "none", "required"], Tag("<text>")] | Annotated[NamedChoice, Tag("<object>")],
    TEXT_OR_OBJECT,
]


class ChatRequest(Generation):
    """A chat. Fields that are not listed are accepted and, where a provider answers, passed on to it."""

    messages: Annotated[Many[Message], FewPieces] = Field(min_length=1, max_length=10_000)
    max_completion_tokens: int | None = Field(default=None, ge=1, description="The newer name of `max_tokens`.")
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    tools: Many[Tool] | None = Field(default=None, max_length=128)
    tool_choice: Choice | None = None
    parallel_tool_calls: bool | None = None
    functions: Many[dict[str, Any]] | None = None
    reasoning_effort: str | None = Field(
        default=None, pattern=r"^[a-z]{1,20}$", description="How long a model that can think should: `none`, `low`, …"
    )
    modalities: Many[Literal["text", "audio"]] | None = None
    web_search_options: dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = Field(
        default=None, description="Further variables for the chat template."
    )
    outstation: ChatControls | None = None

    @model_validator(mode="after")
    def _no_contradiction(self) -> ChatRequest:
        if self.outstation:
            self.outstation.check_search()
        both = (self.max_tokens, self.max_completion_tokens)
        if None not in both and both[0] != both[1]:
            raise FieldError(
                "max_completion_tokens",
                "it is the newer name of `max_tokens`, and the two differ",
            )
        if self.top_logprobs is not None and not self.logprobs:
            raise FieldError("top_logprobs", "it needs `logprobs: true`")
        self._check_tools()
        return self

    def _check_tools(self) -> None:
        names = [tool.function.name for tool in self.tools or ()]
        if len(set(names)) < len(names):
            raise FieldError("tools", "two functions have the same name")
        if self.tool_choice is not None and self.tool_choice != "none" and not names:
            raise FieldError("tool_choice", "it needs `tools`")
        if isinstance(self.tool_choice, NamedChoice) and self.tool_choice.function.name not in names:
            raise FieldError("tool_choice", f"there is no function {self.tool_choice.function.name!r} in `tools`")
        _check_history(self.messages)


def _check_history(messages: list[Message]) -> None:
    """Each result answers a call of the assistant's turn before it, and each call has one before the next turn."""
    calls: dict[str, int] = {}
    for at, message in enumerate(messages):
        if message.role != "tool":
            _check_answered(calls)
            calls = {call.id: at for call in message.tool_calls or ()}
            _check_told_apart(message, at)
        elif message.tool_call_id not in calls:
            raise FieldError(f"messages[{at}].tool_call_id", "no call of the assistant's turn before it has this id")
        else:
            del calls[message.tool_call_id]
    _check_answered(calls)


def _check_told_apart(message: Message, at: int) -> None:
    seen: set[str] = set()
    for number, call in enumerate(message.tool_calls or ()):
        if call.id in seen:
            raise FieldError(f"messages[{at}].tool_calls[{number}].id", "another call of this turn has the same id")
        seen.add(call.id)


def _check_answered(calls: Mapping[str, int]) -> None:
    for id_, at in calls.items():
        raise FieldError(f"messages[{at}].tool_calls", f"the call {id_!r} has no result in a `tool` message after it")
