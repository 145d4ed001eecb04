"""`/v1/vector_stores/{id}/files` and `/file_batches`: what is in a vector store, one by one and together."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from gateway.documents.documents import Documents
from gateway.documents.objects import Object, batch_object, content_page, deleted_object, store_file_object
from gateway.routes.documents import Endpoint, allowed, answered, asked, choice, cut_of, declared, id_of, listed
from gateway.schemas.documents import (
    AutoStrategy,
    FileBatchRequest,
    StaticStrategy,
    StoreFileRequest,
    StoreFileUpdate,
)
from rag.chunks import Strategy
from rag.filters import attributes
from rag.store.base import DocumentStore
from rag.store.records import Entry, FileStatus, StoreFile

POLL_MS = "250"
STORE, FILE, BATCH = "vector store", "file in the vector store", "file batch"
_STATUSES: dict[str, FileStatus] = {
    "in_progress": "in_progress",
    "completed": "completed",
    "failed": "failed",
    "cancelled": "cancelled",
}


def add_endpoint(documents: Documents) -> Endpoint:
    """Puts a file into a vector store."""

    async def create_file(http: HTTPRequest) -> Response:
        allowed(documents, http, "manage")
        id_ = id_of(http, STORE)
        entry = _entry(documents, await asked(http, StoreFileRequest), "")
        classes = declared(documents, http)
        added = await answered(documents, lambda store: _shown(documents, store.members.add(id_, entry, classes)))
        documents.library.wake()
        return added

    return create_file


def list_endpoint(documents: Documents) -> Endpoint:
    """Its files, page by page."""

    async def list_files(http: HTTPRequest) -> Response:
        allowed(documents, http, "read")
        id_ = id_of(http, STORE)
        return await _listed(documents, http, id_, None)

    return list_files


def read_endpoint(documents: Documents) -> Endpoint:
    """One of its files, and how far it is."""

    async def read_file(http: HTTPRequest) -> Response:
        allowed(documents, http, "read")
        id_, file_id = id_of(http, STORE), id_of(http, FILE, "file")
        return _polled(await answered(documents, lambda store: _shown(documents, store.members.get(id_, file_id))))

    return read_file


def update_endpoint(documents: Documents) -> Endpoint:
    """Gives one other attributes."""

    async def update_file(http: HTTPRequest) -> Response:
        allowed(documents, http, "manage")
        id_, file_id = id_of(http, STORE), id_of(http, FILE, "file")
        given = (await asked(http, StoreFileUpdate)).attributes
        found = attributes({} if given is None else given)
        return await answered(
            documents, lambda store: _shown(documents, store.members.set_attributes(id_, file_id, found))
        )

    return update_file


def remove_endpoint(documents: Documents) -> Endpoint:
    """Takes one out; the file itself stays."""

    async def delete_file(http: HTTPRequest) -> Response:
        allowed(documents, http, "manage")
        id_, file_id = id_of(http, STORE), id_of(http, FILE, "file")

        def work(store: DocumentStore) -> Object:
            store.members.remove(id_, file_id)
            return deleted_object(file_id, "vector_store.file.deleted")

        return await answered(documents, work)

    return delete_file


def content_endpoint(documents: Documents) -> Endpoint:
    """The text that was read of one."""

    async def read_content(http: HTTPRequest) -> Response:
        allowed(documents, http, "read")
        id_, file_id = id_of(http, STORE), id_of(http, FILE, "file")
        return await answered(documents, lambda store: content_page(store.search.of_file(id_, file_id)))

    return read_content


def add_batch_endpoint(documents: Documents) -> Endpoint:
    """Puts several into it: all, or none."""

    async def create_batch(http: HTTPRequest) -> Response:
        allowed(documents, http, "manage")
        id_ = id_of(http, STORE)
        entries = _entries(documents, await asked(http, FileBatchRequest))
        classes = declared(documents, http)
        added = await answered(documents, lambda store: batch_object(store.members.add_batch(id_, entries, classes)))
        documents.library.wake()
        return added

    return create_batch


def read_batch_endpoint(documents: Documents) -> Endpoint:
    """How far a batch is."""

    async def read_batch(http: HTTPRequest) -> Response:
        allowed(documents, http, "read")
        id_, batch_id = id_of(http, STORE), id_of(http, BATCH, "batch")
        return _polled(await answered(documents, lambda store: batch_object(store.members.batch(id_, batch_id))))

    return read_batch


def cancel_batch_endpoint(documents: Documents) -> Endpoint:
    """Ends what is left of one; what is completed stays."""

    async def cancel_batch(http: HTTPRequest) -> Response:
        allowed(documents, http, "manage")
        id_, batch_id = id_of(http, STORE), id_of(http, BATCH, "batch")
        return await answered(documents, lambda store: batch_object(store.members.cancel_batch(id_, batch_id)))

    return cancel_batch


def list_batch_endpoint(documents: Documents) -> Endpoint:
    """A batch's files, page by page."""

    async def list_batch_files(http: HTTPRequest) -> Response:
        allowed(documents, http, "read")
        id_, batch_id = id_of(http, STORE), id_of(http, BATCH, "batch")
        return await _listed(documents, http, id_, batch_id)

    return list_batch_files


def _polled(response: Response) -> Response:
    """Says when to ask again: left to themselves, SDKs wait for one second (Python) or five (Node)."""
    response.headers["openai-poll-after-ms"] = POLL_MS
    return response


def kept_strategy(documents: Documents, wire: AutoStrategy | StaticStrategy | None) -> dict[str, Any]:
    """As it is kept with each file."""
    from rag.ingest import chunking

    if not isinstance(wire, StaticStrategy):
        return chunking(documents.strategy)
    sizes, own = wire.static, wire.outstation
    by_structure = bool(own and own.by_structure)
    return chunking(Strategy(sizes.max_chunk_size_tokens, sizes.chunk_overlap_tokens, by_structure=by_structure))


def _entry(documents: Documents, wire: StoreFileRequest, place: str) -> Entry:
    found = {} if wire.attributes is None else attributes(wire.attributes, f"{place}attributes")
    return Entry(wire.file_id, found, kept_strategy(documents, wire.chunking_strategy))


def _entries(documents: Documents, wire: FileBatchRequest) -> list[Entry]:
    """Each file once: where one is named twice, what is said last holds."""
    if wire.files is not None:
        entries = [_entry(documents, one, f"files[{n}].") for n, one in enumerate(wire.files)]
    else:
        found = {} if wire.attributes is None else attributes(wire.attributes)
        chunking = kept_strategy(documents, wire.chunking_strategy)
        entries = [Entry(id_, found, chunking) for id_ in wire.file_ids or ()]
    return list({entry.file_id: entry for entry in entries}.values())


async def _listed(documents: Documents, http: HTTPRequest, id_: str, batch_id: str | None) -> Response:
    cut, status = cut_of(http.query_params), choice(http.query_params, "filter", list(_STATUSES))
    wanted = _STATUSES[status] if status else None
    return await listed(
        documents, lambda store: store.members.list(id_, cut, wanted, batch_id), lambda one: _shown(documents, one)
    )


def _shown(documents: Documents, file: StoreFile) -> Object:
    return store_file_object(file, documents.library.progress(file.store_id, file.file_id))
