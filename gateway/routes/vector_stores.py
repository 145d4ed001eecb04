"""`/v1/vector_stores`: made, described, searched, and given other vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from backends.errors import BackendError, InvalidRequest
from gateway.documents.documents import Documents
from gateway.documents.library import LONG_S
from gateway.documents.objects import deleted_object, search_page, store_object
from gateway.routes.documents import Endpoint, allowed, answered, asked, cut_of, declared, id_of, listed
from gateway.routes.vector_store_files import kept_strategy
from gateway.schemas.documents import ReindexRequest, SearchRequest, VectorStoreRequest, VectorStoreUpdate
from rag.filters import parse
from rag.retrieve import Wanted
from rag.store.base import DocumentStore
from rag.store.parts import kept
from rag.store.records import Entry, VectorStore
from rag.types import Embedder

STORE = "vector store"
RESULTS = 10


class Classes(NamedTuple):
    """Of a new vector store: its own, and those of the request that makes it."""

    own: str
    declared: frozenset[str]


def create_endpoint(documents: Documents) -> Endpoint:
    """Makes one, with the files that it is to have."""

    async def create_vector_store(http: HTTPRequest) -> Response:
        allowed(documents, http, "manage")
        wire = await asked(http, VectorStoreRequest)
        own = wire.outstation
        embedder = _embedder(documents, own.embedder if own else None, "outstation.embedder")
        data_class = (own.data_class if own else None) or documents.settings.data_class
        chunking = kept_strategy(documents, wire.chunking_strategy)
        entries = [Entry(id_, chunking=chunking) for id_ in dict.fromkeys(wire.file_ids or ())]
        classes = Classes(data_class, declared(documents, http))
        made = await answered(documents, lambda store: store_object(_made(store, wire, embedder, classes, entries)))
        documents.library.wake()
        return made

    return create_vector_store


def list_endpoint(documents: Documents) -> Endpoint:
    """All of them, page by page."""

    async def list_vector_stores(http: HTTPRequest) -> Response:
        allowed(documents, http, "read")
        cut = cut_of(http.query_params)
        return await listed(documents, lambda store: store.stores.list(cut), store_object)

    return list_vector_stores


def read_endpoint(documents: Documents) -> Endpoint:
    """One of them, and how far it is."""

    async def read_vector_store(http: HTTPRequest) -> Response:
        allowed(documents, http, "read")
        id_ = id_of(http, STORE)
        return await answered(documents, lambda store: store_object(store.stores.get(id_)))

    return read_vector_store


def update_endpoint(documents: Documents) -> Endpoint:
    """Describes one otherwise."""

    async def update_vector_store(http: HTTPRequest) -> Response:
        allowed(documents, http, "manage")
        id_ = id_of(http, STORE)
        changes = _changes(await asked(http, VectorStoreUpdate))
        return await answered(documents, lambda store: store_object(store.stores.modify(id_, changes)))

    return update_vector_store


def delete_endpoint(documents: Documents) -> Endpoint:
    """Removes one and what is in it; the files themselves stay."""

    async def delete_vector_store(http: HTTPRequest) -> Response:
        allowed(documents, http, "manage")
        id_ = id_of(http, STORE)

        def work(store: DocumentStore) -> dict[str, Any]:
            store.stores.delete(id_)
            return deleted_object(id_, "vector_store.deleted")

        return await answered(documents, work, bound_s=LONG_S)

    return delete_vector_store


def search_endpoint(documents: Documents) -> Endpoint:
    """The passages that fit a question best."""

    async def search_vector_store(http: HTTPRequest) -> Response:
        allowed(documents, http, "read")
        id_ = id_of(http, STORE)
        wire = await asked(http, SearchRequest)
        questions = [wire.query] if isinstance(wire.query, str) else wire.query
        ranking = wire.ranking_options
        wanted = Wanted(
            stores=(id_,),
            questions=tuple(kept(one) for one in questions),
            filters=None if wire.filters is None else parse(wire.filters),
            limit=wire.max_num_results or RESULTS,
            rerank=ranking is None or ranking.ranker != "none",
            threshold=(ranking.score_threshold if ranking else None) or 0.0,
        )
        found = await documents.search(wanted)
        return Response(orjson.dumps(search_page(questions, found)), media_type="application/json")

    return search_vector_store


def reindex_endpoint(documents: Documents) -> Endpoint:
    """Begins to give one another embedder's vectors; those that it has serve until all are there."""

    async def reindex_vector_store(http: HTTPRequest) -> Response:
        allowed(documents, http, "manage")
        id_ = id_of(http, STORE)
        embedder = _embedder(documents, (await asked(http, ReindexRequest)).model, "model")

        def work(store: DocumentStore) -> dict[str, Any]:
            if store.stores.pinned(id_).expired:
                raise InvalidRequest(f"The vector store {id_!r} has expired.", code="vector_store_expired")
            return store_object(store.stores.begin_rebuild(id_, embedder))

        begun = await answered(documents, work)
        documents.library.wake()
        return begun

    return reindex_vector_store


def _embedder(documents: Documents, name: str | None, param: str) -> Embedder:
    """Raises what `DocumentModels.embedder` does, at the place where the client named it."""
    try:
        return documents.models.embedder(name or "auto")
    except BackendError as error:
        error.param = param if name else None
        raise


def _made(
    store: DocumentStore, wire: VectorStoreRequest, embedder: Embedder, classes: Classes, entries: Sequence[Entry]
) -> VectorStore:
    for entry in entries:
        store.files.get(entry.file_id)
    days = wire.expires_after.days if wire.expires_after else None
    made = store.stores.create(
        kept(wire.name or ""),
        embedder,
        metadata=wire.metadata,
        description=kept(wire.description or ""),
        data_class=classes.own,
        declared=classes.declared,
        expires_after=days,
    )
    if not entries:
        return made
    try:
        store.members.add_batch(made.id, entries)
    except BackendError:
        store.stores.delete(made.id)  # a file was removed in this moment
        raise
    return store.stores.get(made.id)


def _changes(wire: VectorStoreUpdate) -> dict[str, Any]:
    """Of what was said only; `null` empties."""
    said, changes = wire.model_fields_set, dict[str, Any]()
    for name in ("name", "description"):
        if name in said:
            changes[name] = kept(getattr(wire, name) or "")
    if "metadata" in said:
        changes["metadata"] = wire.metadata or {}
    if "expires_after" in said:
        changes["expires_after"] = wire.expires_after.days if wire.expires_after else None
    if wire.outstation and wire.outstation.data_class:
        changes["data_class"] = wire.outstation.data_class
    return changes
