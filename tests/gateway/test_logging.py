"""Lines that wait a moment to be written together, and those that must not wait."""

from __future__ import annotations

import asyncio
import io
import logging

import pytest

from gateway.logging import Gathering

pytestmark = pytest.mark.anyio


class Counted(io.StringIO):
    writes = 0

    def write(self, text: str) -> int:
        self.writes += 1
        return super().write(text)


@pytest.fixture
def stream():
    return Counted()


@pytest.fixture
def logger(stream):
    made = logging.getLogger("outstation.test")
    made.setLevel(logging.INFO)
    made.handlers[:] = [Gathering(stream)]
    yield made
    made.handlers.clear()


async def test_lines_of_the_event_loop_are_written_together(logger, stream):
    for number in range(5):
        logger.info("%d", number)
    assert stream.writes == 0
    async with asyncio.timeout(5):
        while not stream.writes:
            await asyncio.sleep(0.01)
    assert stream.getvalue() == "0\n1\n2\n3\n4\n"
    assert stream.writes == 1
    logger.info("5")
    async with asyncio.timeout(5):
        while stream.writes < 2:
            await asyncio.sleep(0.01)
    assert stream.getvalue().endswith("4\n5\n")


async def test_a_warning_is_written_at_once_and_in_its_place(logger, stream):
    logger.info("before")
    logger.warning("now")
    assert stream.getvalue() == "before\nnow\n"


async def test_a_line_of_another_thread_is_written_at_once(logger, stream):
    logger.info("before")
    await asyncio.to_thread(logger.info, "thread")
    assert stream.getvalue() == "before\nthread\n"


def test_without_an_event_loop_nothing_waits(logger, stream):
    logger.info("alone")
    assert stream.getvalue() == "alone\n"


async def test_what_waits_at_the_end_is_written(logger, stream):
    logger.info("last")
    logger.handlers[0].close()
    logger.handlers[0].flush()
    assert stream.getvalue() == "last\n"
