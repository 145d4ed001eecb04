"""FastAPI's routes and router, without what nothing here needs of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.requests import Request as HTTPRequest
from starlette.types import ASGIApp, Receive, Scope, Send


class PlainRoute(APIRoute):
    """A documented route whose function takes the raw request and returns a response.

    FastAPI's own handler solves dependencies and opens four exit stacks for each request; nothing here needs them.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        # FastAPI keeps every function that it has looked at: not one that holds a whole configuration.
        def named() -> None: ...

        named.__name__, named.__doc__ = endpoint.__name__, endpoint.__doc__
        super().__init__(path, named, **options)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            response = await endpoint(HTTPRequest(scope, receive, send))
            await response(scope, receive, send)

        self.app = app


def plain_paths(api: FastAPI) -> Mapping[tuple[str, str], ASGIApp]:
    """Method and path of the routes that need no matching."""
    return {
        (method, route.path): route.app
        for route in api.routes
        if isinstance(route, APIRoute) and "{" not in route.path
        for method in route.methods or ()
    }


async def routed(
    api: FastAPI, plain: Mapping[tuple[str, str], ASGIApp], scope: Scope, receive: Receive, send: Send
) -> None:
    """FastAPI's router without its middleware stack: the `Recorder` handles every error, once."""
    scope["app"] = api
    if scope["type"] == "http" and (app := plain.get((scope["method"], scope["path"]))):
        await app(scope, receive, send)
        return
    if scope["type"] == "http" and scope["method"] == "HEAD":
        # A copy: the server still sees HEAD and leaves the body out.
        scope = {**scope, "method": "GET"}
    await api.router(scope, receive, send)
