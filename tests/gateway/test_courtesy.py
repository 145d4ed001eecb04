"""Those who wait for a search come before files that are read in."""

from __future__ import annotations

import asyncio

import pytest

from gateway.documents.courtesy import RECENT_S, Courtesy

pytestmark = pytest.mark.anyio


class Turns:
    """Work for files: so many turns, each until it is let go."""

    def __init__(self, polite: Courtesy, count: int) -> None:
        self.begun = 0
        self._let_go = asyncio.Semaphore(0)
        self._polite = polite
        self.tasks = [asyncio.create_task(self._turn()) for _ in range(count)]

    async def _turn(self) -> None:
        async with self._polite.turn():
            self.begun += 1
            await self._let_go.acquire()

    async def settle(self) -> int:
        for _ in range(20):
            await asyncio.sleep(0)
        return self.begun

    async def end(self, count: int = 1) -> int:
        for _ in range(count):
            self._let_go.release()
        return await self.settle()

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.wait(self.tasks)


async def test_no_turn_begins_during_a_search_and_one_at_a_time_after_it() -> None:
    now = [100.0]
    polite = Courtesy(2, clock=lambda: now[0])
    with polite.searching(), polite.searching():
        turns = Turns(polite, 5)
        assert await turns.settle() == 0
    assert await turns.settle() == 1
    assert await turns.end() == 2
    now[0] += RECENT_S
    assert await turns.end() == 4, "nobody has searched for a while: two at once"
    await turns.close()


async def test_searches_without_end_do_not_stop_it() -> None:
    polite = Courtesy(1, most_wait_s=0.01)
    with polite.searching():
        async with asyncio.timeout(5), polite.turn():
            pass


async def test_a_turn_that_is_given_up_is_free_again() -> None:
    polite = Courtesy(1)
    turns = Turns(polite, 3)
    assert await turns.settle() == 1
    turns.tasks[0].cancel()
    assert await turns.settle() == 2
    await turns.close()
    async with asyncio.timeout(5), polite.turn():
        pass
