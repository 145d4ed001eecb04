"""The store of documents, as all else sees it. One contract, the same on SQLite and on PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from rag.store.engine import Engine
from rag.store.files import Files
from rag.store.index import Index
from rag.store.members import Members, Work
from rag.store.search import Search
from rag.store.stores import Stores


class DocumentStore:
    """Synchronous; any thread may call. Writers wait for each other, readers for no writer. Never on an event loop.

    The contract is `Engine`: the rooms are the same for every database.

    Attributes:
        files: uploads and what they contain.
        stores: vector stores, their life and their embedder.
        members: the files in them, alone and in batches.
        work: what is left to do; survives a crash.
        index: documents, whole or not at all.
        search: finds pieces and reads them.

    Args:
        clock: Unix time (s).
    """

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self.files = Files(engine, clock)
        self.stores = Stores(engine, clock)
        self.members = Members(engine, clock)
        self.work = Work(engine, clock)
        self.index = Index(engine)
        self.search = Search(engine)

    def tidy(self) -> None:
        """To be called now and then: see `Engine.tidy`."""
        self._engine.tidy()

    def close(self) -> None:
        """Waits for what is under way; nothing may be called afterwards."""
        self._engine.close()


def open_store(where: str, key: str = "", clock: Callable[[], float] = time.time) -> DocumentStore:
    """The store at a path (SQLite), or at a `postgresql://` address, for several gateways.

    Args:
        key: what the file is encrypted with; empty: it is not. PostgreSQL encrypts by its own means.

    Raises:
        StoreTrouble: it cannot be opened; the message says why and what to do.
    """
    if where.startswith(("postgresql://", "postgres://")):
        from rag.store.postgres import PostgresEngine

        return DocumentStore(PostgresEngine(where), clock)
    from rag.store.sqlite import SqliteEngine

    return DocumentStore(SqliteEngine(Path(where), key), clock)
