"""What goes out of the endpoints that do not generate text; like `responses`, for the API's description and tests."""

from __future__ import annotations

from typing import Literal

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
