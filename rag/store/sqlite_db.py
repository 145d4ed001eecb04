"""SQLite, opened for the store: its own thread for no one, a lock for writers, a few connections for readers."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import LifoQueue
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

from rag.store.engine import Row
from rag.store.errors import StoreTrouble
from rag.store.schema import VERSIONS, statements

if TYPE_CHECKING:
    import apsw

BUSY_MS: Final = 10_000
READERS: Final = 3
WAL_BYTES: Final = 32 << 20
"""From here on the log is emptied: what is in it twice is a file's size."""
FREE_PAGES: Final = 512
"""Fewer are kept for what comes next."""
STEP_PAGES: Final = 128
STEP_S: Final = 0.1
"""About; a step that takes longer is the last one."""
TIDY_PAGES: Final = 4_096
_TIDY_BUSY_MS: Final = 50
_PAUSE_S: Final = 0.01
_INCREMENTAL: Final = 2
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_WORDS: Final = {
    "serial": "INTEGER PRIMARY KEY AUTOINCREMENT",  # never a number twice: what is in memory may be older
    "int": "INTEGER",
    "real": "REAL",
    "text": "TEXT",
    "bytes": "BLOB",
    "strict": " STRICT",
}
# Contentless: the text is in `chunks`. unicode61 makes P-101/A three words, which a phrase finds in that order.
_FTS: Final = (
    "CREATE VIRTUAL TABLE words USING fts5(body, headings, content='', contentless_delete=1, "
    'tokenize="unicode61 remove_diacritics 2")'
)


class SqliteCursor:
    """One connection, inside a transaction."""

    def __init__(self, db: apsw.Connection) -> None:
        self.db = db

    def all(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        """Every row."""
        return self.db.execute(sql, values).fetchall()

    def one(self, sql: str, values: Sequence[Any] = ()) -> Row | None:
        """The first row. All of them are made, so that the statement is done."""
        rows = self.db.execute(sql, values).fetchall()
        return rows[0] if rows else None

    def run(self, sql: str, values: Sequence[Any] = ()) -> int:
        """How many rows it changed."""
        self.db.execute(sql, values).fetchall()
        return self.db.changes()

    def many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """The same statement with each row's values."""
        self.db.executemany(sql, rows)


class SqliteDb:
    """The file. `key`: what it is encrypted with; empty: it is not."""

    def __init__(self, path: Path, key: str = "") -> None:
        self._path = path
        self._key = key
        self._lock = Lock()
        self._readers: LifoQueue[apsw.Connection | None] = LifoQueue()
        self._closed = False
        with self._translated():
            path.parent.mkdir(parents=True, exist_ok=True)
            # Made here so that nobody else can ever read it; SQLite gives its other files the same permissions.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            path.chmod(0o600)
            self._writer = self._connect(new=not path.stat().st_size)
            try:
                self._prepare()
            except BaseException:
                self._writer.close()
                raise
        for _ in range(READERS):
            self._readers.put(None)

    def _connect(self, *, new: bool = False) -> apsw.Connection:
        import apsw
        import sqlite_vec

        db = apsw.Connection(str(self._path))
        try:
            if self._key:
                db.execute(f"PRAGMA key = {apsw.format_sql_value(self._key)}").fetchall()
            db.set_busy_timeout(BUSY_MS)
            db.enable_load_extension(True)
            db.load_extension(sqlite_vec.loadable_path())
            db.enable_load_extension(False)
            # Vectors of 384 dimensions: five in a page of 8 KiB, but two in one of 4. What is deleted is overwritten.
            for pragma in (
                "page_size = 8192",
                # Before anything is written, or never. In a file that is there it would wait for its writers.
                *(("auto_vacuum = INCREMENTAL",) if new else ()),
                "journal_mode = WAL",
                "synchronous = FULL",
                "journal_size_limit = 67108864",
                "foreign_keys = ON",
                "secure_delete = ON",
                "temp_store = MEMORY",
            ):
                db.execute(f"PRAGMA {pragma}").fetchall()
        except BaseException:
            db.close()
            raise
        return db

    def _prepare(self) -> None:
        with self.write() as cursor:
            version = (cursor.one("PRAGMA user_version") or (0,))[0]
            if version > len(VERSIONS):
                raise StoreTrouble("The store of documents was written by a newer version of Outstation.")
            for number in range(version + 1, len(VERSIONS) + 1):
                for statement in statements(number, _WORDS):
                    cursor.run(statement)
            if version == 0:
                cursor.run(_FTS)
            if version < len(VERSIONS):
                cursor.run(f"PRAGMA user_version = {len(VERSIONS)}")

    @contextmanager
    def write(self) -> Iterator[SqliteCursor]:
        """See `Engine.write`."""
        with self._lock, self._translated():
            yield from self._inside(self._writer, "BEGIN IMMEDIATE")

    @contextmanager
    def read(self) -> Iterator[SqliteCursor]:
        """See `Engine.read`."""
        reader = self._readers.get()
        try:
            if self._closed:
                raise StoreTrouble("The store of documents is closed.")
            with self._translated():
                reader = reader or self._connect()
                yield from self._inside(reader, "BEGIN")
        finally:
            self._readers.put(reader)

    def tidy(self) -> None:
        """See `Engine.tidy`."""
        given_back = self._give_back()
        with self._translated():
            log = self._path.with_name(f"{self._path.name}-wal")
            if given_back or (log.exists() and log.stat().st_size > WAL_BYTES):
                self._empty_log()

    def _give_back(self) -> int:
        """Free pages to the disk, at the next checkpoint. Returns how many."""
        given_back = 0
        while given_back < TIDY_PAGES and self._free() > FREE_PAGES:
            began = time.monotonic()
            with self.write() as cursor:
                cursor.all(f"PRAGMA incremental_vacuum({STEP_PAGES})")
            given_back += STEP_PAGES
            if time.monotonic() - began > STEP_S:
                break
            time.sleep(_PAUSE_S)
        return given_back

    def _free(self) -> int:
        """Pages that can be given back: none of a file of an earlier version, which keeps them for itself."""
        with self.read() as cursor:
            ((kind,), (free,)) = (*cursor.all("PRAGMA auto_vacuum"), *cursor.all("PRAGMA freelist_count"))
        return int(free) if kind == _INCREMENTAL else 0

    def _empty_log(self) -> None:
        """What is long is done while others write; only then, for what is left, they wait."""
        import apsw

        db = self._connect()
        try:
            db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            db.set_busy_timeout(_TIDY_BUSY_MS)
            db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        except apsw.BusyError:
            pass  # somebody reads what is older; next time
        finally:
            db.close()

    def _inside(self, db: apsw.Connection, begin: str) -> Iterator[SqliteCursor]:
        import apsw

        db.execute(begin)
        try:
            yield SqliteCursor(db)
            db.execute("COMMIT")
        except BaseException as error:
            full = isinstance(error, apsw.IOError) and db.system_errno in _FULL
            if db.in_transaction:
                db.execute("ROLLBACK")
            if full:
                raise apsw.FullError(str(error)) from error
            raise

    @contextmanager
    def _translated(self) -> Iterator[None]:
        import apsw

        try:
            yield
        except (apsw.Error, OSError) as error:
            raise StoreTrouble(f"The store of documents cannot be used: {what_is_wrong(error)}.") from error

    def close(self) -> None:
        """Waits for what is under way. Who comes later is told so, and does not wait for ever."""
        for _ in range(READERS):
            reader = self._readers.get()
            if reader is not None:
                reader.close()
        self._closed = True
        for _ in range(READERS):
            self._readers.put(None)
        with self._lock:
            self._writer.close()


def what_is_wrong(error: Exception) -> str:
    """What is wrong with the file, and what to do about it, without its place: clients read it too."""
    import apsw

    known: dict[type[Exception], str] = {
        apsw.FullError: "the disk is full; free some space",
        apsw.BusyError: "another process has it locked; end that process",
        apsw.NotADBError: "it is not a database, or its key is another one",
        apsw.CorruptError: "it is damaged; move it aside and ingest anew",
        apsw.ReadOnlyError: "it may not be written; correct its permissions",
        apsw.CantOpenError: "it cannot be opened; check that it exists and its permissions",
    }
    if isinstance(error, OSError) and error.errno in _FULL:
        return known[apsw.FullError]
    other = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return known.get(type(error)) or f"{other}; check the disk and the file's permissions"
