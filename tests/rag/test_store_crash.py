"""A process that writes is killed at any moment: each file is whole in the store, or its work is left."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rag.store.base import open_store
from rag.store.engine import SHIFT
from rag.store.records import Counts
from tests.rag.stores import SMALL, chunks, nearest, put, work

FILES = 60
TEXT = "The {} of unit P-{}/A leaks at the seal; tighten the flange and look at the bearing. "


def _text(n: int) -> str:
    return "".join(TEXT.format(word, n) for word in ("pump", "motor", "valve") * 12)


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_nothing_is_half_there_after_a_kill(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    made: Callable[[], str] = (
        request.getfixturevalue("postgres") if kind == "postgres" else lambda: str(tmp_path / "documents.db")
    )
    where = made()
    store = open_store(where)
    try:
        id_ = store.stores.create("", SMALL).id
        texts = {put(store, id_, _text(n)).file_id: _text(n) for n in range(FILES)}
        done = 0
        for n in range(6):
            _killed(where, f"worker {n}", random.uniform(0.0, 0.15))
            now = _whole(where, id_, texts)
            assert now >= done, "a file that was acknowledged is gone"
            done = now
        assert done, "the processes were killed before they did anything"
        work(store)
        assert store.stores.get(id_).counts == Counts(completed=FILES)
        assert _whole(where, id_, texts) == FILES
        assert len(nearest(store, id_, "pump", limit=50)) == 50
    finally:
        store.close()


def _killed(where: str, owner: str, after_s: float) -> None:
    """Starts a process that indexes, and kills it some time after it did its first file."""
    command = [sys.executable, "-m", "tests.rag.store_writer", where, owner]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(after_s)
        process.kill()


def _whole(where: str, id_: str, texts: dict[str, str]) -> int:
    """Opens it anew, as after a crash. Each file has all its pieces, words and vectors, or none. How many have."""
    store = open_store(where)
    try:
        found = 0
        for file_id, text in texts.items():
            pieces = [one.chunk for one in store.search.of_file(id_, file_id)]
            assert pieces in ([], chunks(text))
            found += bool(pieces)
        with store._engine.read() as cursor:
            docs = dict(cursor.all("SELECT n, pieces FROM docs"))
            assert len(docs) == found, "a document that no file has"
            for table, column in (
                ("chunks", "id"),
                ("vectors_1", "id"),
                ("words", "id" if "://" in where else "rowid"),
            ):
                sql = f"SELECT {column} >> {SHIFT}, count(*) FROM {table} GROUP BY {column} >> {SHIFT}"
                assert dict(cursor.all(sql)) == docs, table
        return found
    finally:
        store.close()
