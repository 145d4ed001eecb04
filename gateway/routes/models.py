"""`GET /v1/models` and `GET /v1/models/{id}`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from gateway.routes.site import json_response
from gateway.state import Site

Endpoint = Callable[[HTTPRequest], Awaitable[Response]]


def list_endpoint(site: Site) -> Endpoint:
    """Every name that a request's `model` may carry."""

    async def list_models(http: HTTPRequest) -> Response:
        data = [model_object(site, name) for name in site.names()]
        ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
        return json_response({"object": "list", "data": data, **ends, "has_more": False})

    return list_models


def get_endpoint(site: Site) -> Endpoint:
    """One of them; the id may contain slashes."""

    async def get_model(http: HTTPRequest) -> Response:
        return json_response(model_object(site, http.path_params["id"]))

    return get_model


def model_object(site: Site, name: str) -> dict[str, Any]:
    """OpenAI's model object, and what clients need to fit their prompts; for `auto` and aliases: of what they prefer.

    Raises:
        ModelNotFound: no such name.
    """
    route = site.resolve(name).routes[0]
    backend = site.backends[route.model]
    return {
        "id": name,
        "object": "model",
        "created": backend.created,
        "owned_by": "outstation",
        "context_length": backend.context_length,
        "max_model_len": backend.context_length,
        "kinds": sorted(backend.kinds),
        "capabilities": sorted(backend.capabilities),
        "route": route.name,
    }
