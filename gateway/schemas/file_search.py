"""What is asked of the site's documents by a response's `file_search` tool, and by a chat's `outstation`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from gateway.schemas.documents import Filters, Id, RankingOptions
from gateway.schemas.generation import Controls
from gateway.schemas.parse import FieldError, Many, Wire

MOST_STORES = 10
Stores = Annotated[Many[Id], Field(min_length=1, max_length=MOST_STORES)]


class HybridSearch(Wire):
    """What words and vectors count for; equal weights are the default."""

    embedding_weight: float = Field(ge=0, le=1000)
    text_weight: float = Field(ge=0, le=1000)


class AnswerRanking(RankingOptions):
    """How passages are ordered, and which are left out."""

    hybrid_search: HybridSearch | None = None


class FileSearchTool(Wire):
    """The answer is made from what vector stores hold. They are always searched, once, before the model is asked."""

    type: Literal["file_search"]
    vector_store_ids: Stores
    filters: Filters | None = None
    max_num_results: int | None = Field(default=None, ge=1, le=50, description="Default: `documents.results`.")
    ranking_options: AnswerRanking | None = None


class ChatControls(Controls):
    """Outstation's own controls of a chat: those of all requests, and the documents that it is answered from."""

    model_config = ConfigDict(extra="forbid")

    vector_store_ids: Stores | None = Field(
        default=None, description="Vector stores whose passages the answer is made from."
    )
    filters: Filters | None = Field(default=None, description="Which of their files, by attributes.")
    max_num_results: int | None = Field(default=None, ge=1, le=50, description="Default: `documents.results`.")
    ranking_options: AnswerRanking | None = None

    def check_search(self) -> None:
        """Raises `FieldError` for what says nothing without `vector_store_ids`."""
        for name in ("filters", "max_num_results", "ranking_options"):
            if self.vector_store_ids is None and getattr(self, name) is not None:
                raise FieldError(f"outstation.{name}", "it needs `outstation.vector_store_ids`")
