"""What can be wrong with a request to the store or with the store itself, beside `backends.errors`."""

from __future__ import annotations

from backends.errors import BackendError, InvalidRequest, Unavailable
from rag.types import Embedder


class NotThere(BackendError):
    """There is no such file, store or batch (404)."""

    code = "not_found"

    def __init__(self, what: str, id_: str, param: str | None = None) -> None:
        super().__init__(f"There is no {what} {id_[:100]!r} here.", param=param)


class OtherEmbedder(InvalidRequest):
    """Vectors of one model for a store of another one (400)."""

    code = "embedder_mismatch"

    def __init__(self, wanted: Embedder, got: Embedder) -> None:
        super().__init__(
            f"This vector store is pinned to the embedder {wanted.name} ({wanted.dimensions} dimensions, "
            f"{wanted.sha256[:12]}); these vectors are of {got.name} ({got.dimensions} dimensions, {got.sha256[:12]}). "
            "Rebuild the store with `outstation reindex`."
        )


class StoreTrouble(Unavailable):
    """The database cannot be used now; the message says what to do (503)."""

    code = "store_unavailable"


class Superseded(Exception):
    """The file that was worked on is no longer wanted: cancelled, removed, or claimed by another worker."""
