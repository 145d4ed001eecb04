"""Server-sent events from bytes, however they are cut. Pure."""

from __future__ import annotations

MAX_EVENT_BYTES = 4 << 20
BOM = b"\xef\xbb\xbf"


class EventTooLargeError(ValueError):
    """An event that never ends, or one of absurd size."""


class EventReader:
    """Feed it bytes, get the `data` of each event that is complete. Comments and other fields are passed over, and so
    are events without data."""

    __slots__ = ("_begun", "_rest")

    def __init__(self) -> None:
        self._rest = b""
        self._begun = False

    def feed(self, data: bytes) -> list[bytes]:
        """Raises `EventTooLargeError`."""
        buffer = self._rest + data if self._rest else data
        if len(buffer) > MAX_EVENT_BYTES:
            raise EventTooLargeError(f"an event of more than {MAX_EVENT_BYTES} bytes")
        if not self._begun:
            if BOM.startswith(buffer):  # all of it so far, perhaps nothing
                self._rest = buffer
                return []
            buffer, self._begun = buffer.removeprefix(BOM), True
        if b"\r" in buffer:
            if buffer.endswith(b"\r"):  # half of a line's end, perhaps
                self._rest = buffer
                return []
            buffer = buffer.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *events, self._rest = buffer.split(b"\n\n")
        return [found for event in events if (found := _data(event))]

    def end(self) -> bytes:
        """The last event, if the stream ended without its blank line; else nothing."""
        rest, self._rest = self._rest, b""
        return _data(rest.replace(b"\r\n", b"\n").replace(b"\r", b"\n"))


def _data(event: bytes) -> bytes:
    event = event.strip(b"\n")
    if event.startswith(b"data:") and b"\n" not in event:  # nearly all
        return event[5:].removeprefix(b" ")
    lines = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines)
