"""Files and vector stores as OpenAI's objects; what is Outstation's own stands under `outstation`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rag.retrieve import Result, Retrieved
from rag.store.records import Batch, Counts, FileRecord, Piece, StoreFile, VectorStore

Object = dict[str, Any]


def file_object(file: FileRecord) -> Object:
    """A file. There is nothing left to do with one that is kept, so it is `processed`."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size,
        "created_at": int(file.created),
        "expires_at": None if file.expires is None else int(file.expires),
        "filename": file.name,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
        "outstation": {"sha256": file.sha256},
    }


def store_object(store: VectorStore) -> Object:
    """A vector store."""
    days = store.expires_after
    return {
        "id": store.id,
        "object": "vector_store",
        "created_at": int(store.created),
        "name": store.name,
        "description": store.description or None,
        "usage_bytes": store.usage_bytes,
        "file_counts": _counts(store.counts),
        "status": store.status,
        "expires_after": None if days is None else {"anchor": "last_active_at", "days": days},
        "expires_at": None if store.expires_at is None else int(store.expires_at),
        "last_active_at": int(store.last_active),
        "metadata": store.metadata,
        "outstation": {
            "data_class": store.data_class,
            "data_classes": sorted(store.classes),
            "embedder": store.embedder.name,
            "reindex": _reindex(store),
        },
    }


def _reindex(store: VectorStore) -> Object | None:
    if store.next_embedder is None:
        return None
    return {
        "embedder": store.next_embedder.name,
        "done": store.rebuilt,
        "total": store.counts.completed,
        "failed": store.rebuild_failed,
    }


def store_file_object(file: StoreFile, progress: tuple[int, int] | None) -> Object:
    """A file in a vector store.

    Args:
        progress: page and pages, while it is read.
    """
    error = file.last_error
    return {
        "id": file.file_id,
        "object": "vector_store.file",
        "created_at": int(file.created),
        "vector_store_id": file.store_id,
        "status": file.status,
        "last_error": None if error is None else {"code": error.code, "message": error.message},
        "usage_bytes": file.usage_bytes,
        "attributes": file.attributes,
        "chunking_strategy": _strategy(file.chunking),
        "outstation": {
            "filename": file.name,
            "sha256": file.sha256,
            "progress": None if progress is None else {"page": progress[0], "pages": progress[1]},
        },
    }


def _strategy(kept: Mapping[str, Any]) -> Object:
    own = {"outstation": {"by_structure": True}} if kept.get("by_structure") else {}
    return {"type": "static", "static": kept["static"], **own} if "static" in kept else {"type": "other"}


def batch_object(batch: Batch) -> Object:
    """Files that were put into a vector store together."""
    return {
        "id": batch.id,
        "object": "vector_store.files_batch",
        "created_at": int(batch.created),
        "vector_store_id": batch.store_id,
        "status": batch.status,
        "file_counts": _counts(batch.counts),
    }


def _counts(counts: Counts) -> Object:
    return {**asdict(counts), "total": counts.total}


def content_page(pieces: Sequence[Piece]) -> Object:
    """What was read of a file, in its order: what a piece repeats of the one before is there once, and where blanks
    were between two, there is a line end."""
    data: list[Object] = []
    behind = 0
    for piece in pieces:
        chunk = piece.chunk
        first = max(behind, chunk.start)
        if first >= chunk.end:
            continue
        if data and chunk.start > behind:
            data[-1]["text"] += "\n"
        place = {"page": chunk.page, "start": first, "end": chunk.end, "headings": chunk.headings}
        data.append({"type": "text", "text": chunk.text[first - chunk.start :], "outstation": place})
        behind = chunk.end
    return {"object": "vector_store.file_content.page", "data": data, "has_more": False, "next_page": None}


def search_page(questions: Sequence[str], found: Retrieved) -> Object:
    """What a search found."""
    return {
        "object": "vector_store.search_results.page",
        "search_query": questions,
        "data": [_result(result) for result in found.results],
        "has_more": False,
        "next_page": None,
        "outstation": {"answered": found.answered, "confidence": found.confidence},
    }


def _result(result: Result) -> Object:
    file, passage, scores = result.file, result.passage, result.scores
    return {
        "file_id": file.file_id,
        "filename": file.name,
        "score": round(result.score, 4),
        "attributes": file.attributes,
        "content": [{"type": "text", "text": passage.text}],
        "outstation": {
            "page": result.page,
            "start": passage.start,
            "end": passage.end,
            "headings": result.headings,
            "path": scores.path,
            "scores": asdict(scores),
        },
    }


def list_object(items: Sequence[Object], *, has_more: bool) -> Object:
    """A page of a list."""
    return {
        "object": "list",
        "data": items,
        "first_id": items[0]["id"] if items else None,
        "last_id": items[-1]["id"] if items else None,
        "has_more": has_more,
    }


def deleted_object(id_: str, kind: str) -> Object:
    """What a deletion answers."""
    return {"id": id_, "object": kind, "deleted": True}
