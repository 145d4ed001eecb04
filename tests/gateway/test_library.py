"""Threads for what touches the store: nobody waits for ever, and none is lost."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from gateway.documents.library import THREADS, Library
from gateway.errors import kind_of
from rag.store.base import DocumentStore
from rag.store.errors import StoreTrouble

pytestmark = pytest.mark.anyio


async def test_nobody_waits_for_a_store_that_does_not_answer(tmp_path: Path) -> None:
    library = Library(str(tmp_path / "documents.db"), "", tmp_path / "work")
    answers = threading.Event()
    done: list[int] = []

    def stuck(store: DocumentStore) -> None:
        answers.wait()

    waiting = [library.run(stuck, bound_s=0.2) for _ in range(THREADS)]
    late = library.run(lambda store: done.append(1), bound_s=0.2)
    try:
        for error in await asyncio.gather(*waiting, late, return_exceptions=True):
            assert isinstance(error, StoreTrouble)
            assert kind_of(error).status == 503
            assert error.retry_after
    finally:
        answers.set()
    assert await library.run(lambda store: store.files.expire()) == 0
    assert not done, "nobody waited for it any more"
    library.close()


async def test_an_error_of_the_work_is_its_own(tmp_path: Path) -> None:
    library = Library(str(tmp_path / "documents.db"), "", tmp_path / "work")

    def late(store: DocumentStore) -> None:
        raise TimeoutError("of a socket")

    with pytest.raises(TimeoutError, match="of a socket"):
        await library.run(late)
    library.close()
