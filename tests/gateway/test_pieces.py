"""What is remembered of pieces of text, and what goes on when nobody waits."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from gateway.pieces import AT_ONCE, MOST_LEFT, Pieces

pytestmark = pytest.mark.anyio


class Judge:
    """Says how long a piece is, once it is let; `seen`: what it was asked."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.seen: list[str] = []
        self.fails: Exception | None = None

    async def ask(self, pieces: Sequence[str]) -> list[int]:
        self.seen += pieces
        await self.gate.wait()
        if self.fails:
            raise self.fails
        return [len(piece) for piece in pieces]


async def leave(pieces: Pieces[int], texts: Sequence[str]) -> None:
    """Ask, and stop waiting once the judge has it."""
    task = asyncio.create_task(pieces.of(texts))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait((task,))


async def test_who_leaves_finds_the_answer_when_it_comes_again() -> None:
    judge = Judge()
    pieces = Pieces[int](judge.ask)
    texts = ["x" * (n + 1) for n in range(3 * AT_ONCE)]
    await leave(pieces, texts)
    judge.gate.set()
    assert await pieces.of(texts) == [len(text) for text in texts]
    assert judge.seen == texts


async def test_two_who_ask_the_same_ask_it_once() -> None:
    judge = Judge()
    pieces = Pieces[int](judge.ask)
    judge.gate.set()
    assert await asyncio.gather(pieces.of(["a", "bb"]), pieces.of(["bb", "ccc"])) == [[1, 2], [2, 3]]
    assert sorted(judge.seen) == ["a", "bb", "ccc"]


async def test_one_who_leaves_takes_nothing_from_another() -> None:
    judge = Judge()
    pieces = Pieces[int](judge.ask)
    stays = asyncio.create_task(pieces.of(["a"]))
    await leave(pieces, ["a"])
    judge.gate.set()
    assert await stays == [1]


async def test_not_too_much_goes_on_alone() -> None:
    judge = Judge()
    pieces = Pieces[int](judge.ask)
    for n in range(MOST_LEFT + 3):
        await leave(pieces, [f"text {n}"])
    assert len(pieces._left) == MOST_LEFT
    assert len(pieces._asked) == MOST_LEFT
    judge.gate.set()
    assert await pieces.of([f"text {MOST_LEFT + 1}"]) == [6]
    assert await pieces.of(["text 0"]) == [6]
    assert judge.seen.count("text 0") == 1
    assert judge.seen.count(f"text {MOST_LEFT + 1}") == 2
    assert not pieces._left and not pieces._asked


async def test_what_failed_is_asked_again() -> None:
    judge = Judge()
    pieces = Pieces[int](judge.ask)
    judge.gate.set()
    judge.fails = KeyError("x")
    with pytest.raises(KeyError):
        await pieces.of(["a"])
    judge.fails = None
    assert await pieces.of(["a"]) == [1]
