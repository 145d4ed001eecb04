"""`/v1/conversations`: items that responses go on from and add to. Each key sees its own."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from backends.errors import InvalidRequest
from gateway.responses import asked
from gateway.responses.archive import Archive, no_item
from gateway.responses.conversations import Addition
from gateway.responses.history import resolved
from gateway.responses.items import items_of
from gateway.routes.inference import Inference, controls, outcome_of
from gateway.routes.kept_responses import page
from gateway.routes.site import json_response
from gateway.schemas.conversations import ConversationItems, ConversationRequest, ConversationUpdate
from gateway.schemas.generation import Asked
from gateway.schemas.parse import check, parse_json, read_body

Endpoint = Callable[[HTTPRequest], Awaitable[Response]]


def create_endpoint(inference: Inference) -> Endpoint:
    """Begins a conversation."""

    async def create_conversation(http: HTTPRequest) -> Response:
        if not inference.stores_responses:
            message = "Nothing is kept here (`responses.store`), and a conversation has to be."
            raise InvalidRequest(message, code="unsupported")
        raw = await _body(http)
        asked.refuse_items(raw, "items")
        wire = check(ConversationRequest, raw)
        addition = await _addition(inference, http, wire, raw)
        made = await inference.archive.begin_conversation(outcome_of(http).key, wire.metadata or {}, addition)
        return json_response(made.object())

    return create_conversation


def read_endpoint(archive: Archive) -> Endpoint:
    """The conversation object."""

    async def read_conversation(http: HTTPRequest) -> Response:
        found = await archive.described(http.path_params["id"], outcome_of(http).key)
        return json_response(found.object())

    return read_conversation


def update_endpoint(archive: Archive) -> Endpoint:
    """Gives it other metadata."""

    async def update_conversation(http: HTTPRequest) -> Response:
        wire, id_, key = check(ConversationUpdate, await _body(http)), http.path_params["id"], outcome_of(http).key
        await archive.describe(id_, key, wire.metadata)
        found = await archive.described(id_, key)
        return json_response(found.object())

    return update_conversation


def delete_endpoint(archive: Archive) -> Endpoint:
    """Removes it and its items from the file. Responses that were made in it stay."""

    async def delete_conversation(http: HTTPRequest) -> Response:
        id_ = http.path_params["id"]
        await archive.delete_conversation(id_, outcome_of(http).key)
        return json_response({"id": id_, "object": "conversation.deleted", "deleted": True})

    return delete_conversation


def add_items_endpoint(inference: Inference) -> Endpoint:
    """Adds items at its end."""

    async def create_items(http: HTTPRequest) -> Response:
        raw = await _body(http)
        asked.refuse_items(raw, "items")
        addition = await _addition(inference, http, check(ConversationItems, raw), raw)
        kept = await inference.archive.extend_by_hand(http.path_params["id"], outcome_of(http).key, addition)
        return json_response(page(kept, {"order": "asc"}))

    return create_items


def list_items_endpoint(archive: Archive) -> Endpoint:
    """Its items, page by page."""

    async def list_items(http: HTTPRequest) -> Response:
        _, items = await archive.conversation(http.path_params["id"], outcome_of(http).key)
        return json_response(page(items, http.query_params))

    return list_items


def read_item_endpoint(archive: Archive) -> Endpoint:
    """One of its items."""

    async def read_item(http: HTTPRequest) -> Response:
        id_, item_id = http.path_params["id"], http.path_params["item"]
        _, items = await archive.conversation(id_, outcome_of(http).key)
        found = next((item for item in items if item["id"] == item_id), None)
        if found is None:
            raise no_item(id_, item_id)
        return json_response(found)

    return read_item


def delete_item_endpoint(archive: Archive) -> Endpoint:
    """Removes one of its items from the file."""

    async def delete_item(http: HTTPRequest) -> Response:
        id_, item_id = http.path_params["id"], http.path_params["item"]
        return json_response((await archive.delete_item(id_, outcome_of(http).key, item_id)).object())

    return delete_item


async def _body(http: HTTPRequest) -> dict[str, Any]:
    """A conversation may be begun without a word."""
    data = await read_body(http)
    return parse_json(data) if data else {}


async def _addition(inference: Inference, http: HTTPRequest, wire: Asked, raw: Mapping[str, Any]) -> Addition:
    key = outcome_of(http).key
    found = await resolved(items_of(raw.get("items")), inference.archive, key, "items")
    said = controls(wire, http, inference.key_classes)
    local_only = said["locality"] == "only_local" or found.local_only
    return Addition(found.items, time.time(), said["declared"] | found.declared, local_only)
