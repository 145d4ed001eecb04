"""The OpenAPI document, and a page that shows it without anything from the internet."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from importlib import resources
from typing import Any, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from starlette.requests import Request as HTTPRequest
from starlette.responses import HTMLResponse, Response

from gateway.routes.site import json_response

_IN: Literal["validation", "serialization"] = "validation"
_OUT: Literal["validation", "serialization"] = "serialization"
REF = "#/components/schemas/{model}"
Endpoint = Callable[[HTTPRequest], Awaitable[Response]]


async def docs_page(http: HTTPRequest) -> Response:
    """Renders `/openapi.json`; needs no other file."""
    page = resources.files("gateway").joinpath("assets/docs.html").read_text(encoding="utf-8")
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
    return HTMLResponse(page, headers={"content-security-policy": policy})


def openapi_endpoint(api: FastAPI) -> Endpoint:
    """The document, made on the first request for it."""
    made: dict[str, Any] = {}

    async def openapi(http: HTTPRequest) -> Response:
        if not made:
            made.update(document(api))
        return json_response(made)

    return openapi


def document(api: FastAPI) -> dict[str, Any]:
    """FastAPI's document with the schemas that the endpoints refer to."""
    from pydantic.json_schema import models_json_schema

    from gateway.schemas import (
        document_objects,
        documents,
        message_objects,
        response_objects,
        responses,
        task_responses,
    )
    from gateway.schemas.chat import ChatRequest
    from gateway.schemas.classify import ClassifyRequest
    from gateway.schemas.completions import CompletionRequest
    from gateway.schemas.conversations import ConversationItems, ConversationRequest, ConversationUpdate
    from gateway.schemas.embeddings import EmbeddingsRequest
    from gateway.schemas.messages import CountRequest, MessagesRequest
    from gateway.schemas.moderations import ModerationRequest
    from gateway.schemas.rerank import RerankRequest
    from gateway.schemas.responses_api import ResponsesRequest

    incoming: list[type[BaseModel]] = [
        ChatRequest,
        ClassifyRequest,
        CompletionRequest,
        ConversationItems,
        ConversationRequest,
        ConversationUpdate,
        CountRequest,
        EmbeddingsRequest,
        MessagesRequest,
        ModerationRequest,
        RerankRequest,
        ResponsesRequest,
        documents.FileForm,
        documents.VectorStoreRequest,
        documents.VectorStoreUpdate,
        documents.StoreFileRequest,
        documents.StoreFileUpdate,
        documents.FileBatchRequest,
        documents.SearchRequest,
        documents.ReindexRequest,
    ]
    outgoing: list[type[BaseModel]] = [
        responses.ChatCompletion,
        responses.ChatCompletionChunk,
        responses.Completion,
        task_responses.EmbeddingList,
        task_responses.Reranked,
        task_responses.Moderation,
        task_responses.Classification,
        message_objects.MessageObject,
        message_objects.MessageEvent,
        message_objects.TokenCount,
        message_objects.MessagesError,
        response_objects.ResponseObject,
        response_objects.ResponseEvent,
        response_objects.DeletedResponse,
        response_objects.ResponseItemList,
        response_objects.ConversationObject,
        response_objects.ConversationItem,
        response_objects.DeletedConversation,
        document_objects.FileObject,
        document_objects.FileList,
        document_objects.DeletedFile,
        document_objects.VectorStoreObject,
        document_objects.VectorStoreList,
        document_objects.DeletedVectorStore,
        document_objects.VectorStoreFileObject,
        document_objects.VectorStoreFileList,
        document_objects.DeletedVectorStoreFile,
        document_objects.VectorStoreFileContent,
        document_objects.FileBatchObject,
        document_objects.SearchResults,
        responses.ModelList,
        responses.ModelObject,
        responses.ErrorBody,
        responses.Health,
        responses.SiteStatus,
        responses.PlanObject,
    ]
    _, schemas = models_json_schema(
        [(one, _IN) for one in incoming] + [(one, _OUT) for one in outgoing],
        ref_template=REF,
    )
    made = get_openapi(title=api.title, version=api.version, description=api.description, routes=api.routes)
    components = made.setdefault("components", {})
    components["schemas"] = schemas["$defs"]
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    made["security"] = [{"key": []}, {}]
    return made


def described(
    answer: str | None,
    *,
    takes: str | None = None,
    streams: str | None = None,
    path_parameters: Sequence[str] = (),
    files: Sequence[str] = (),
    uploads: str | None = None,
    media: str = "text/plain",
    fails: str = "ErrorBody",
) -> dict[str, Any]:
    """An operation's schemas, by the names of the classes in `gateway.schemas`; `answer` None: plain text, or `media`.

    Args:
        files: fields of a form that it takes as well.
        uploads: what stands beside the `file` in a form that it takes instead.
        fails: the shape of its errors.
    """
    plain = {"type": "string"} if media == "text/plain" else {"type": "string", "format": "binary"}
    content: dict[str, Any] = {media: {"schema": plain}}
    if answer:
        content = {"application/json": {"schema": _ref(answer)}}
    if streams:
        content["text/event-stream"] = {"schema": _ref(streams)}
    failure = {"description": "Any failure", "content": {"application/json": {"schema": _ref(fails)}}}
    extra: dict[str, Any] = {"responses": {"200": {"description": "Success", "content": content}, "default": failure}}
    if path_parameters:
        extra["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in path_parameters
        ]
    if uploads:
        file = {"type": "object", "properties": {"file": {"type": "string", "format": "binary"}}, "required": ["file"]}
        form = {"multipart/form-data": {"schema": {"allOf": [file, _ref(uploads)]}}}
        extra["requestBody"] = {"required": True, "content": form}
    if takes:
        bodies: dict[str, Any] = {"application/json": {"schema": _ref(takes)}}
        if files:
            fields = {"model": {"type": "string"}, **{name: {"type": "string", "format": "binary"} for name in files}}
            bodies["multipart/form-data"] = {"schema": {"type": "object", "properties": fields}}
        extra["requestBody"] = {"required": True, "content": bodies}
    return extra


def _ref(name: str) -> dict[str, str]:
    return {"$ref": REF.format(model=name)}
