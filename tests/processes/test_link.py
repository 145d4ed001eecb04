"""Messages over a real socket pair: whole, in order, however the system cuts the bytes."""

from __future__ import annotations

import asyncio
import random
import socket

import pytest

from backends.processes.link import Link
from backends.processes.wire import dumps

pytestmark = pytest.mark.anyio


async def test_messages_arrive_whole_and_in_order() -> None:
    ours, theirs = socket.socketpair()
    sent = [{"op": "step", "i": i, "text": "ä\n😀" * (i % 7) * (1 + 3000 * (i % 50 == 0))} for i in range(300)]
    arrived: list[dict[str, object]] = []
    link = await Link.over(ours, arrived.append)
    raw, random_ = b"".join(map(dumps, sent)), random.Random(3)
    loop = asyncio.get_running_loop()
    theirs.setblocking(False)
    while raw:
        n = random_.choice([1, 2, 7, 100, 5000, 200_000])
        await loop.sock_sendall(theirs, raw[:n])
        raw = raw[n:]
        if random_.random() < 0.3:
            await asyncio.sleep(0)
    theirs.close()
    await asyncio.wait_for(link.closed, 10)
    assert arrived == sent
    assert not link.open
    link.close()


async def test_what_is_sent_can_be_read_line_by_line() -> None:
    ours, theirs = socket.socketpair()
    link = await Link.over(ours, lambda message: None)
    assert link.open
    messages = [{"op": "cancel", "id": str(i)} for i in range(5)]
    for message in messages:
        link.send(message)
    link.close()
    await asyncio.wait_for(link.closed, 10)
    with theirs, theirs.makefile("rb") as lines:
        assert lines.readlines() == [dumps(m) for m in messages]


async def test_a_line_that_is_no_json_ends_the_link() -> None:
    """The worker is broken then: the supervisor replaces it."""
    ours, theirs = socket.socketpair()
    link = await Link.over(ours, lambda message: None)
    loop = asyncio.get_running_loop()
    reports: list[dict[str, object]] = []
    loop.set_exception_handler(lambda _, context: reports.append(context))
    with theirs:
        theirs.send(b"nonsense\n")
        await asyncio.wait_for(link.closed, 10)
    assert reports
    loop.set_exception_handler(None)
