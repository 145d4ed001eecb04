"""Server-sent events from bytes, however they are cut. Pure."""

from __future__ import annotations

from collections.abc import Iterator

MAX_EVENT_BYTES = 4 << 20


class EventTooLargeError(ValueError):
    """An event that never ends, or one of absurd size."""


class EventReader:
    """Feed it bytes, get the `data` of each event that is complete. Comments and other fields are passed over."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Raises `EventTooLargeError`."""
        buffer = self._rest + data if self._rest else data
        if b"\r" in buffer:
            if buffer.endswith(b"\r"):  # half of a line's end, perhaps
                self._rest = buffer
                return
            buffer = buffer.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *events, self._rest = buffer.split(b"\n\n")
        if len(self._rest) > MAX_EVENT_BYTES:
            raise EventTooLargeError(f"an event of more than {MAX_EVENT_BYTES} bytes")
        for event in events:
            if (found := _data(event)) is not None:
                yield found

    def end(self) -> bytes | None:
        """The last event, if the stream ended without its blank line."""
        rest, self._rest = self._rest, b""
        return _data(rest.replace(b"\r", b"\n")) if rest else None


def _data(event: bytes) -> bytes | None:
    event = event.lstrip(b"\n")
    if event.startswith(b"data:") and b"\n" not in event:  # nearly all
        return event[5:].lstrip(b" ")
    lines = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None
