"""What goes out of the endpoints that do not generate text; like `responses`, for the API's description and tests."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from gateway.schemas.responses import ErrorDetail, Out


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


class ModerationResult(Out):
    flagged: bool
    categories: dict[str, bool]
    category_scores: dict[str, float] = Field(description="0 where the model cannot judge.")
    category_applied_input_types: dict[str, list[Literal["text"]]] = Field(
        description="Empty where the model cannot judge."
    )


class ModerationExtra(Out):
    unsupported_categories: list[str] = Field(description="Of OpenAI's, those that the model cannot judge.")
    labels: list[dict[str, float]] = Field(description="The model's own labels with their probabilities.")


class Moderation(Out):
    """The answer of `/v1/moderations`."""

    id: str
    model: str
    results: list[ModerationResult]
    outstation: ModerationExtra


class Span(Out):
    start: int = Field(description="In characters.")
    end: int
    label: str
    probability: float


class ClassificationResult(Out):
    """One input as one model judges it."""

    index: int = Field(description="Of the input.")
    model: str = Field(description="That was asked.")
    version: str
    label: str | None = Field(description="That holds; null: none does.")
    confidence: float | None = Field(description="In it; null: whoever answered does not tell.")
    labels: dict[str, float | None] = Field(description="With probabilities, the likeliest first.")
    source: Literal["edge", "local_llm", "remote"] = Field(description="Who said it.")
    route: str = Field(description="Who answered in the end: `local/NAME` or `PROVIDER/MODEL`.")
    edge_label: str | None = Field(description="What the model said that was asked.")
    edge_confidence: float | None
    why: str = Field(description="Whether somebody else was asked, and what came of it.")
    latency_ms: float
    spans: list[Span] | None = Field(default=None, description="Only of a model that finds places in a text.")


class ClassificationFailure(Out):
    """In place of a result, of one among several models that failed."""

    index: int = Field(description="Of the input.")
    model: str
    version: str
    error: ErrorDetail


class ClassificationUsage(Out):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Classification(Out):
    """The answer of `/v1/classify`."""

    id: str
    object: Literal["classification"]
    model: str | None = Field(default=None, description="Of an answer by one model.")
    labels: dict[str, float | None] | None = Field(default=None, description="Of an answer with one result: its own.")
    results: list[ClassificationResult | ClassificationFailure] = Field(description="By model, then by input.")
    usage: ClassificationUsage
