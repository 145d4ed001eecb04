"""`POST /v1/responses`: what comes in. (`responses` has what goes out of all endpoints.)"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, StringConstraints, Tag, model_validator

from gateway.schemas.chat import Function
from gateway.schemas.file_search import FileSearchTool
from gateway.schemas.generation import Generation
from gateway.schemas.items import Item
from gateway.schemas.parse import FewPieces, FieldError, Many, Wire
from gateway.schemas.unions import TEXT_OR_LIST, TEXT_OR_OBJECT

MOST_ITEMS = 10_000


class FunctionTool(Function):
    """As a chat's, flat."""

    type: Literal["function"]


def _tool_tag(value: Any) -> str:
    return "<search>" if isinstance(value, dict) and value.get("type") == "file_search" else "<function>"


Tool = Annotated[
    Annotated[FunctionTool, Tag("<function>")] | Annotated[FileSearchTool, Tag("<search>")], Discriminator(_tool_tag)
]


class SearchChoice(Wire):
    """The documents must be searched: they always are."""

    type: Literal["file_search"]


class NamedChoice(Wire):
    """This function must be called; or, among others, may be."""

    type: Literal["function"]
    name: str


def _choice_tag(value: Any) -> str:
    if not isinstance(value, dict):
        return "<word>"
    return {"allowed_tools": "<allowed>", "file_search": "<search>"}.get(str(value.get("type")), "<name>")


Allowed = Annotated[
    Annotated[NamedChoice, Tag("<name>")] | Annotated[SearchChoice, Tag("<search>")],
    Discriminator(lambda value: "<search>" if _choice_tag(value) == "<search>" else "<name>"),
]


class AllowedChoice(Wire):
    """Some of `tools`."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Many[Allowed] = Field(min_length=1)

    @property
    def names(self) -> list[str]:
        """Of functions."""
        return [tool.name for tool in self.tools if isinstance(tool, NamedChoice)]

    @property
    def search(self) -> bool:
        """Whether the documents may be searched."""
        return any(isinstance(tool, SearchChoice) for tool in self.tools)


Choice = Annotated[
    Annotated[Literal["auto", "none", "required"], Tag("<word>")]
    | Annotated[NamedChoice, Tag("<name>")]
    | Annotated[AllowedChoice, Tag("<allowed>")]
    | Annotated[SearchChoice, Tag("<search>")],
    Discriminator(_choice_tag),
]


class TextFormat(Wire):
    """As `response_format` of a chat, flat."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_-]{1,64}$")
    description: str | None = None
    strict: bool | None = Field(default=None, description="It is enforced whatever this says.")
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")

    @model_validator(mode="after")
    def _with_its_schema(self) -> TextFormat:
        if self.type == "json_schema" and self.name is None:
            raise FieldError("name", "a format of type `json_schema` needs it")
        if self.type == "json_schema" and self.schema_ is None:
            raise FieldError("schema", "a format of type `json_schema` needs it")
        return self


class TextSettings(Wire):
    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class Reasoning(Wire):
    """How long a model that can think should."""

    effort: str | None = Field(default=None, pattern=r"^[a-z]{1,20}$", description="`none`, `low`, `high`, …")
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


ConversationId = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class ConversationName(Wire):
    id: ConversationId


ConversationChoice = Annotated[
    Annotated[ConversationId, Tag("<text>")] | Annotated[ConversationName, Tag("<object>")],
    TEXT_OR_OBJECT,
]
Label = Annotated[str, StringConstraints(max_length=64)]
Note = Annotated[str, StringConstraints(max_length=512)]
Included = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "message.input_image.image_url",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
]
MOVED = {
    "messages": "input",
    "response_format": "text.format",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "functions": "tools",
}
"""Fields of a chat, and what they are called here."""


class ResponsesRequest(Generation):
    """A response. Fields that are not listed are accepted and, where a provider answers, passed on to it."""

    input: (
        Annotated[
            Annotated[str, Tag("<text>")]
            | Annotated[Many[Item], Field(max_length=MOST_ITEMS), FewPieces, Tag("<list>")],
            TEXT_OR_LIST,
        ]
        | None
    ) = Field(default=None, description="A text, or items: messages, calls of functions and what they gave.")
    instructions: str | None = Field(default=None, description="Before all else; not taken over by the next response.")
    max_output_tokens: int | None = Field(default=None, ge=1, description="Tokens at most, thoughts included.")
    max_tool_calls: int | None = Field(default=None, ge=1)
    tools: Many[Tool] | None = Field(default=None, max_length=128)
    tool_choice: Choice | None = None
    parallel_tool_calls: bool | None = None
    text: TextSettings | None = Field(default=None, description="`text.format`: JSON, or JSON of a schema.")
    reasoning: Reasoning | None = None
    truncation: Literal["disabled"] | None = Field(default=None, description="Nothing is ever cut off silently.")
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    include: Annotated[Many[Included], Field(max_length=32)] | None = Field(
        default=None,
        description="`message.output_text.logprobs` adds log-probabilities, `file_search_call.results` what was found; "
        "the others add nothing here.",
    )
    store: bool | None = Field(default=None, description="Keep it, to be read and gone on from; true if left out.")
    background: bool | None = Field(default=None, description="Answer at once with `queued`, compute later.")
    previous_response_id: str | None = Field(default=None, max_length=200, description="The response to go on from.")
    conversation: ConversationChoice | None = Field(
        default=None, description="The conversation to go on from; input and output are added to it."
    )
    prompt: Any = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    metadata: dict[Label, Note] | None = Field(default=None, max_length=16)
    chat_template_kwargs: dict[str, Any] | None = Field(
        default=None, description="Further variables for the chat template."
    )

    @model_validator(mode="before")
    @classmethod
    def _no_chat(cls, raw: Any) -> Any:
        for old, new in MOVED.items():
            if isinstance(raw, dict) and raw.get(old) is not None:
                raise FieldError(old, f"it is a chat's; here it is called `{new}`")
        return raw

    @model_validator(mode="after")
    def _no_contradiction(self) -> ResponsesRequest:
        if self.conversation is not None and self.previous_response_id is not None:
            raise FieldError("previous_response_id", "it cannot be combined with `conversation`")
        if self.input is None and self.previous_response_id is None and self.conversation is None:
            raise FieldError("input", "it is missing: a text or a list of items")
        if self.n is not None and self.n > 1:
            raise FieldError("n", "a response has one answer")
        wants = self.text.format if self.text else None
        if self.grammar is not None and wants is not None and wants.type != "text":
            raise FieldError("grammar", "it and `text.format` both say what the answer must be")
        if self.ignore_eos and wants is not None and wants.type != "text":
            raise FieldError("ignore_eos", "an answer that must have a form ends where that does")
        self._check_storing()
        self._check_choice()
        return self

    def _check_storing(self) -> None:
        if self.background and self.store is False:
            raise FieldError("store", "a response in the background has to be kept to be fetched")
        if self.background and self.stream:
            raise FieldError("stream", "a response in the background is not streamed: ask for it by its id")

    def _check_choice(self) -> None:
        names = [tool.name for tool in self.functions]
        if len(set(names)) < len(names):
            raise FieldError("tools", "two functions have the same name")
        searches = len(self.tools or ()) - len(names)
        if searches > 1:
            raise FieldError("tools", "one `file_search` is enough: it takes several vector stores")
        choice = self.tool_choice
        if choice is not None and choice not in ("none", "auto") and not self.tools:
            raise FieldError("tool_choice", "it needs `tools`")
        if not searches and (isinstance(choice, SearchChoice) or (isinstance(choice, AllowedChoice) and choice.search)):
            raise FieldError("tool_choice", "there is no `file_search` in `tools`")
        asked = [choice.name] if isinstance(choice, NamedChoice) else []
        asked += choice.names if isinstance(choice, AllowedChoice) else []
        for name in asked:
            if name not in names:
                raise FieldError("tool_choice", f"there is no function {name!r} in `tools`")

    @property
    def functions(self) -> list[FunctionTool]:
        """Of `tools`."""
        return [tool for tool in self.tools or () if isinstance(tool, FunctionTool)]

    @property
    def search(self) -> FileSearchTool | None:
        """Of `tools`; not where none may be used."""
        choice = self.tool_choice
        if choice == "none" or (isinstance(choice, AllowedChoice) and not choice.search):
            return None
        return next((tool for tool in self.tools or () if isinstance(tool, FileSearchTool)), None)

    @property
    def conversation_id(self) -> str | None:
        return self.conversation.id if isinstance(self.conversation, ConversationName) else self.conversation

    @property
    def wants_results(self) -> bool:
        return "file_search_call.results" in (self.include or ())

    @property
    def wants_logprobs(self) -> bool:
        return bool(self.top_logprobs) or "message.output_text.logprobs" in (self.include or ())
