"""A bounded cursor over an untrusted GGUF file: the values of the format, each checked before it is believed.

It reads through a window of the file with plain reads. Not `mmap`: a file that shrinks while it is mapped kills the
process with SIGBUS, and this runs inside the gateway.
"""

from __future__ import annotations

import struct
from typing import BinaryIO, Final

from backends.errors import BadModelFile

Scalar = str | int | float | bool

STRING, ARRAY = 8, 9
_SCALARS: Final[dict[int, struct.Struct]] = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<B"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
"""GGUF value types of fixed width (GGUF specification, `gguf_metadata_value_type`); 7 is bool."""
INTEGERS: Final = frozenset({0, 1, 2, 3, 4, 5, 10, 11})
_BOOL = 7
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_WINDOW = 1 << 20


class Cursor:
    """Reads values one after another; every failure is a `BadModelFile` that names what was being read and where."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self._window = b""
        self._start = 0  # the window's offset in the file
        self._at = 0  # the cursor's offset in the window

    @property
    def position(self) -> int:
        """Offset in the file, in bytes."""
        return self._start + self._at

    @property
    def left(self) -> int:
        """Bytes between here and the end of the file."""
        return self._size - self.position

    def u32(self, what: str) -> int:
        """An unsigned 32-bit integer."""
        return int(_U32.unpack(self.take(4, what))[0])

    def u64(self, what: str) -> int:
        """An unsigned 64-bit integer."""
        return int(_U64.unpack(self.take(8, what))[0])

    def string(self, what: str, limit: int) -> bytes:
        """A length and that many bytes, at most `limit`."""
        length = self.u64(f"the length of {what}")
        self._must_hold(length, what)
        if length > limit:
            raise BadModelFile(f"{what} is {length:,} bytes long; at most {limit:,} are accepted.")
        return self.take(length, what)

    def scalar(self, kind: int, what: str, limit: int) -> Scalar:
        """A value of GGUF type `kind`, not an array. Text that is not UTF-8 is kept with replacement characters."""
        if kind == STRING:
            return self.string(what, limit).decode("utf-8", errors="replace")
        layout = _SCALARS.get(kind)
        if layout is None:
            raise BadModelFile(f"{what} has the unknown value type {kind}.")
        value: int | float = layout.unpack(self.take(layout.size, what))[0]
        if kind != _BOOL:
            return value
        if value not in (0, 1):
            raise BadModelFile(f"{what} is a boolean of value {value}; only 0 and 1 exist.")
        return bool(value)

    def skip_array(self, kind: int, count: int, what: str) -> None:
        """Pass over `count` elements of GGUF type `kind`, checking that they are there."""
        if kind == STRING:
            self._must_hold(count * 8, what)
            self._skip_strings(count, what)
            return
        layout = _SCALARS.get(kind)
        if layout is None:
            raise BadModelFile(f"{what} is an array of the unsupported value type {kind}.")
        self.skip(count * layout.size, what)

    def take(self, count: int, what: str) -> bytes:
        """The next `count` bytes."""
        self._must_hold(count, what)
        if self._at + count > len(self._window):
            self._refill(count, what)
        data = self._window[self._at : self._at + count]
        self._at += count
        return data

    def skip(self, count: int, what: str) -> None:
        """Pass over `count` bytes without reading them."""
        self._must_hold(count, what)
        self._at += count
        if self._at > len(self._window):
            self._start, self._at, self._window = self.position, 0, b""

    def _skip_strings(self, count: int, what: str) -> None:
        # The hottest loop of the reader (a vocabulary has 50 to 300 thousand of them): locals only.
        length_at = _U64.unpack_from
        while count:
            window, at = self._window, self._at
            last = len(window) - 8
            while count and at <= last:
                at += 8 + length_at(window, at)[0]
                count -= 1
            reached = at - self._at
            if reached:
                self.skip(reached, what)
            if count:
                self._must_hold(8, what)
                self._refill(8, what)

    def _must_hold(self, count: int, what: str) -> None:
        if count > self.left:
            raise BadModelFile(
                f"The file ends inside {what}: it needs {count:,} bytes at offset {self.position:,}, "
                f"but the file has {self._size:,} bytes. It is truncated or lies about a length."
            )

    def _refill(self, count: int, what: str) -> None:
        start = self.position
        self._file.seek(start)
        window = self._file.read(max(count, _WINDOW))
        if len(window) < count:
            raise BadModelFile(f"The file shrank while {what} was read.")
        self._window, self._start, self._at = window, start, 0
