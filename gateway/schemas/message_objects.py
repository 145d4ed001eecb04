"""What `/v1/messages` answers. For the OpenAPI document and the tests: answers themselves are written as bytes."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from gateway.schemas.responses import Out

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal"]


class SaidText(Out):
    type: Literal["text"]
    text: str


class SaidThinking(Out):
    type: Literal["thinking"]
    thinking: str
    signature: str = Field(description="Empty: nothing here signs.")


class SaidToolUse(Out):
    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


class MessageUsage(Out):
    """`input_tokens` and `cache_read_input_tokens` together are the prompt."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int


class MessageObject(Out):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[SaidText | SaidThinking | SaidToolUse]
    stop_reason: StopReason | None = Field(description="Null at the start of a stream only.")
    stop_sequence: str | None = Field(description="Null as well where the provider does not tell which it was.")
    usage: MessageUsage


class MessageEvent(BaseModel):
    """One event of a stream: `message_start`, `content_block_start`, `content_block_delta`, `content_block_stop`,
    `message_delta`, `message_stop`, `ping` or `error`."""

    model_config = ConfigDict(extra="allow")

    type: str


class TokenCount(Out):
    input_tokens: int
    exact: bool = Field(description="False: a provider would answer, whose tokenizer is not known here: estimated.")


class MessagesErrorDetail(BaseModel):
    type: str
    message: str
    code: str
    param: str | None = None


class MessagesError(Out):
    """Every error of these paths."""

    type: Literal["error"]
    error: MessagesErrorDetail
