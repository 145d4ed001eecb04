"""The composition root: every model, policy, layer and route, in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.types import ASGIApp

from backends.base import Backend
from gateway.attempt import Works
from gateway.children import Children
from gateway.classify.escalation import check_escalations
from gateway.config import Config
from gateway.dispatch import Dispatcher
from gateway.documents.documents import Documents
from gateway.documents.models import DocumentModels
from gateway.documents.rights import Rights
from gateway.egress import Egress
from gateway.manifests import manifests
from gateway.metrics import Metrics
from gateway.middleware import BodyLimit, HostGuard, KeyGuard
from gateway.models import build_backends, check_names, default_model, find_pulled, generating, model_aliases
from gateway.names import names_of
from gateway.plain_routes import PlainRoute, plain_paths, routed
from gateway.planning import Planner
from gateway.policies import (
    check_rules,
    detector_of,
    key_classes,
    policies_of,
    policy_hash,
    rules_look,
    signals_read,
)
from gateway.providers import build_remote, provider_aliases
from gateway.recorder import Recorder
from gateway.reload import Gateway, Generation
from gateway.routes import conversations, files, vector_store_files, vector_stores
from gateway.routes.chat import chat_endpoint
from gateway.routes.classify import FILES, classify_endpoint
from gateway.routes.completions import completions_endpoint
from gateway.routes.docs import described, docs_page, openapi_endpoint
from gateway.routes.embeddings import embeddings_endpoint
from gateway.routes.explain import explain_endpoint
from gateway.routes.inference import Inference
from gateway.routes.kept_responses import cancel_endpoint, delete_endpoint, items_endpoint, read_endpoint
from gateway.routes.messages import count_endpoint, messages_endpoint
from gateway.routes.models import get_endpoint, list_endpoint
from gateway.routes.moderations import moderations_endpoint
from gateway.routes.rerank import rerank_endpoint
from gateway.routes.responses import create_endpoint
from gateway.routes.site import healthz, metrics_endpoint, readyz_endpoint, status_endpoint
from gateway.shared import Shared, build_shared
from gateway.signals import signals_of
from gateway.small_models import Run, runner, tell_missing
from gateway.state import Site
from policies.base import Route


def build_app(
    config: Config,
    backends: Sequence[Backend] | None = None,
    load: Callable[[], Config] | None = None,
    remote: Sequence[tuple[Route, Backend]] | None = None,
    run: Run | None = None,
) -> Gateway:
    """The gateway as an ASGI application.

    Args:
        backends, remote, run: in place of the configured models and providers, and of the small models that requests
            are judged by; for tests.
        load: reads the configuration anew when its file has changed.

    Raises:
        ConfigError: a model, default or alias that is configured and not there, a rule that does not compile.
    """

    return Gateway(
        config,
        partial(build_shared, config),
        partial(build_generation, backends=backends, remote=remote, run=run),
        load,
    )


def build_generation(
    config: Config,
    shared: Shared,
    backends: Sequence[Backend] | None = None,
    remote: Sequence[tuple[Route, Backend]] | None = None,
    run: Run | None = None,
) -> Generation:
    """One configuration, put together."""
    local = build_backends(config, shared.pool) if backends is None else backends
    remote = build_remote(config, shared.pool, shared.boundary) if remote is None else remote
    served = {backend.name: backend.kinds for backend in local}
    check_names(config, served, {route.name: route.kinds for route, _ in remote})
    site = Site(
        [*local, *(backend for _, backend in remote)],
        {**model_aliases(config), **provider_aliases(config)},
        default_model(config, generating(served)),
        partial(find_pulled, config, shared.pool),
        {backend.name: route for route, backend in remote},
        switched_off=config.routing.offline,
        defaults=config.small_models.defaults,
    )
    check_rules(config, site)
    policy = policy_hash(config)
    looks = rules_look(config)
    if run is None:
        tell_missing(config, site.backends)
        run = runner(site.backends)
    signals = signals_of(config.signals, signals_read(config), run)
    egress = Egress(
        shared.boundary,
        detector_of(config) if remote or looks else None,
        names_of(config.privacy, run),
    )
    planner = Planner(site, policies_of(config), shared.books, egress, always_looks=looks, signals=signals)
    works = Works(site.backends, egress, shared.books, shared.metrics)
    dispatcher = Dispatcher(planner, works, config.limits.total_timeout_s, config.routing.on_invalid)
    check_escalations(config, site)
    children = Children(shared, policy)
    inference = Inference(
        dispatcher,
        config.limits,
        key_classes(config),
        children,
        shared.archive,
        shared.background,
        Documents(
            shared.library,
            DocumentModels(site, run, config.documents.reranker),
            config.documents,
            Rights({key.name: key.documents for key in config.keys}),
            key_classes(config),
        ),
        config.escalations,
        config.responses.store,
    )
    api = build_api(site, shared.metrics, inference)

    app: ASGIApp = partial(routed, api, plain_paths(api))
    app = BodyLimit(app, config.server, config.documents.max_file_mb)
    app = KeyGuard(app, config.access)
    app = HostGuard(app, config.server)
    endpoints = frozenset(route.path for route in api.routes if isinstance(route, APIRoute))
    return Generation(config, site, inference, Recorder(app, shared, endpoints, policy), policy)


def build_api(site: Site, metrics: Metrics, inference: Inference) -> FastAPI:
    """The routes."""

    api = FastAPI(title="Outstation", version=own_version(), docs_url=None, redoc_url=None, openapi_url=None)
    api.router.route_class = PlainRoute
    api.router.redirect_slashes = False

    def add(method: str, path: str, endpoint: Callable[..., Any], summary: str, schemas: dict[str, Any]) -> None:
        api.add_api_route(path, endpoint, methods=[method], summary=summary, response_model=None, openapi_extra=schemas)

    chat = described("ChatCompletion", takes="ChatRequest", streams="ChatCompletionChunk")
    model = described("ModelObject", path_parameters=["id"])
    explained = described("PlanObject", takes="ChatRequest")
    completion = described("Completion", takes="CompletionRequest", streams="Completion")
    add("POST", "/v1/chat/completions", chat_endpoint(inference), "Answer a chat", chat)
    add("POST", "/v1/completions", completions_endpoint(inference), "Complete a raw prompt", completion)
    response = described("ResponseObject", takes="ResponsesRequest", streams="ResponseEvent")
    add("POST", "/v1/responses", create_endpoint(inference, site.backends), "Make a response", response)
    kept = described("ResponseObject", path_parameters=["id"])
    deleted, items = (described(name, path_parameters=["id"]) for name in ("DeletedResponse", "ResponseItemList"))
    archive, background = inference.archive, inference.background
    add("GET", "/v1/responses/{id}", read_endpoint(archive), "Read a response that was kept", kept)
    add("DELETE", "/v1/responses/{id}", delete_endpoint(archive, background), "Forget a response", deleted)
    add("GET", "/v1/responses/{id}/input_items", items_endpoint(archive), "List what a response was made from", items)
    add("POST", "/v1/responses/{id}/cancel", cancel_endpoint(archive, background), "End a response", kept)
    _add_conversations(add, inference)
    _add_files(add, inference.documents)
    _add_vector_stores(add, inference.documents)
    _add_vector_store_files(add, inference.documents)
    embedding = described("EmbeddingList", takes="EmbeddingsRequest")
    add("POST", "/v1/embeddings", embeddings_endpoint(inference), "Make embeddings", embedding)
    reranked = described("Reranked", takes="RerankRequest")
    add("POST", "/v1/rerank", rerank_endpoint(inference), "Order documents by a query", reranked)
    moderation = described("Moderation", takes="ModerationRequest")
    manifest_of = manifests(site.backends)
    moderate = moderations_endpoint(inference, manifest_of)
    add("POST", "/v1/moderations", moderate, "Judge texts by OpenAI's categories", moderation)
    classification = described("Classification", takes="ClassifyRequest", files=FILES)
    add("POST", "/v1/classify", classify_endpoint(inference, site, manifest_of), "Classify", classification)
    message = described("MessageObject", takes="MessagesRequest", streams="MessageEvent", fails="MessagesError")
    add("POST", "/v1/messages", messages_endpoint(inference), "Answer a conversation, as Anthropic has it", message)
    counted = described("TokenCount", takes="CountRequest", fails="MessagesError")
    add("POST", "/v1/messages/count_tokens", count_endpoint(inference, site), "Count a prompt's tokens", counted)
    add("POST", "/v1/outstation/explain", explain_endpoint(inference), "Say what would happen to a request", explained)
    add("GET", "/v1/models", list_endpoint(site), "List the models", described("ModelList"))
    add("GET", "/v1/models/{id:path}", get_endpoint(site), "Describe a model", model)
    add("GET", "/healthz", healthz, "Is the gateway alive?", described("Health"))
    add("GET", "/readyz", readyz_endpoint(site), "Can `auto` be answered?", described("Health"))
    add("GET", "/metrics", metrics_endpoint(metrics), "Figures for Prometheus", described(None))
    add("GET", "/outstation/status", status_endpoint(site, own_version()), "What runs", described("SiteStatus"))
    api.add_api_route("/docs", docs_page, include_in_schema=False, response_model=None)
    api.add_api_route("/openapi.json", openapi_endpoint(api), include_in_schema=False, response_model=None)
    return api


def _add_conversations(add: Callable[..., None], inference: Inference) -> None:
    archive, path = inference.archive, "/v1/conversations"
    one, items, item = f"{path}/{{id}}", f"{path}/{{id}}/items", f"{path}/{{id}}/items/{{item}}"

    def schemas(answer: str, takes: str | None = None, *path_parameters: str) -> dict[str, Any]:
        return described(answer, takes=takes, path_parameters=path_parameters)

    begun = schemas("ConversationObject", "ConversationRequest")
    add("POST", path, conversations.create_endpoint(inference), "Begin a conversation", begun)
    read = schemas("ConversationObject", None, "id")
    add("GET", one, conversations.read_endpoint(archive), "Read a conversation", read)
    changed = schemas("ConversationObject", "ConversationUpdate", "id")
    add("POST", one, conversations.update_endpoint(archive), "Give a conversation other metadata", changed)
    gone = schemas("DeletedConversation", None, "id")
    add("DELETE", one, conversations.delete_endpoint(archive), "Forget a conversation", gone)
    added = schemas("ResponseItemList", "ConversationItems", "id")
    add("POST", items, conversations.add_items_endpoint(inference), "Add items to a conversation", added)
    listed = schemas("ResponseItemList", None, "id")
    add("GET", items, conversations.list_items_endpoint(archive), "List a conversation's items", listed)
    found = schemas("ConversationItem", None, "id", "item")
    add("GET", item, conversations.read_item_endpoint(archive), "Read an item of a conversation", found)
    left = schemas("ConversationObject", None, "id", "item")
    add("DELETE", item, conversations.delete_item_endpoint(archive), "Forget an item of a conversation", left)


def _add_files(add: Callable[..., None], documents: Documents) -> None:
    path = "/v1/files"
    one = f"{path}/{{id}}"
    form = described("FileObject", uploads="FileForm")
    add("POST", path, files.create_endpoint(documents), "Upload a file", form)
    add("GET", path, files.list_endpoint(documents), "List the files", described("FileList"))
    read = described("FileObject", path_parameters=["id"])
    add("GET", one, files.read_endpoint(documents), "Describe a file", read)
    content = described(None, path_parameters=["id"], media="application/octet-stream")
    add("GET", f"{one}/content", files.content_endpoint(documents), "Read what a file contains", content)
    deleted = described("DeletedFile", path_parameters=["id"])
    add("DELETE", one, files.delete_endpoint(documents), "Remove a file", deleted)


def _add_vector_stores(add: Callable[..., None], documents: Documents) -> None:
    path = "/v1/vector_stores"
    one = f"{path}/{{id}}"

    def schemas(answer: str, takes: str | None = None) -> dict[str, Any]:
        return described(answer, takes=takes, path_parameters=["id"])

    made = described("VectorStoreObject", takes="VectorStoreRequest")
    add("POST", path, vector_stores.create_endpoint(documents), "Make a vector store", made)
    add("GET", path, vector_stores.list_endpoint(documents), "List the vector stores", described("VectorStoreList"))
    add("GET", one, vector_stores.read_endpoint(documents), "Describe a vector store", schemas("VectorStoreObject"))
    changed = schemas("VectorStoreObject", "VectorStoreUpdate")
    add("POST", one, vector_stores.update_endpoint(documents), "Describe a vector store otherwise", changed)
    deleted = schemas("DeletedVectorStore")
    add("DELETE", one, vector_stores.delete_endpoint(documents), "Remove a vector store", deleted)
    found = schemas("SearchResults", "SearchRequest")
    add("POST", f"{one}/search", vector_stores.search_endpoint(documents), "Search a vector store", found)
    begun = schemas("VectorStoreObject", "ReindexRequest")
    reindex = vector_stores.reindex_endpoint(documents)
    add("POST", "/v1/outstation/vector_stores/{id}/reindex", reindex, "Give a vector store other vectors", begun)


def _add_vector_store_files(add: Callable[..., None], documents: Documents) -> None:
    path, batches = "/v1/vector_stores/{id}/files", "/v1/vector_stores/{id}/file_batches"
    one, batch = f"{path}/{{file}}", f"{batches}/{{batch}}"
    room = vector_store_files

    def schemas(answer: str, takes: str | None = None, *more: str) -> dict[str, Any]:
        return described(answer, takes=takes, path_parameters=("id", *more))

    added = schemas("VectorStoreFileObject", "StoreFileRequest")
    add("POST", path, room.add_endpoint(documents), "Put a file into a vector store", added)
    add("GET", path, room.list_endpoint(documents), "List a vector store's files", schemas("VectorStoreFileList"))
    read = schemas("VectorStoreFileObject", None, "file")
    add("GET", one, room.read_endpoint(documents), "Describe a file in a vector store", read)
    changed = schemas("VectorStoreFileObject", "StoreFileUpdate", "file")
    add("POST", one, room.update_endpoint(documents), "Give a file in a vector store other attributes", changed)
    removed = schemas("DeletedVectorStoreFile", None, "file")
    add("DELETE", one, room.remove_endpoint(documents), "Take a file out of a vector store", removed)
    content = schemas("VectorStoreFileContent", None, "file")
    add("GET", f"{one}/content", room.content_endpoint(documents), "Read the text of a file in a vector store", content)
    together = schemas("FileBatchObject", "FileBatchRequest")
    add("POST", batches, room.add_batch_endpoint(documents), "Put files into a vector store together", together)
    known = schemas("FileBatchObject", None, "batch")
    add("GET", batch, room.read_batch_endpoint(documents), "Describe a batch of files", known)
    add("POST", f"{batch}/cancel", room.cancel_batch_endpoint(documents), "End a batch of files", known)
    listed = schemas("VectorStoreFileList", None, "batch")
    add("GET", f"{batch}/files", room.list_batch_endpoint(documents), "List the files of a batch", listed)


def own_version() -> str:
    """Of the installed distribution; `0+source` in a bare source tree."""
    try:
        return version("outstation")
    except PackageNotFoundError:
        return "0+source"
