"""Bodies that a server packed although it was asked not to. Pure."""

from __future__ import annotations

import zlib

OUTPUT_BYTES = 1 << 16  # at a time, however well it was packed
GZIP = zlib.MAX_WBITS | 16


class PackedBadlyError(ValueError):
    """Bytes that are not what the head said."""


class Unpacker:
    """gzip and deflate, piece by piece."""

    __slots__ = ("_first", "_full", "_gzip", "_left", "_zlib")

    def __init__(self, encoding: str) -> None:
        """Raises `PackedBadlyError` for an encoding that is not known."""
        if encoding not in ("gzip", "x-gzip", "deflate"):
            raise PackedBadlyError(f"a content-encoding that nobody asked for: {encoding[:40]!r}")
        self._gzip = encoding != "deflate"
        self._zlib = zlib.decompressobj(GZIP) if self._gzip else None
        self._first = self._left = b""
        self._full = False

    @property
    def pending(self) -> bool:
        """Whether there may be more to be had from `feed(b"")`."""
        return self._full or bool(self._left)

    def feed(self, data: bytes) -> bytes:
        """At most `OUTPUT_BYTES`; call it again, without data, while something is `pending`."""
        data, self._left = self._left + data, b""
        if self._zlib is None:
            data = self._first = self._first + data
            if len(data) < 2:
                return b""
            # `deflate` is zlib's format by the standard, and bare by the habit of some; zlib's head tells.
            wrapped = data[0] & 15 == zlib.DEFLATED and int.from_bytes(data[:2]) % 31 == 0
            self._zlib = zlib.decompressobj(zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS)
        elif self._zlib.eof and data:
            if not self._gzip:
                raise PackedBadlyError("bytes after the end of the packed body")
            self._zlib = zlib.decompressobj(GZIP)  # a file may have several members
        try:
            said = self._zlib.decompress(data, OUTPUT_BYTES)
        except zlib.error as error:
            raise PackedBadlyError(str(error)) from None
        self._full = len(said) == OUTPUT_BYTES
        self._left = self._zlib.unconsumed_tail or self._zlib.unused_data
        return said

    def end(self) -> None:
        """Raises `PackedBadlyError` if the end is missing."""
        if not (self._zlib.eof if self._zlib else not self._first):
            raise PackedBadlyError("the packed body has no end")
