"""Any cut of any stream gives the same events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.remote.events import BOM, MAX_EVENT_BYTES, EventReader, EventTooLargeError

ENDS = st.sampled_from([b"\n", b"\r\n"])
LINE = st.text("ab :\t🙂ü", max_size=6).map(str.encode)


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    """(bytes, the data of their events)."""
    end = draw(ENDS)
    parts, expected = [draw(st.sampled_from([b"", BOM, end, end * 2]))], []
    for _ in range(draw(st.integers(0, 5))):
        lines, data = [], []
        for kind in draw(st.lists(st.sampled_from(["data", "bare", "comment", "field"]), min_size=1, max_size=4)):
            text = draw(LINE)
            if kind == "data":
                lines.append(b"data: " + text)
                data.append(text)
            elif kind == "bare":
                lines.append(b"data:x" + text)
                data.append(b"x" + text)
            else:
                lines.append((b": " if kind == "comment" else b"event: ") + text)
        parts.append(b"".join(line + end for line in lines) + end * draw(st.integers(1, 2)))
        expected.append(b"\n".join(data))
    return b"".join(parts), [data for data in expected if data]


@given(streams(), st.data())
def test_any_cut_gives_the_same_events(made: tuple[bytes, list[bytes]], data: st.DataObject) -> None:
    stream, expected = made
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    reader, found = EventReader(), []
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += reader.feed(stream[start:stop])
    last = reader.end()
    assert found + ([last] if last else []) == expected


@given(streams())
def test_byte_by_byte(made: tuple[bytes, list[bytes]]) -> None:
    stream, expected = made
    reader = EventReader()
    found = [event for at in range(len(stream)) for event in reader.feed(stream[at : at + 1])]
    last = reader.end()
    assert found + ([last] if last else []) == expected


def test_an_event_comes_with_its_blank_line_and_not_later() -> None:
    reader = EventReader()
    assert reader.feed(b"data: a\n") == []
    assert reader.feed(b"\n") == [b"a"]
    assert reader.feed(b"data: b\r\n\r\n") == [b"b"]


def test_the_last_event_may_lack_its_blank_line() -> None:
    reader = EventReader()
    assert reader.feed(b"data: a\n\ndata: [DONE]") == [b"a"]
    assert reader.end() == b"[DONE]"
    assert reader.end() == b""


@pytest.mark.parametrize("piece", [b"data: " + b"x" * 10_000, b"x" * 9_999 + b"\r", b"data: " + b"y" * 9_993 + b"\n"])
def test_an_event_without_end_is_refused(piece: bytes) -> None:
    reader = EventReader()
    for _ in range(MAX_EVENT_BYTES // len(piece)):
        assert reader.feed(piece) == []
    with pytest.raises(EventTooLargeError):
        reader.feed(piece)
