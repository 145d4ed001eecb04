"""What `/v1/responses` sends. For the OpenAPI document and the tests, as in `responses`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from gateway.schemas.responses import Out, TokenWithAlternatives

Status = Literal["in_progress", "completed", "incomplete"]


class OutputText(Out):
    type: Literal["output_text"]
    text: str
    annotations: list[dict[str, Any]]
    logprobs: list[TokenWithAlternatives]


class Refusal(Out):
    type: Literal["refusal"]
    refusal: str


class OutputMessage(Out):
    id: str
    type: Literal["message"]
    status: Status
    role: Literal["assistant"]
    content: list[OutputText | Refusal]


class FunctionCall(Out):
    id: str
    type: Literal["function_call"]
    status: Status
    call_id: str = Field(description="What `function_call_output` refers to.")
    name: str
    arguments: str = Field(description="JSON.")


class SearchFacts(Out):
    answered: bool = Field(description="Whether the documents say something.")
    confidence: float = Field(description="0 to 1.")


class FileSearchCall(Out):
    """What was searched for in the documents."""

    id: str
    type: Literal["file_search_call"]
    status: Status
    queries: list[str]
    results: list[dict[str, Any]] | None = Field(description="With `include: [file_search_call.results]`.")
    outstation: SearchFacts


class ReasoningText(Out):
    type: Literal["reasoning_text"]
    text: str


class ReasoningOutput(Out):
    """What the model thought."""

    id: str
    type: Literal["reasoning"]
    status: Status
    summary: list[dict[str, Any]]
    content: list[ReasoningText]
    encrypted_content: None


class InputTokensDetails(Out):
    cached_tokens: int
    cache_write_tokens: int


class OutputTokensDetails(Out):
    reasoning_tokens: int


class ResponseUsage(Out):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ResponseError(Out):
    code: str
    message: str


class IncompleteDetails(Out):
    reason: Literal["max_output_tokens", "content_filter"]


class EchoedTool(Out):
    type: Literal["function"]
    name: str
    description: str | None
    parameters: dict[str, Any] | None
    strict: bool | None


class EchoedSearch(Out):
    type: Literal["file_search"]
    vector_store_ids: list[str]
    filters: dict[str, Any] | None
    max_num_results: int | None
    ranking_options: dict[str, Any] | None


class EchoedReasoning(Out):
    effort: str | None
    summary: str | None


class EchoedText(Out):
    format: dict[str, Any]
    verbosity: str


class ConversationRef(Out):
    id: str


class ResponseObject(Out):
    """A response. Every field is there, with the value that holds."""

    id: str
    object: Literal["response"]
    created_at: int = Field(description="Unix time (s).")
    completed_at: int | None
    status: Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
    error: ResponseError | None
    incomplete_details: IncompleteDetails | None
    model: str = Field(description="The model that answered; until then the name that was asked for.")
    output: list[OutputMessage | FunctionCall | ReasoningOutput | FileSearchCall]
    usage: ResponseUsage | None
    background: bool
    access_programs: None
    conversation: ConversationRef | None
    frequency_penalty: float | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    presence_penalty: float | None
    previous_response_id: str | None
    image: None
    input_transformations: None
    moderation: None
    prompt: None
    prompt_cache_diagnostics: None
    prompt_cache_key: str | None
    prompt_cache_options: None
    prompt_cache_retention: None
    reasoning: EchoedReasoning
    safety_identifier: str | None
    service_tier: Literal["default"]
    store: bool
    temperature: float | None
    text: EchoedText
    tool_choice: str | dict[str, Any]
    tool_usage: None
    tools: list[EchoedTool | EchoedSearch]
    top_logprobs: int
    top_p: float | None
    truncation: Literal["disabled"]
    user: str | None


class ResponseEvent(Out):
    """One event of a stream; which other fields there are depends on its type."""

    model_config = Out.model_config | {"extra": "allow"}

    type: str = Field(description="`response.created`, `response.output_text.delta`, …, as OpenAI's.")
    sequence_number: int = Field(description="From 0, without a gap.")


class DeletedResponse(Out):
    id: str
    object: Literal["response"]
    deleted: Literal[True]


class ConversationObject(Out):
    """A conversation; its items have a path of their own."""

    id: str
    object: Literal["conversation"]
    created_at: int = Field(description="Unix time (s).")
    metadata: dict[str, str]


class DeletedConversation(Out):
    id: str
    object: Literal["conversation.deleted"]
    deleted: Literal[True]


class ConversationItem(BaseModel):
    """An item, as in `/v1/responses`."""

    id: str
    type: str


class ResponseItemList(Out):
    """Input items of a response, or items of a conversation."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool
