"""`/v1/responses/{id}`: what is kept of a response. Each key sees its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from backends.errors import InvalidRequest
from gateway.responses.archive import Archive
from gateway.responses.background import Background
from gateway.responses.items import Item
from gateway.responses.store import ENDED, Kept
from gateway.routes.inference import outcome_of
from gateway.routes.site import json_response

Endpoint = Callable[[HTTPRequest], Awaitable[Response]]
MOST_LISTED = 100
LISTED = 20


def read_endpoint(archive: Archive) -> Endpoint:
    """The response object, with the headers that its answer has, or would have had."""

    async def read_response(http: HTTPRequest) -> Response:
        if http.query_params.get("stream") == "true":
            message = "A response that is kept is not streamed. Ask for it again until its status says that it ended."
            raise InvalidRequest(message, code="unsupported", param="stream")
        return _whole(await _kept(archive, http))

    return read_response


def delete_endpoint(archive: Archive, background: Background) -> Endpoint:
    """Removes a response from the file; one that runs is ended."""

    async def delete_response(http: HTTPRequest) -> Response:
        id_ = http.path_params["id"]
        await archive.delete(id_, outcome_of(http).key)
        background.forget(id_)
        return json_response({"id": id_, "object": "response", "deleted": True})

    return delete_response


def cancel_endpoint(archive: Archive, background: Background) -> Endpoint:
    """Ends a response in the background. One that has ended stays as it is."""

    async def cancel_response(http: HTTPRequest) -> Response:
        kept = await _kept(archive, http)
        if not kept.body["background"]:
            message = "Only a response in the background can be cancelled; end any other one by closing its connection."
            raise InvalidRequest(message, param="id")
        if kept.status not in ENDED:
            await background.cancel(kept)
            kept = await _kept(archive, http)
        return _whole(kept)

    return cancel_response


def items_endpoint(archive: Archive) -> Endpoint:
    """A response's own input items, page by page."""

    async def list_input_items(http: HTTPRequest) -> Response:
        kept = await _kept(archive, http)
        return json_response(page(kept.input, http.query_params))

    return list_input_items


def page(items: Sequence[Item], query: Any) -> dict[str, Any]:
    """Some of the items: `order` (`desc`, the default, has the last one first), `after` and `before` an id, `limit`.

    Raises:
        InvalidRequest: one of these makes no sense.
    """
    order, limit = query.get("order", "desc"), query.get("limit", str(LISTED))
    if order not in ("asc", "desc"):
        raise InvalidRequest("`order` must be `asc` or `desc`.", param="order")
    if not (limit.isascii() and limit.isdigit() and 1 <= int(limit[:9]) <= MOST_LISTED):
        raise InvalidRequest(f"`limit` must be a whole number from 1 to {MOST_LISTED}.", param="limit")
    listed = list(items) if order == "asc" else list(reversed(items))
    if after := query.get("after"):
        listed = listed[_place(listed, after, "after") + 1 :]
    if before := query.get("before"):
        listed = listed[: _place(listed, before, "before")]
    shown = listed[: int(limit)]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": len(listed) > len(shown),
    }


def _place(items: Sequence[Item], id_: str, param: str) -> int:
    found = next((at for at, item in enumerate(items) if item["id"] == id_), None)
    if found is None:
        raise InvalidRequest(f"`{param}`: there is no item {id_[:80]!r} in this list.", param=param)
    return found


async def _kept(archive: Archive, http: HTTPRequest) -> Kept:
    return await archive.get(http.path_params["id"], outcome_of(http).key)


def _whole(kept: Kept) -> Response:
    response = json_response(kept.body)
    for name, value in kept.answered.items():
        if value:
            response.headers[f"x-outstation-{name}"] = str(value)
    return response
