"""A file from an http or https URL, resumed where it broke off.

What was received stays in the part file; a record beside it says which version of which URL it is a part of
(RFC 9110: `Range`, `If-Range`, `Content-Range`).
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urljoin, urlsplit, urlunsplit

from backends.models.progress import Progress, SourceError
from backends.models.store import resume_record

if TYPE_CHECKING:
    import httpx2

_MAX_REDIRECTS: Final = 5
_MAX_FRUITLESS: Final = 4  # attempts in a row that brought no byte
_MAX_ATTEMPTS: Final = 100
_STEP: Final = 1 << 20  # bytes between two reports
_CONNECT_S, _STALL_S = 10.0, 60.0
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_MEANINGS: Final[Mapping[int, str]] = {
    401: "it wants a login",
    403: "it refuses access",
    404: "the file is not there",
    410: "the file was removed",
    451: "it is blocked for legal reasons",
}


class _Interrupted(Exception):
    """The transfer broke off; another attempt may bring the rest."""


@dataclass(frozen=True, slots=True)
class HttpDownload:
    """One URL and what is known of its file.

    Attributes:
        size: bytes it must have; None: not known.
        hash_known: the whole will be checked against a hash, so a part may be continued even if the server
            gives nothing by which to recognise the version.
        reserve: called with the bytes still to come; raises if they do not fit on the disk.
    """

    url: str
    part: Path
    size: int | None
    hash_known: bool
    reserve: Callable[[int], None]
    sleep: Callable[[float], None] = time.sleep

    def run(self) -> Iterator[Progress]:
        """Fetch into `part`, resuming and retrying. Raises `SourceError`; the part is kept unless it is useless."""
        import httpx2

        fruitless = attempts = 0
        # The proxy and certificate settings of the site are honoured (environment variables).
        timeout = httpx2.Timeout(_STALL_S, connect=_CONNECT_S)
        with httpx2.Client(follow_redirects=False, timeout=timeout) as client:
            while True:
                before = _size(self.part)
                try:
                    yield from self._attempt(client)
                    return
                except (_Interrupted, httpx2.TransportError) as error:
                    fruitless = 0 if _size(self.part) > before else fruitless + 1
                    attempts += 1
                    # A host that was never reached will not be in a moment; the next source may be.
                    unreached = isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout) and attempts == 1
                    if unreached or fruitless >= _MAX_FRUITLESS or attempts >= _MAX_ATTEMPTS:
                        raise SourceError(self._gave_up(error)) from error
                    self.sleep(min(8.0, 0.5 * 2**fruitless))
                except httpx2.InvalidURL as error:
                    raise SourceError(f"The URL is not valid: {error}.") from error

    def _attempt(self, client: httpx2.Client) -> Iterator[Progress]:
        offset, validator = self._resume_point()
        if self.size is not None and offset == self.size:
            return
        headers = {"Accept-Encoding": "identity", "User-Agent": "outstation"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if validator:
                headers["If-Range"] = validator
        response = self._open(client, headers)
        try:
            offset, total = self._accept(response, offset)
            self.reserve((total - offset) if total is not None else 0)
            _write_record(self.part, self.url, _validator(response))
            yield from self._receive(response, offset, total)
        finally:
            response.close()

    def _open(self, client: httpx2.Client, headers: Mapping[str, str]) -> httpx2.Response:
        url = self.url
        for _ in range(_MAX_REDIRECTS + 1):
            if urlsplit(url).scheme not in ("http", "https"):
                raise SourceError(f"{redacted(url)} is neither an http nor an https URL.")
            response = client.send(client.build_request("GET", url, headers=headers), stream=True)
            if not response.has_redirect_location:
                return response
            response.close()
            following = urljoin(url, response.headers["location"])
            if urlsplit(url).scheme == "https" and urlsplit(following).scheme == "http" and not self.hash_known:
                raise SourceError("It redirects from https to http, and no SHA-256 protects the file. Give --sha256.")
            url = following
        raise SourceError(f"It redirects more than {_MAX_REDIRECTS} times.")

    def _accept(self, response: httpx2.Response, offset: int) -> tuple[int, int | None]:
        """(where the body begins in the file, the file's size if told). Truncates a part that does not continue."""
        status = response.status_code
        if status == 416 and offset:
            _discard(self.part)
            raise _Interrupted("the server has no such range")
        if status in (408, 425, 429) or status >= 500:
            raise _Interrupted(f"the server answered {status}")
        if status not in (200, 206):
            raise SourceError(f"The server answered {status}: {_MEANINGS.get(status, 'not a file')}.")
        if response.headers.get("content-encoding", "identity") != "identity":
            raise SourceError("The server compresses the file on its way, which cannot be resumed or measured.")
        if response.headers.get("content-type", "").startswith("text/html"):
            raise SourceError("The answer is a web page, not a file: a login, or the site's captive portal?")
        offset, total = self._extent(response, offset)
        if self.size is not None and total is not None and total != self.size:
            raise SourceError(f"The server offers {total:,} bytes, but the file has {self.size:,}.")
        return offset, self.size if total is None else total

    def _extent(self, response: httpx2.Response, offset: int) -> tuple[int, int | None]:
        length = response.headers.get("content-length", "")
        if response.status_code == 200:  # from the start: it ignored the range, or the file has changed
            _discard(self.part)
            return 0, int(length) if length.isdecimal() else None
        if not offset:
            _discard(self.part)
        match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
        if match is None or int(match[1]) != offset:
            _discard(self.part)
            raise _Interrupted("the server sent another range than was asked for")
        return offset, None if match[3] == "*" else int(match[3])

    def _receive(self, response: httpx2.Response, offset: int, total: int | None) -> Iterator[Progress]:
        done = reported = offset
        yield Progress("downloading", done, total)
        with self.part.open("ab") as file:
            for data in response.iter_raw():
                done += len(data)
                if total is not None and done > total:
                    raise SourceError(f"The server sends more than the {total:,} bytes that the file has.")
                file.write(data)
                if done - reported >= _STEP:
                    reported = done
                    yield Progress("downloading", done, total)
        if total is not None and done < total:
            raise _Interrupted(f"the transfer ended after {done:,} of {total:,} bytes")
        yield Progress("downloading", done, total)

    def _resume_point(self) -> tuple[int, str]:
        """(bytes that can be kept, the validator they belong to). Nothing is given up before an answer is there."""
        url, validator = _read_record(self.part)
        offset = _size(self.part)
        too_long = self.size is not None and offset > self.size
        if url != redacted(self.url) or too_long or not (validator or self.hash_known):
            return 0, ""
        return offset, validator

    def _gave_up(self, error: Exception) -> str:
        kept = _size(self.part)
        reason = str(error) or type(error).__name__
        if not kept:
            return f"No answer from {urlsplit(self.url).hostname}: {reason}."
        return f"It broke off ({reason}). {kept:,} bytes are kept: the same command goes on from there."


def redacted(url: str) -> str:
    """The URL without a user name, password or query, which may be secrets."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def _validator(response: httpx2.Response) -> str:
    """What recognises this version of the file in `If-Range`: a strong ETag, or else its date."""
    etag = str(response.headers.get("etag", ""))
    if etag.startswith('"'):
        return etag
    return str(response.headers.get("last-modified", ""))


def _read_record(part: Path) -> tuple[str, str]:
    try:
        data = json.loads(resume_record(part).read_bytes())
        return str(data["url"]), str(data["validator"])
    except (OSError, ValueError, KeyError, TypeError):
        return "", ""


def _write_record(part: Path, url: str, validator: str) -> None:
    resume_record(part).write_text(json.dumps({"url": redacted(url), "validator": validator}), encoding="utf-8")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _discard(part: Path) -> None:
    with part.open("ab") as file:
        file.truncate(0)
