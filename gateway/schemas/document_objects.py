"""What `/v1/files` and `/v1/vector_stores` send. For the OpenAPI document and the tests, as in `responses`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gateway.schemas.responses import Out

Status = Literal["in_progress", "completed", "failed", "cancelled"]
Attribute = str | bool | int | float


class OwnOfFile(Out):
    sha256: str = Field(description="Of the content, in hex.")


class FileObject(Out):
    """A file that was uploaded."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int = Field(description="Unix time (s).")
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["processed"]
    status_details: None
    outstation: OwnOfFile


class FileList(Out):
    object: Literal["list"]
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedFile(Out):
    id: str
    object: Literal["file"]
    deleted: Literal[True]


class FileCounts(Out):
    in_progress: int
    completed: int
    failed: int
    cancelled: int
    total: int


class ExpiresAfter(Out):
    anchor: Literal["last_active_at"]
    days: int


class Reindexing(Out):
    """How far the store's new vectors are."""

    embedder: str
    done: int
    total: int
    failed: int


class OwnOfStore(Out):
    data_class: str = Field(description="Its own.")
    data_classes: list[str] = Field(
        description="With those that its files brought: they decide whether what is in it may leave the site."
    )
    embedder: str = Field(description="The model that it is pinned to.")
    reindex: Reindexing | None


class VectorStoreObject(Out):
    """A vector store."""

    id: str
    object: Literal["vector_store"]
    created_at: int = Field(description="Unix time (s).")
    name: str
    description: str | None
    usage_bytes: int = Field(description="Of texts and vectors.")
    file_counts: FileCounts
    status: Literal["expired", "in_progress", "completed"]
    expires_after: ExpiresAfter | None
    expires_at: int | None
    last_active_at: int
    metadata: dict[str, str]
    outstation: OwnOfStore


class VectorStoreList(Out):
    object: Literal["list"]
    data: list[VectorStoreObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedVectorStore(Out):
    id: str
    object: Literal["vector_store.deleted"]
    deleted: Literal[True]


class LastError(Out):
    code: Literal["server_error", "unsupported_file", "invalid_file"]
    message: str


class StaticSizes(Out):
    max_chunk_size_tokens: int
    chunk_overlap_tokens: int


class OwnOfStrategy(Out):
    by_structure: Literal[True]


class Strategy(Out):
    """By what the file is cut; `other`: it is not known."""

    type: Literal["static", "other"]
    static: StaticSizes | None = None
    outstation: OwnOfStrategy | None = None


class ReadingProgress(Out):
    page: int
    pages: int


class OwnOfStoreFile(Out):
    filename: str
    sha256: str
    progress: ReadingProgress | None = Field(description="While it is read.")


class VectorStoreFileObject(Out):
    """A file in a vector store."""

    id: str
    object: Literal["vector_store.file"]
    created_at: int = Field(description="Unix time (s).")
    vector_store_id: str
    status: Status
    last_error: LastError | None
    usage_bytes: int
    attributes: dict[str, Attribute]
    chunking_strategy: Strategy
    outstation: OwnOfStoreFile


class VectorStoreFileList(Out):
    object: Literal["list"]
    data: list[VectorStoreFileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedVectorStoreFile(Out):
    id: str
    object: Literal["vector_store.file.deleted"]
    deleted: Literal[True]


class OwnOfText(Out):
    page: int | None = Field(description="From 1; null: the file has no pages.")
    start: int = Field(description="In characters of the file's text.")
    end: int
    headings: list[str]


class FileText(Out):
    type: Literal["text"]
    text: str
    outstation: OwnOfText


class VectorStoreFileContent(Out):
    """The text that was read of a file, in its order."""

    object: Literal["vector_store.file_content.page"]
    data: list[FileText]
    has_more: Literal[False]
    next_page: None


class FileBatchObject(Out):
    """Files that were put into a vector store together."""

    id: str
    object: Literal["vector_store.files_batch"]
    created_at: int = Field(description="Unix time (s).")
    vector_store_id: str
    status: Status
    file_counts: FileCounts


class FoundText(Out):
    type: Literal["text"]
    text: str


class ResultScores(Out):
    """Null: that path did not find it, or the reranker was not asked."""

    cosine: float | None
    words: float | None = Field(description="BM25.")
    fused: float
    rerank: float | None
    final: float = Field(description="What results are ordered by.")


class OwnOfResult(OwnOfText):
    path: Literal["vectors", "words", "both"]
    scores: ResultScores


class SearchResult(Out):
    """A passage."""

    file_id: str
    filename: str
    score: float = Field(description="0 to 1: about how often such a passage holds the answer.")
    attributes: dict[str, Attribute]
    content: list[FoundText]
    outstation: OwnOfResult


class OwnOfSearch(Out):
    answered: bool = Field(description="Whether the documents say something about it.")
    confidence: float


class SearchResults(Out):
    """The best passages first."""

    object: Literal["vector_store.search_results.page"]
    search_query: list[str]
    data: list[SearchResult]
    has_more: Literal[False]
    next_page: None
    outstation: OwnOfSearch
