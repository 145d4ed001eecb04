"""`/v1/files` and `/v1/vector_stores`: what comes in."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, StringConstraints, Tag, WithJsonSchema, model_validator

from gateway.schemas.generation import DataClass
from gateway.schemas.parse import FieldError, Many, Wire
from gateway.schemas.unions import TEXT_OR_LIST

MOST_FILES = 500
MOST_IN_BATCH = 2000
MOST_QUESTIONS = 10
LONGEST_QUESTION = 10_000
"""Characters. The embedder reads the first few hundred words at most."""

Id = Annotated[str, StringConstraints(min_length=1, max_length=100)]
Name = Annotated[str, StringConstraints(max_length=512)]
Notes = Annotated[dict[Annotated[str, StringConstraints(max_length=64)], Name], Field(max_length=16)]
Query = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_QUESTION, pattern=r"\S")]
_ATTRIBUTES = {
    "type": "object",
    "maxProperties": 16,
    "additionalProperties": {"anyOf": [{"type": "string", "maxLength": 512}, {"type": "number"}, {"type": "boolean"}]},
}
_FILTER = {
    "type": "object",
    "description": "`{type: eq | ne | gt | gte | lt | lte | in | nin, key, value}`, or `{type: and | or, filters}`.",
    "properties": {"type": {"type": "string"}},
    "required": ["type"],
}
Attributes = Annotated[Any, WithJsonSchema(_ATTRIBUTES)]
"""Checked by `rag.filters.attributes`, filters by `rag.filters.parse`: there the store and its search agree on them."""
Filters = Annotated[Any, WithJsonSchema(_FILTER)]


class FileExpiry(Wire):
    """When a file is removed by itself."""

    anchor: Literal["created_at"]
    seconds: int = Field(ge=3600, le=2_592_000, description="After it was uploaded: an hour to 30 days.")


class FileForm(Wire):
    """The texts of the form beside its file."""

    purpose: Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
    expires_after: FileExpiry | None = None


class StoreExpiry(Wire):
    """When a vector store is emptied by itself."""

    anchor: Literal["last_active_at"]
    days: int = Field(ge=1, le=365, description="Without use.")


class StaticChunks(Wire):
    """How long chunks are, in the embedder's own tokens."""

    max_chunk_size_tokens: int = Field(ge=100, le=4096)
    chunk_overlap_tokens: int = Field(ge=0, description="At most half of `max_chunk_size_tokens`.")

    @model_validator(mode="after")
    def _overlaps_by_half(self) -> StaticChunks:
        if self.chunk_overlap_tokens > self.max_chunk_size_tokens // 2:
            raise FieldError("chunk_overlap_tokens", "at most half of `max_chunk_size_tokens`")
        return self


class ChunkControls(Wire):
    """Outstation's own."""

    model_config = ConfigDict(extra="forbid")

    by_structure: bool | None = Field(
        default=None, description="Chunks end where sections do. Default: with `auto` only."
    )


class AutoStrategy(Wire):
    """As `[documents]` says."""

    type: Literal["auto"]


class StaticStrategy(Wire):
    """As the client says."""

    type: Literal["static"]
    static: StaticChunks
    outstation: ChunkControls | None = None


def _strategy_tag(value: Any) -> str:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return "<static>" if kind == "static" else "<auto>"


ChunkingStrategy = Annotated[
    Annotated[AutoStrategy, Tag("<auto>")] | Annotated[StaticStrategy, Tag("<static>")], Discriminator(_strategy_tag)
]


class StoreControls(Wire):
    """Outstation's own."""

    model_config = ConfigDict(extra="forbid")

    data_class: DataClass | None = Field(
        default=None, description="Of all that is in the store: decides whether it may leave the site."
    )


class NewStoreControls(StoreControls):
    """Outstation's own, for a new store."""

    embedder: Name | None = Field(default=None, description="The model that the store is pinned to. Default: `auto`.")


class VectorStoreRequest(Wire):
    """A new vector store."""

    name: Name | None = None
    description: Name | None = None
    file_ids: Annotated[Many[Id], Field(max_length=MOST_FILES)] | None = None
    chunking_strategy: ChunkingStrategy | None = Field(default=None, description="Of `file_ids`.")
    metadata: Notes | None = None
    expires_after: StoreExpiry | None = None
    outstation: NewStoreControls | None = None


class VectorStoreUpdate(Wire):
    """What changes. `null` empties a field; what is left out stays."""

    name: Name | None = None
    description: Name | None = None
    metadata: Notes | None = None
    expires_after: StoreExpiry | None = None
    outstation: StoreControls | None = None


class StoreFileRequest(Wire):
    """A file for a vector store."""

    file_id: Id
    attributes: Attributes | None = None
    chunking_strategy: ChunkingStrategy | None = None


class StoreFileUpdate(Wire):
    """Other attributes, in place of those that the file has."""

    attributes: Attributes


class FileBatchRequest(Wire):
    """Files for a vector store: all of them, or none. Either `file_ids` or `files`."""

    file_ids: Annotated[Many[Id], Field(min_length=1, max_length=MOST_IN_BATCH)] | None = None
    files: Annotated[Many[StoreFileRequest], Field(min_length=1, max_length=MOST_IN_BATCH)] | None = None
    attributes: Attributes | None = Field(default=None, description="Of `file_ids`, as `chunking_strategy`.")
    chunking_strategy: ChunkingStrategy | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> FileBatchRequest:
        if (self.file_ids is None) == (self.files is None):
            raise FieldError("file_ids", "give either `file_ids` or `files`")
        return self


class RankingOptions(Wire):
    """How results are ordered, and which are left out."""

    ranker: Literal["none", "auto", "default-2024-11-15"] | None = Field(
        default=None, description="`none`: no reranker is asked."
    )
    score_threshold: float | None = Field(default=None, ge=0, le=1)


class SearchRequest(Wire):
    """A question for a vector store."""

    query: Annotated[
        Annotated[Query, Tag("<text>")]
        | Annotated[Many[Query], Field(min_length=1, max_length=MOST_QUESTIONS), Tag("<list>")],
        TEXT_OR_LIST,
    ]
    filters: Filters | None = None
    max_num_results: int | None = Field(default=None, ge=1, le=50, description="Default: 10.")
    ranking_options: RankingOptions | None = None
    rewrite_query: bool | None = Field(default=None, description="Has no effect: every question is asked as it is.")


class ReindexRequest(Wire):
    """Other vectors for a vector store."""

    model: Name | None = Field(default=None, description="The embedder. Default: `auto`.")
