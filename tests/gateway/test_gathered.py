"""Writes of one turn go out together, in their order, and none is lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.gathered import MOST_BYTES, Gathered


class Inner(asyncio.Transport):
    """What went out."""

    def __init__(self) -> None:
        super().__init__({"sockname": ("here", 1)})
        self.sent: list[bytes] = []
        self.closed = False

    def write(self, data: Any) -> None:
        self.sent.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 0


@pytest.mark.anyio
async def test_one_turn_is_one_write() -> None:
    inner = Inner()
    gathered = Gathered(inner, asyncio.get_running_loop())
    gathered.write(b"head")
    gathered.write(memoryview(b"body"))
    assert (inner.sent, gathered.get_write_buffer_size()) == ([], 8)
    await asyncio.sleep(0)
    gathered.write(b"more")
    await asyncio.sleep(0)
    assert inner.sent == [b"headbody", b"more"]


@pytest.mark.anyio
async def test_much_is_not_held_back() -> None:
    inner = Inner()
    gathered = Gathered(inner, asyncio.get_running_loop())
    gathered.write(b"x" * (MOST_BYTES + 1))
    assert len(inner.sent) == 1, "who writes without a pause must meet the flow control"


@pytest.mark.anyio
async def test_closing_sends_what_is_there_and_aborting_does_not() -> None:
    closed, aborted = Inner(), Inner()
    for inner, end in ((closed, Gathered.close), (aborted, Gathered.abort)):
        gathered = Gathered(inner, asyncio.get_running_loop())
        gathered.write(b"last")
        end(gathered)
        await asyncio.sleep(0)
        assert gathered.is_closing()
    assert (closed.sent, aborted.sent) == ([b"last"], [])


@given(st.lists(st.lists(st.binary(max_size=40_000), max_size=5), max_size=5))
def test_every_byte_in_its_order(turns: list[list[bytes]]) -> None:
    async def run() -> bytes:
        inner = Inner()
        gathered = Gathered(inner, asyncio.get_running_loop())
        for turn in turns:
            for data in turn:
                gathered.write(data)
            await asyncio.sleep(0)
        return b"".join(inner.sent)

    assert asyncio.run(run()) == b"".join(data for turn in turns for data in turn)
