"""The schema of `[documents]` in `outstation.toml`: files, vector stores, and how they are searched."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from gateway.schemas.table import ClassName, Count, Table


class DocumentSettings(Table):
    """Where the site's documents are kept, and how they are searched."""

    store: str = Field(
        default="",
        max_length=1000,
        description="A path (relative to this file), or `postgresql://…`, which several gateways may share. Empty: "
        "`documents.db` in the home.",
    )
    key_env: str | None = Field(
        default=None,
        min_length=1,
        description="Environment variable that holds the key which the file is encrypted by.",
    )
    key_file: str | None = Field(default=None, min_length=1, description="File that holds it. Neither: no encryption.")
    data_class: ClassName = Field(
        default="documents",
        description="Data class of a vector store that names none: what providers may see of it, their `data` says.",
    )
    max_file_mb: Count = Field(default=512, le=4096, description="Larger files (MiB) are refused with 413.")
    chunk_tokens: int = Field(
        default=400, ge=100, le=4096, description="Tokens of a chunk at most, by the embedder's own tokenizer."
    )
    chunk_overlap_tokens: int = Field(
        default=0, ge=0, le=2048, description="Tokens that a chunk repeats of the one before, at most half of it."
    )
    reranker: str = Field(
        default="auto",
        max_length=200,
        description="The small model that reranks; `auto`: `small_models.rerank`; empty: none.",
    )
    rerank_ms: float = Field(
        default=150.0,
        ge=0,
        le=60_000,
        description="Time for it in each search, five times that before an answer; 0: none.",
    )
    results: int = Field(
        default=6, ge=1, le=50, description="Passages that an answer is made from, where the request does not say."
    )
    context_tokens: Count = Field(
        default=2000, description="Tokens of retrieved text in a prompt at most, if the model has room for so many."
    )
    not_found: Literal["say", "model"] = Field(
        default="say",
        description="When the documents do not answer a question: `say` that at once, or ask the `model` all the same.",
    )

    not_found_text: str = Field(
        default="The documents do not say.", min_length=1, max_length=1000, description="What is said then."
    )

    @model_validator(mode="after")
    def _consistent(self) -> DocumentSettings:
        if self.key_env and self.key_file:
            raise ValueError("give `key_env` or `key_file`, not both")
        if (self.key_env or self.key_file) and "://" in self.store:
            raise ValueError("PostgreSQL encrypts by its own means: leave out `key_env` and `key_file`")
        if self.chunk_overlap_tokens > self.chunk_tokens // 2:
            raise ValueError("`chunk_overlap_tokens` may be half of `chunk_tokens` at most")
        return self
