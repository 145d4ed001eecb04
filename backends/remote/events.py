"""Server-sent events from bytes, however they are cut. Pure."""

from __future__ import annotations

MAX_EVENT_BYTES = 4 << 20
BOM = b"\xef\xbb\xbf"


class EventTooLargeError(ValueError):
    """An event that never ends, or one of absurd size."""


class EventReader:
    """Feed it bytes, get the `data` of each event that is complete. Comments and other fields are passed over, and so
    are events without data."""

    __slots__ = ("_begun", "_parts", "_size")

    def __init__(self) -> None:
        self._parts: list[bytes] = []  # of what is not complete; joined only when it may have become so
        self._size = 0
        self._begun = False

    def feed(self, data: bytes) -> list[bytes]:
        """Raises `EventTooLargeError`."""
        whole = data[:6] == b"data: " and data[-1:] == b"\n" and data.find(b"\n") == len(data) - 2
        if whole and self._begun and not self._parts and b"\r" not in data:  # nearly always: one event
            return [data[6:-2]] if len(data) > 8 else []
        if self._parts:
            self._size += len(data)
            if self._size > MAX_EVENT_BYTES:
                raise EventTooLargeError(f"an event of more than {MAX_EVENT_BYTES} bytes")
            self._parts.append(data)
            if b"\n" not in data and b"\r" not in data and self._begun:
                return []
            data = b"".join(self._parts)
        if not self._begun:
            if BOM.startswith(data):  # all of it so far, perhaps nothing
                self._keep(data)
                return []
            data, self._begun = data.removeprefix(BOM), True
        if b"\r" in data:
            if data.endswith(b"\r"):  # half of a line's end, perhaps
                self._keep(data)
                return []
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *events, rest = data.split(b"\n\n")
        self._keep(rest)
        return [found for event in events if (found := _data(event))]

    def end(self) -> bytes:
        """The last event, if the stream ended without its blank line; else nothing."""
        rest = b"".join(self._parts)
        self._keep(b"")
        return _data(rest.replace(b"\r\n", b"\n").replace(b"\r", b"\n"))

    def _keep(self, rest: bytes) -> None:
        self._parts = [rest] if rest else []
        self._size = len(rest)


def _data(event: bytes) -> bytes:
    if event.startswith(b"data:") and b"\n" not in event:  # nearly all
        return event[5:].removeprefix(b" ")
    lines = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines)
