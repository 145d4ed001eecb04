"""Files that come as a form, as browsers and `curl -F` send them: held in memory, which `BodyLimit` bounds."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import orjson
from starlette.requests import Request as HTTPRequest

from backends.errors import InvalidRequest

FORM = "multipart/form-data"
MOST_FIELDS = 32
LONGEST_FIELD = 64 * 1024


def is_form(http: HTTPRequest) -> bool:
    """Whether the body is one."""
    return http.headers.get("content-type", "").partition(";")[0].strip().lower() == FORM


async def read_form(
    http: HTTPRequest, file_fields: Collection[str], most_files: int, texts: Collection[str]
) -> tuple[dict[str, Any], list[bytes]]:
    """The fields and the files.

    A field's value is JSON where it can be read as such, and those in `texts` are texts whatever they look like; a
    field that comes several times is a list.

    Raises:
        InvalidRequest: no form, too many parts, a file under another name.
    """
    from starlette.datastructures import UploadFile
    from starlette.formparsers import MultiPartException, MultiPartParser

    class InMemory(MultiPartParser):
        """Nothing of what users send is put on the disk."""

        spool_max_size = 1 << 62

    parser = InMemory(
        http.headers, http.stream(), max_files=most_files, max_fields=MOST_FIELDS, max_part_size=LONGEST_FIELD
    )
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, UnicodeDecodeError, LookupError) as error:
        said = error.message if isinstance(error, MultiPartException) else "it cannot be read"
        raise InvalidRequest(
            f"The body is no form that can be taken: {said.rstrip('.')}.", code="invalid_form"
        ) from None
    fields: dict[str, Any] = {}
    files: list[bytes] = []
    try:
        for name, value in form.multi_items():
            if not isinstance(value, UploadFile):
                _add(fields, name, value if name in texts else json_or_text(value))
            elif name in file_fields:
                files.append(await value.read())
            else:
                raise InvalidRequest(f"`{name}` is not a file field: send {' or '.join(file_fields)}.", param=name)
    finally:
        await form.close()
    return fields, files


def _add(fields: dict[str, Any], name: str, value: Any) -> None:
    if name not in fields:
        fields[name] = value
    elif isinstance(fields[name], list):
        fields[name].append(value)
    else:
        fields[name] = [fields[name], value]


def json_or_text(value: str) -> Any:
    """A form's field, which says nothing of its type."""
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return value
