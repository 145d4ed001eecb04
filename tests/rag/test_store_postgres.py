"""What PostgreSQL alone has: a server that is silent, is started anew, or refuses a statement."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest

from gateway.documents.library import THREADS, Library
from rag.store.base import DocumentStore
from rag.store.errors import StoreTrouble
from rag.store.postgres_db import READERS, PostgresDb
from rag.store.records import Cut


def _processes(db: PostgresDb) -> list[int]:
    """The server's: for this database, and the one that takes new connections."""
    with db.read() as cursor:
        rows = cursor.all("SELECT pid FROM pg_stat_activity WHERE datname = current_database()")
        folder = cursor.one("SHOW data_directory")
    assert folder is not None
    return [*(pid for (pid,) in rows), int(Path(folder[0], "postmaster.pid").read_text().split()[0])]


@contextmanager
def _stopped(processes: list[int]) -> Iterator[None]:
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in processes:
            os.kill(pid, signal.SIGCONT)


def _ended(address: str) -> None:
    """All connections to it but this one, as by a restart of the server."""
    with psycopg.connect(address, autocommit=True) as db:
        db.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def test_a_server_that_is_stopped_holds_nobody_for_ever(postgres: Callable[[], str]) -> None:
    db = PostgresDb(f"{postgres()}&connect_timeout=2", read_s=0.5, write_s=0.5)
    with _stopped(_processes(db)):
        for _ in range(2):  # on a connection that is there, and on a new one
            with pytest.raises(StoreTrouble, match="does not answer"), db.read():
                pass
        with pytest.raises(StoreTrouble, match="does not answer"), db.write():
            pass
    with db.read() as reader, db.write() as writer:
        assert reader.one("SELECT 1") == writer.one("SELECT 1") == (1,)
    db.close()


def test_a_server_that_stops_in_the_middle_frees_who_waits(postgres: Callable[[], str]) -> None:
    db = PostgresDb(postgres(), read_s=0.5, write_s=0.5)
    processes = _processes(db)
    with pytest.raises(StoreTrouble, match="does not answer"), db.read() as cursor, _stopped(processes):
        cursor.one("SELECT 1")
    with db.read() as cursor:
        assert cursor.one("SELECT 1") == (1,)
    db.close()


def test_a_server_that_was_started_anew_is_not_noticed(postgres: Callable[[], str]) -> None:
    address = postgres()
    db = PostgresDb(address)
    with ExitStack() as stack:
        for _ in range(READERS):
            stack.enter_context(db.read())
    _ended(address)
    for _ in range(READERS):
        with db.read() as cursor:
            assert cursor.one("SELECT 1") == (1,)
    with db.write() as cursor:
        assert cursor.one("SELECT 1") == (1,)
    db.close()


def test_what_has_begun_is_not_begun_again(postgres: Callable[[], str]) -> None:
    address = postgres()
    db = PostgresDb(address)
    begun = []

    def half() -> None:
        with db.write() as cursor:
            begun.append(cursor.run("CREATE TABLE half (n BIGINT)"))
            _ended(address)
            cursor.run("INSERT INTO half VALUES (1)")

    with pytest.raises(StoreTrouble, match="does not answer"):
        half()
    assert len(begun) == 1
    with db.read() as cursor:
        assert cursor.one("SELECT to_regclass('half') IS NULL") == (True,)
    db.close()


def test_what_the_server_refuses_is_told_apart_from_its_silence(postgres: Callable[[], str]) -> None:
    db = PostgresDb(postgres(), read_s=0.2)
    with pytest.raises(StoreTrouble, match="PostgreSQL says: word is too long"), db.read() as cursor:
        cursor.one("SELECT repeat('a', 3000)::tsquery")
    with pytest.raises(StoreTrouble, match="took too long") as caught, db.read() as cursor:
        cursor.one("SELECT pg_sleep(60)")
    assert caught.value.retry_after
    db.close()


def test_a_writer_that_waits_for_another_says_so(postgres: Callable[[], str]) -> None:
    address = postgres()
    first, second = PostgresDb(address, write_s=0.2), PostgresDb(address, write_s=0.2)
    with first.write() as cursor:
        for other in (first, second):  # of this process, and of another one
            with pytest.raises(StoreTrouble, match=r"written|too long"), other.write():
                pass
        assert cursor.one("SELECT 1") == (1,)
    first.close()
    second.close()


@pytest.mark.anyio
async def test_requests_end_while_the_server_is_stopped_and_their_threads_come_back(
    postgres: Callable[[], str], tmp_path: Path
) -> None:
    address = f"{postgres()}&connect_timeout=2"
    library = Library(address, "", tmp_path)
    db = PostgresDb(address)

    def listed(store: DocumentStore) -> int:
        return len(store.files.list(Cut()).items)

    assert await library.run(listed) == 0
    with _stopped(_processes(db)):
        asked = [library.run(listed, bound_s=0.5) for _ in range(2 * THREADS)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(one, StoreTrouble) for one in answers), answers
    assert await asyncio.gather(*[library.run(listed) for _ in range(2 * THREADS)]) == [0] * (2 * THREADS)
    db.close()
    library.close()
