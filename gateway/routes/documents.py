"""What the routes of files and of vector stores share: who may, which part of a list, the store in a thread."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

import orjson
from pydantic import BaseModel
from starlette.datastructures import QueryParams
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from backends.errors import InvalidRequest
from gateway.documents.documents import Documents
from gateway.documents.library import BOUND_S
from gateway.documents.objects import Object, list_object
from gateway.documents.rights import Deed
from gateway.routes.inference import outcome_of, said_classes
from gateway.schemas.parse import check, parse_json, read_body
from rag.store.base import DocumentStore
from rag.store.errors import NotThere
from rag.store.records import Cut, Page

Endpoint = Callable[[HTTPRequest], Awaitable[Response]]
Schema = TypeVar("Schema", bound=BaseModel)
T = TypeVar("T")
LISTED: Final = 20
MOST_LISTED: Final = 100
ID = re.compile(r"[A-Za-z0-9_-]{1,100}")
_PLACES: Final = ("after", "before")


def allowed(documents: Documents, http: HTTPRequest, deed: Deed) -> None:
    """Raises `RefusedError` where the request's key may not do it."""
    documents.rights.check(outcome_of(http).key, deed)


def declared(documents: Documents, http: HTTPRequest) -> frozenset[str]:
    """Data classes of what the request brings, by its key and its headers. Raises `InvalidRequest`."""
    return said_classes(http.scope) | documents.key_classes.get(outcome_of(http).key, frozenset())


def id_of(http: HTTPRequest, what: str, name: str = "id") -> str:
    """An id in the path. Raises `NotThere` for what none can be."""
    id_: str = http.path_params[name]
    if not ID.fullmatch(id_):
        raise NotThere(what, id_)
    return id_


async def asked(http: HTTPRequest, schema: type[Schema]) -> Schema:
    """The body; none is as good as an empty object."""
    data = await read_body(http)
    return check(schema, parse_json(data) if data else {})


def choice(query: QueryParams, name: str, options: Sequence[str]) -> str | None:
    """A parameter that is one of some words. Raises `InvalidRequest`."""
    value = query.get(name)
    if value is not None and value not in options:
        raise InvalidRequest(f"`{name}` must be one of {', '.join(options)}.", param=name)
    return value


def cut_of(query: QueryParams, limit: int = LISTED, most: int = MOST_LISTED) -> Cut:
    """The part of a list that is asked for: `limit`, `order`, `after`, `before`.

    Raises:
        InvalidRequest: one of these makes no sense.
    """
    given = query.get("limit", str(limit))
    if not (given.isascii() and given.isdigit() and 1 <= int(given[:9]) <= most):
        raise InvalidRequest(f"`limit` must be a whole number from 1 to {most}.", param="limit")
    order = choice(query, "order", ("asc", "desc"))
    for name in _PLACES:
        if (id_ := query.get(name)) and not ID.fullmatch(id_):
            raise _no_place(name, id_)
    return Cut(int(given), "asc" if order == "asc" else "desc", query.get("after") or None, query.get("before") or None)


async def listed(
    documents: Documents, read: Callable[[DocumentStore], Page[T]], shown: Callable[[T], Object]
) -> Response:
    """A page of a list.

    Raises:
        InvalidRequest: `after` or `before` is not in the list.
    """

    def work(store: DocumentStore) -> bytes:
        page = read(store)
        return orjson.dumps(list_object([shown(item) for item in page.items], has_more=page.has_more))

    try:
        return Response(await documents.library.run(work), media_type="application/json")
    except NotThere as error:
        if error.param in _PLACES:
            raise InvalidRequest(f"`{error.param}`: {error.message}", param=error.param) from None
        raise


async def answered(documents: Documents, work: Callable[[DocumentStore], Any], *, bound_s: float = BOUND_S) -> Response:
    """What `work` makes, as JSON; written in its thread too, since it may be long. `bound_s`: see `Library.run`."""
    made = await documents.library.run(lambda store: orjson.dumps(work(store)), bound_s=bound_s)
    return Response(made, media_type="application/json")


def _no_place(name: str, id_: str) -> InvalidRequest:
    return InvalidRequest(f"`{name}`: there is no {id_[:80]!r} in this list.", param=name)
