"""`/v1/files`: what is uploaded, and what it contains."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from starlette.requests import Request as HTTPRequest
from starlette.responses import Response, StreamingResponse

from backends.errors import InvalidRequest
from gateway.documents.documents import Documents
from gateway.documents.library import LONG_S
from gateway.documents.objects import deleted_object, file_object
from gateway.documents.uploads import upload
from gateway.routes.documents import Endpoint, allowed, answered, cut_of, declared, id_of, listed
from gateway.routes.site import json_response
from gateway.schemas.documents import FileForm
from gateway.schemas.parse import check
from gateway.upload import json_or_text
from rag.store.files import MOST_LISTED

PURPOSE = re.compile(r"[a-z_-]{1,64}")
_EXPIRY = re.compile(r"expires_after\[(anchor|seconds)\]")
# Whatever a file contains, a browser that is led here neither renders nor runs it.
_SAFE = {
    "content-security-policy": "default-src 'none'; sandbox",
    "x-content-type-options": "nosniff",
    "cache-control": "private, no-store",
}


def create_endpoint(documents: Documents) -> Endpoint:
    """Keeps a file."""

    async def create_file(http: HTTPRequest) -> Response:
        allowed(documents, http, "manage")
        classes = declared(documents, http)
        folder, secret = documents.library.uploads
        async with upload(http, folder, documents.settings.max_file_mb, secret=secret) as given:
            form = check(FileForm, _fields(given.fields))
            seconds = form.expires_after.seconds if form.expires_after else None
            kept = await documents.library.add(
                lambda store: store.files.add(given.name, form.purpose, given.parts(), seconds, classes)
            )
        return json_response(file_object(kept))

    return create_file


def list_endpoint(documents: Documents) -> Endpoint:
    """The files, page by page."""

    async def list_files(http: HTTPRequest) -> Response:
        allowed(documents, http, "read")
        purpose = http.query_params.get("purpose")
        if purpose is not None and not PURPOSE.fullmatch(purpose):
            raise InvalidRequest("`purpose` is none that a file can have.", param="purpose")
        cut = cut_of(http.query_params, MOST_LISTED, MOST_LISTED)
        return await listed(documents, lambda store: store.files.list(cut, purpose), file_object)

    return list_files


def read_endpoint(documents: Documents) -> Endpoint:
    """A file's object."""

    async def read_file(http: HTTPRequest) -> Response:
        allowed(documents, http, "read")
        id_ = id_of(http, "file")
        return await answered(documents, lambda store: file_object(store.files.get(id_)))

    return read_file


def content_endpoint(documents: Documents) -> Endpoint:
    """What a file contains, as it came."""

    async def read_content(http: HTTPRequest) -> Response:
        allowed(documents, http, "read")
        id_ = id_of(http, "file")
        file, parts = await documents.library.run(lambda store: (store.files.get(id_), store.files.content(id_)))
        # One that is not there must be told before the headers are out.
        first = await documents.library.run(lambda _: next(parts, b""))
        headers = {**_SAFE, "content-length": str(file.size), "content-disposition": _disposition(file.name)}
        return StreamingResponse(
            _streamed(documents, first, parts), headers=headers, media_type="application/octet-stream"
        )

    return read_content


def delete_endpoint(documents: Documents) -> Endpoint:
    """Removes a file, from every vector store as well."""

    async def delete_file(http: HTTPRequest) -> Response:
        allowed(documents, http, "manage")
        id_ = id_of(http, "file")
        await documents.library.run(lambda store: store.files.delete(id_), bound_s=LONG_S)
        return json_response(deleted_object(id_, "file"))

    return delete_file


async def _streamed(documents: Documents, first: bytes, parts: Iterator[bytes]) -> AsyncIterator[bytes]:
    part = first
    while part:
        yield part
        part = await documents.library.run(lambda _: next(parts, b""))


def _disposition(name: str) -> str:
    """To be saved under its name, not shown."""
    plain = re.sub(r"[^ !#-\[\]-~]", "_", name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def _fields(given: Mapping[str, str]) -> dict[str, Any]:
    """`expires_after[anchor]` and `expires_after[seconds]`, as SDKs send them, are one object."""
    fields: dict[str, Any] = {name: value for name, value in given.items() if name in FileForm.model_fields}
    if "expires_after" in fields:
        fields["expires_after"] = json_or_text(fields["expires_after"])
    expiry = {found[1]: value for name, value in given.items() if (found := _EXPIRY.fullmatch(name))}
    if expiry:
        if "seconds" in expiry:
            expiry["seconds"] = json_or_text(expiry["seconds"])
        fields["expires_after"] = expiry
    return fields
