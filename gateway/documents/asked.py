"""What a request wants of the documents, from either dialect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rag.filters import parse
from rag.types import Filter


@dataclass(frozen=True, slots=True)
class Search:
    """What an answer is to be made from.

    Attributes:
        limit: passages at most; None: as configured.
        words: the weight of words; None: the store's.
        raw: as it came: `search_of` makes the same of it again.
    """

    stores: tuple[str, ...]
    filters: Filter | None
    limit: int | None
    threshold: float
    words: float | None
    rerank: bool
    raw: Mapping[str, Any]


def search_of(raw: Mapping[str, Any], place: str) -> Search:
    """Of a `file_search` tool, or of a chat's `outstation`, which have the same fields.

    Raises:
        InvalidRequest: a filter that is none; it names its place.
    """
    ranking = raw.get("ranking_options") or {}
    hybrid = ranking.get("hybrid_search")
    filters = raw.get("filters")
    return Search(
        tuple(dict.fromkeys(raw["vector_store_ids"])),
        parse(filters, f"{place}.filters") if filters is not None else None,
        raw.get("max_num_results"),
        float(ranking.get("score_threshold") or 0.0),
        _words(hybrid) if hybrid else None,
        ranking.get("ranker") != "none",
        raw,
    )


def _words(hybrid: Mapping[str, Any]) -> float:
    """OpenAI's two weights as one. They are meant for ranks; here they set how much words count beside vectors, so
    that equal ones are this store's default of 0.2."""
    text, vectors = float(hybrid.get("text_weight", 1.0)), float(hybrid.get("embedding_weight", 1.0))
    return min(5.0, 0.2 * text / max(vectors, 1e-3))
