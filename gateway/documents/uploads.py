"""A file on its way in: a form, read as it comes into a file without a name, so that it is never whole in memory."""

from __future__ import annotations

import asyncio
import errno
import os
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HTTPRequest

from backends.errors import InvalidRequest
from gateway.errors import RefusedError, file_too_large
from gateway.upload import LONGEST_FIELD, MOST_FIELDS, is_form
from rag.store.errors import StoreTrouble

FILE: Final = "file"
LONGEST_NAME: Final = 512
PART_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Upload:
    """A form with one file.

    Attributes:
        fields: its texts.
        size: of the file, in bytes; it is not empty.
    """

    name: str
    size: int
    fields: Mapping[str, str]
    _file: BinaryIO

    def parts(self) -> Iterator[bytes]:
        """What the file contains, from its beginning."""
        self._file.seek(0)
        while part := self._file.read(PART_BYTES):
            yield part


@asynccontextmanager
async def upload(http: HTTPRequest, folder: Path, most_mb: int, *, secret: bool = False) -> AsyncIterator[Upload]:
    """The form that a request brings; gone when the block ends, and when the process does.

    Args:
        folder: where the file lies meanwhile, without a name.
        secret: it must not touch the disk; it is held in memory for it, where that can be.

    Raises:
        InvalidRequest: no form, or not with exactly one file that has a name and is not empty.
        RefusedError: a file over the limit (413).
        StoreTrouble: the disk does not take it.
        ClientDisconnect: the client left before its end.
    """
    if not is_form(http):
        raise InvalidRequest(
            "Send the file as a form (`multipart/form-data`) with the fields `file` and `purpose`.", code="invalid_form"
        )
    try:
        place = await asyncio.to_thread(_nameless, folder, secret)
    except OSError as error:
        raise _trouble(error) from None
    with place:
        form = _Form(most_mb << 20, file_too_large(most_mb))
        try:
            await _read(http, form, place)
        except FormParserError:
            raise _no_form("it is not what `multipart/form-data` is") from None
        except OSError as error:
            raise _trouble(error) from None
        yield _checked(form, place)


async def _read(http: HTTPRequest, form: _Form, place: BinaryIO) -> None:
    parser = MultipartParser(_boundary(http), form.callbacks())  # type: ignore[arg-type]  # wants a TypedDict
    while True:
        message = await http.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        if body := message.get("body", b""):
            parser.write(body)
        more = message.get("more_body", False)
        if len(form.held) >= PART_BYTES or not more:
            await asyncio.to_thread(place.write, form.take())
        if not more:
            return


def _boundary(http: HTTPRequest) -> bytes:
    _, options = parse_options_header(http.headers["content-type"])
    boundary = options.get(b"boundary", b"")
    if not 1 <= len(boundary) <= 256:
        raise _no_form("its `Content-Type` names no boundary")
    return boundary


def _checked(form: _Form, place: BinaryIO) -> Upload:
    if not form.ended:
        raise _no_form("it breaks off")
    if not form.files:
        raise InvalidRequest("The file is missing: send it as `file`, with its name.", param=FILE)
    if not form.size:
        raise InvalidRequest("The file is empty.", param=FILE)
    return Upload(form.name, form.size, form.fields, place)


@dataclass(slots=True)
class _Part:
    """What the form says now. `header`, `value`: of its headers; `text`: of a field that is no file."""

    header: bytes = b""
    value: bytes = b""
    disposition: bytes = b""
    name: str = ""
    text: bytearray | None = None


@dataclass(slots=True)
class _Form:
    """What was read so far. `held`: bytes of the file that are not written yet."""

    most_bytes: int
    too_large: RefusedError
    name: str = ""
    size: int = 0
    files: int = 0
    ended: bool = False
    fields: dict[str, str] = field(default_factory=dict)
    held: bytearray = field(default_factory=bytearray)
    _parts: int = 0
    _part: _Part = field(default_factory=_Part)

    def callbacks(self) -> dict[str, object]:
        """For the parser."""
        return {
            "on_part_begin": self._part_begins,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header_ends,
            "on_headers_finished": self._headers_end,
            "on_part_data": self._data,
            "on_part_end": self._part_ends,
            "on_end": self._end,
        }

    def take(self) -> bytes:
        """What is to be written."""
        held = bytes(self.held)
        self.held.clear()
        return held

    def _part_begins(self) -> None:
        self._parts += 1
        if self._parts > MOST_FIELDS:
            raise _no_form(f"it has more than {MOST_FIELDS} fields")
        self._part = _Part()

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._part.header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._part.value += data[start:end]

    def _header_ends(self) -> None:
        if self._part.header.lower() == b"content-disposition":
            self._part.disposition = self._part.value
        self._part.header = self._part.value = b""

    def _headers_end(self) -> None:
        _, options = parse_options_header(self._part.disposition)
        self._part.name = _text(options.get(b"name", b""))
        if b"filename" not in options:
            self._part.text = bytearray()
            if self._part.name == FILE:
                raise InvalidRequest("`file` has no file name: without it, it is no file.", param=FILE)
            return
        self.files += 1
        if self._part.name != FILE or self.files > 1:
            raise InvalidRequest("Send one file, as `file`: several go one request each.", param=self._part.name[:80])
        self.name = _file_name(_text(options[b"filename"]))

    def _data(self, data: bytes, start: int, end: int) -> None:
        text = self._part.text
        if text is None:
            self.size += end - start
            if self.size > self.most_bytes:
                raise self.too_large
            self.held += memoryview(data)[start:end]
        elif len(text) + end - start > LONGEST_FIELD:
            raise _no_form(f"a field is longer than {LONGEST_FIELD} bytes")
        else:
            text += memoryview(data)[start:end]

    def _part_ends(self) -> None:
        if self._part.text is None:
            return
        if self._part.name in self.fields:
            raise InvalidRequest(f"`{self._part.name[:80]}` is given more than once.", param=self._part.name[:80])
        self.fields[self._part.name] = _text(bytes(self._part.text))

    def _end(self) -> None:
        self.ended = True


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _file_name(name: str) -> str:
    """As it is shown and kept: what a name must not have, a line end or a NUL, is a blank."""
    name = name.replace("%22", '"')  # what browsers and SDKs make of it in a form
    found = "".join(one if one.isprintable() else " " for one in name).strip()
    if not found:
        raise InvalidRequest("The file has no name.", param=FILE)
    if len(found) > LONGEST_NAME:
        raise InvalidRequest(f"The file's name has {len(found)} characters; {LONGEST_NAME} is the most.", param=FILE)
    return found


def _nameless(folder: Path, secret: bool) -> BinaryIO:
    if secret and hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("upload", os.MFD_CLOEXEC), "w+b")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return tempfile.TemporaryFile(dir=folder)


def _trouble(error: OSError) -> StoreTrouble:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    what = "the disk is full; free some space" if full else f"{error.strerror or type(error).__name__}; check the disk"
    return StoreTrouble(f"The file cannot be kept: {what}.")


def _no_form(what: str) -> InvalidRequest:
    return InvalidRequest(f"The body is no form that can be taken: {what}.", code="invalid_form")
