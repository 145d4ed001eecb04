"""What goes out. For the OpenAPI document and the tests: answers themselves are written as bytes."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from backends.types import Kind
from gateway.schemas.grounded_objects import GroundedObject


class Out(BaseModel):
    """A shape that we promise: nothing more, nothing less."""

    model_config = ConfigDict(extra="forbid", strict=True)


class PromptTokensDetails(Out):
    cached_tokens: int = Field(description="Of the prompt's, those found in the KV cache.")
    audio_tokens: int


class CompletionTokensDetails(Out):
    reasoning_tokens: int
    audio_tokens: int


class UsageObject(Out):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class TokenEntry(Out):
    token: str
    logprob: float
    bytes: list[int] | None


class TokenWithAlternatives(TokenEntry):
    top_logprobs: list[TokenEntry]


class ChatLogprobs(Out):
    content: list[TokenWithAlternatives] | None
    refusal: None


class AssistantMessage(Out):
    role: Literal["assistant"]
    content: str | None
    refusal: str | None


class ChatChoice(Out):
    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(Out):
    """The answer of `/v1/chat/completions`."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageObject
    outstation: GroundedObject | None = Field(default=None, description="Of an answer from documents.")


class Delta(Out):
    role: Literal["assistant"] | None = None
    content: str | None = None
    refusal: str | None = None


class ChatChunkChoice(Out):
    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class ChatCompletionChunk(Out):
    """The `data` of one event of a streamed chat."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: UsageObject | None = None
    outstation: GroundedObject | None = Field(default=None, description="With the last chunk of each choice.")


class CompletionLogprobs(Out):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(Out):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class Completion(Out):
    """The answer of `/v1/completions`, and the `data` of one event of it when streamed."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: UsageObject | None = None


class ModelObject(Out):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    context_length: int
    max_model_len: int
    kinds: list[Kind] = Field(description="What it is asked for.")
    capabilities: list[str]
    route: str


class ModelList(Out):
    object: Literal["list"]
    data: list[ModelObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ErrorDetail(BaseModel):
    """What went wrong; some codes add numbers to act on (`n_prompt_tokens`, `n_ctx`)."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(Out):
    """Every error, on every path."""

    error: ErrorDetail


class Health(Out):
    status: Literal["ok", "ready", "not ready"]
    reasons: list[str] = Field(default=[], description="Only with 503.")


class ModelStatusObject(BaseModel):
    """A model's `ModelState`."""

    name: str
    status: Literal["stopped", "starting", "ready", "draining", "failed"]
    kinds: list[Kind]


class ProviderRoute(Out):
    """A provider's model. `reason`: why it cannot be asked now, or empty."""

    route: str
    context_length: int
    reason: str
    retry_after_s: float | None
    ttft_s: float | None
    tokens_per_s: float | None


class SiteStatus(Out):
    version: str
    uptime_s: float
    models: list[ModelStatusObject]
    providers: list[ProviderRoute]


class PlannedRoute(Out):
    """A route in the order in which it would be attempted."""

    route: str
    prompt_tokens: int
    prompt_tokens_exact: bool
    cost_usd: float
    ttft_s: float | None
    total_s: float | None
    redact: list[str]
    placeholders: dict[str, int]


class DroppedRoute(Out):
    """A route that a policy took out."""

    route: str
    policy: str
    reason: str
    code: str


class Refusal(Out):
    """What the client would be told."""

    status: int
    code: str
    message: str


class PlanObject(Out):
    """`POST /v1/outstation/explain`."""

    object: Literal["outstation.plan"]
    model: str
    routes: list[PlannedRoute]
    dropped: list[DroppedRoute]
    reasons: list[str]
    data_classes: list[str]
    signals: dict[str, float | str]
    late_signals: list[str]
    refused: Refusal | None
