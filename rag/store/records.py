"""What the store keeps, in the shapes that OpenAI's objects have. Times are Unix times (s)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from rag.types import AttributeValue, Chunk, Embedder

T = TypeVar("T")

FileStatus = Literal["in_progress", "completed", "failed", "cancelled"]
Order = Literal["asc", "desc"]
Attributes = Mapping[str, AttributeValue]


@dataclass(frozen=True, slots=True)
class FileRecord:
    """An uploaded file; its content is kept beside it.

    Attributes:
        size: in bytes.
        sha256: of the content, in hex.
        expires: when it is removed by itself; None: never.
    """

    id: str
    name: str
    purpose: str
    size: int
    sha256: str
    created: float
    expires: float | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """Files in a store or a batch, by status."""

    in_progress: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.in_progress + self.completed + self.failed + self.cancelled


@dataclass(frozen=True, slots=True)
class VectorStore:
    """A vector store.

    Attributes:
        data_class: its own. classes: with those that its files brought: they decide whether what is in it may leave.
        embedder: what its vectors are made by; `next_embedder`: what it is being rebuilt with, if it is.
        settings: of its search, such as weights; the store does not read them.
        expires_after: days without use; None: never.
        usage_bytes: texts and vectors of the files in it.
        rebuilt, rebuild_failed: of its completed files, with what `next_embedder` makes.
    """

    id: str
    name: str
    embedder: Embedder
    created: float
    last_active: float
    metadata: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    data_class: str = ""
    expires_after: int | None = None
    expired: bool = False
    usage_bytes: int = 0
    counts: Counts = Counts()
    next_embedder: Embedder | None = None
    rebuilt: int = 0
    rebuild_failed: int = 0
    description: str = ""
    classes: frozenset[str] = frozenset()

    @property
    def status(self) -> Literal["expired", "in_progress", "completed"]:
        """As OpenAI names it."""
        if self.expired:
            return "expired"
        return "in_progress" if self.counts.in_progress else "completed"

    @property
    def expires_at(self) -> float | None:
        """When it ends, unless it is used before."""
        return None if self.expires_after is None else self.last_active + self.expires_after * 86_400.0


@dataclass(frozen=True, slots=True)
class LastError:
    """Why a file failed. `code`: unsupported_file, invalid_file, server_error."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class StoreFile:
    """A file in a vector store.

    Attributes:
        chunking: the strategy as the client named it.
        attempts: how often work on it was begun.
    """

    store_id: str
    file_id: str
    name: str
    sha256: str
    status: FileStatus
    created: float
    attributes: Attributes = field(default_factory=dict)
    chunking: Mapping[str, Any] = field(default_factory=dict)
    usage_bytes: int = 0
    last_error: LastError | None = None
    batch_id: str | None = None
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """A file that shall come into a store."""

    file_id: str
    attributes: Attributes = field(default_factory=dict)
    chunking: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Batch:
    """Files that were put into a store together."""

    id: str
    store_id: str
    created: float
    counts: Counts
    cancelled: bool = False

    @property
    def status(self) -> FileStatus:
        """As OpenAI names it."""
        if self.cancelled:
            return "cancelled"
        return "in_progress" if self.counts.in_progress else "completed"


@dataclass(frozen=True, slots=True)
class Claim:
    """A file that one worker works on until `until`; then any other may.

    Attributes:
        embedder: of the vectors that are wanted.
        rebuild: the file is served already; it is for `Index.finish_rebuild`.
    """

    file: StoreFile
    owner: str
    until: float
    embedder: Embedder
    rebuild: bool = False


@dataclass(frozen=True, slots=True)
class Hit:
    """A piece that was found.

    Attributes:
        id: of the piece.
        score: cosine for vectors, BM25 or its like for words; higher is better.
    """

    id: int
    score: float


@dataclass(frozen=True, slots=True)
class Found:
    """By each path, the best first."""

    vectors: Sequence[Hit] = ()
    words: Sequence[Hit] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """A chunk as it is kept.

    Attributes:
        file: the one that it is of. Where several in the store have the same content: the oldest that the filter takes.
        place: among the file's pieces, from 0.
    """

    id: int
    file: StoreFile
    place: int
    chunk: Chunk


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a list."""

    items: Sequence[T]
    has_more: bool


@dataclass(frozen=True, slots=True)
class Cut:
    """Which part of a list: at most `limit`, behind `after`, before `before` (ids), by the time they were made."""

    limit: int = 20
    order: Order = "desc"
    after: str | None = None
    before: str | None = None
