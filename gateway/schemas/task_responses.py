"""What goes out of the endpoints that do not generate text; like `responses`, for the API's description and tests."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from gateway.schemas.responses import Out


class PromptUsage(Out):
    prompt_tokens: int
    total_tokens: int


class EmbeddingObject(Out):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str = Field(description="Floats, or little-endian float32 in base64, as asked for.")


class EmbeddingList(BaseModel):
    """The answer of `/v1/embeddings`."""

    object: Literal["list"]
    data: list[EmbeddingObject]
    model: str
    usage: PromptUsage


class RerankResult(BaseModel):
    index: int
    relevance_score: float
    document: dict[str, Any] | None = Field(default=None, description="Only with `return_documents`.")


class InputTokens(Out):
    input_tokens: int


class RerankMeta(Out):
    tokens: InputTokens


class Reranked(Out):
    """The answer of `/v1/rerank`."""

    id: str
    object: Literal["list"]
    model: str
    results: list[RerankResult] = Field(description="Best first.")
    usage: PromptUsage
    meta: RerankMeta
