"""The audit's database, as its one writer sees it: rows in a chain of hashes, totals of money, the chain's ends."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from backends.errors import Unavailable
from gateway.audit_rows import Departure, Row, chained, crashed, decision_row, to_departure

if TYPE_CHECKING:
    import apsw

VERSION: Final = 1
BUSY_MS: Final = 2_000
REMOVED_AT_ONCE: Final = 2_000
_SCHEMA: Final = """
CREATE TABLE rows (
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, at REAL NOT NULL, body TEXT NOT NULL, facts BLOB NOT NULL,
    hash BLOB NOT NULL
) STRICT;
CREATE INDEX rows_at ON rows (kind, at);
CREATE TABLE spent (day TEXT NOT NULL, key TEXT NOT NULL, usd REAL NOT NULL, PRIMARY KEY (day, key))
    STRICT, WITHOUT ROWID;
-- One row. anchor: the last row that was removed for its age; head: the newest; settled: all departures up to that row
-- have their decision; departed: the number of the last departure.
CREATE TABLE chain (
    anchor_id INTEGER NOT NULL, anchor_hash BLOB NOT NULL, head_id INTEGER NOT NULL, head_hash BLOB NOT NULL,
    settled INTEGER NOT NULL, departed INTEGER NOT NULL
) STRICT;
INSERT INTO chain VALUES (0, zeroblob(32), 0, zeroblob(32), 0, 0);
PRAGMA user_version = 1;
"""
_INSERT: Final = "INSERT INTO rows VALUES (?,?,?,?,?,?)"
_CHARGE: Final = "INSERT INTO spent VALUES (?,?,?) ON CONFLICT DO UPDATE SET usd = usd + excluded.usd"
_CHUNK: Final = 64  # rows in one statement: apsw takes and gives the interpreter's lock with every statement


class Trouble(Exception):
    """Something is wrong with the file that SQLite does not know of. Its text says all."""


def what_is_wrong(error: Exception) -> str:
    """What is wrong with the files, and what to do about it, without their place: clients read it too."""
    import apsw

    if isinstance(error, Trouble):
        return str(error)
    if isinstance(error, apsw.FullError) or (isinstance(error, OSError) and error.errno == errno.ENOSPC):
        return "the disk is full. Free some space"
    known = {
        apsw.BusyError: "another process has it locked. End that process",
        apsw.NotADBError: "it is not a database. Move it aside and restart the gateway",
        apsw.CorruptError: "it is damaged. Move it aside and restart the gateway",
        apsw.ReadOnlyError: "it may not be written. Correct its permissions",
        apsw.CantOpenError: "it cannot be opened. Check that it exists and its permissions",
        BlockingIOError: "another gateway uses this home. Stop that one or give this one a home of its own",
    }
    other = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return known.get(type(error)) or f"{other}. Check the disk and the files' permissions"


def unavailable(path: Path, error: Exception) -> Unavailable:
    """For the commands."""
    return Unavailable(f"The audit {path} is not available: {what_is_wrong(error)}.", code="audit_unavailable")


class Store:
    """An open database. Belongs to one thread; raises `apsw.Error`, `OSError` or `Trouble` when something is wrong.

    Attributes:
        head: id and hash of the newest row.
        tried: the hash that the last `append` meant to be the newest, whether or not it got there; empty: it had not
            come so far.
        departed: number of the last departure.
    """

    def __init__(self, path: Path) -> None:
        import apsw

        path.parent.mkdir(parents=True, exist_ok=True)
        # Made here so that nobody else can ever read it; SQLite gives its other files the same permissions.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        path.chmod(0o600)
        self._path = path
        self._inode = path.stat().st_ino
        self._db: apsw.Connection = apsw.Connection(str(path))
        try:
            self._db.set_busy_timeout(BUSY_MS)
            for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "journal_size_limit = 67108864"):
                self._db.execute(f"PRAGMA {pragma}").fetchall()
            self._prepare()
            self._read_chain()
        except BaseException:
            self._db.close()
            raise

    def _prepare(self) -> None:
        version = self._one("PRAGMA user_version")[0]
        if version > VERSION:
            raise Trouble("it was written by a newer version")
        if version == 0:
            with self._db:
                self._db.execute(_SCHEMA)

    def _read_chain(self) -> None:
        head_id, head_hash, self._settled, self.departed = self._one(
            "SELECT head_id, head_hash, settled, departed FROM chain"
        )
        self.head: tuple[int, bytes] = head_id, head_hash
        self.tried = b""
        self._open: dict[str, int] = {}
        for id_, kind, request_id, _ in self._unsettled():
            if kind == "decision":
                self._open.pop(request_id, None)
            else:
                self._open.setdefault(request_id, id_)

    def _one(self, sql: str, values: Sequence[Any] = ()) -> tuple[Any, ...]:
        row: Any = self._db.execute(sql, values).fetchone()
        if row is None:
            raise Trouble("a row that must be there is missing; `outstation audit verify` tells more")
        return tuple(row)

    def append(self, rows: Sequence[Row]) -> None:
        """Adds rows in one transaction: all of them, or none."""
        self.tried = b""
        if not self._path.exists() or self._path.stat().st_ino != self._inode:
            raise Trouble("it was removed or replaced while the gateway ran; another is begun")
        head_id, head = self.head
        values: list[Any] = []
        for row in rows:
            head_id, head = head_id + 1, chained(head, row.kind, row.body, row.facts)
            values += (head_id, row.kind, row.at, row.body.decode(), row.facts, head)
        self.tried = head
        departed = max([self.departed, *(row.number for row in rows)])
        pending, settled = self._after(rows, head_id)
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._insert(values)
            self._db.executemany(_CHARGE, _charges(rows))
            self._db.execute(
                "UPDATE chain SET head_id = ?, head_hash = ?, settled = ?, departed = ?",
                (head_id, head, settled, departed),
            )
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        self.head, self.departed, self._open, self._settled = (head_id, head), departed, pending, settled

    def _insert(self, values: list[Any]) -> None:
        at = 0
        for size in (_CHUNK, 1):
            sql, width = _INSERT + ",(?,?,?,?,?,?)" * (size - 1), 6 * size
            while len(values) - at >= width:
                self._db.execute(sql, values[at : at + width])
                at += width

    def _after(self, rows: Sequence[Row], last: int) -> tuple[dict[str, int], int]:
        """Departures that have no decision yet, by request, and the row before the first of them."""
        pending = self._open.copy()
        for number, row in enumerate(rows, last - len(rows) + 1):
            if row.kind == "decision":
                pending.pop(row.request_id, None)
            else:
                pending.setdefault(row.request_id, number)
        return pending, next(iter(pending.values()), last + 1) - 1

    def recover(self, journalled: Sequence[tuple[Departure, Row]]) -> int:
        """Adds departures that only a journal has, and ends each request that departed and has no decision.

        Only when no request is under way. Returns how many requests it ended.
        """
        fresh = [(departure, row) for departure, row in journalled if departure.number > self.departed]
        open_: dict[str, list[Departure]] = {}
        for _, kind, request_id, body in self._unsettled():
            if kind == "decision":
                open_.pop(request_id, None)
            else:
                open_.setdefault(request_id, []).append(to_departure(body))
        for departure, _ in fresh:
            open_.setdefault(departure.request_id, []).append(departure)
        rows = [row for _, row in fresh] + [decision_row(crashed(departures)) for departures in open_.values()]
        if rows:
            self.append(rows)
        return len(open_)

    def _unsettled(self) -> Iterator[tuple[int, str, str, str]]:
        yield from self._db.execute(
            "SELECT id, kind, body ->> 'request_id', body FROM rows WHERE id > ? ORDER BY id", (self._settled,)
        )

    def spent(self) -> list[tuple[str, float, str]]:
        """(key, US dollars, UTC day)."""
        return list(self._db.execute("SELECT key, usd, day FROM spent"))

    def remove_before(self, unix: float) -> int:
        """Removes some of the oldest rows, all from before `unix`; the chain goes on behind them. Returns how many.

        Only from the end: a clock that was wrong for a while must not tear a hole.
        """
        first = self._one("SELECT min(id) FROM (SELECT id FROM rows WHERE at >= ? ORDER BY id LIMIT 1)", (unix,))[0]
        (start,) = self._one("SELECT anchor_id FROM chain")
        last = min((first or self.head[0] + 1) - 1, start + REMOVED_AT_ONCE)
        if last <= start:
            return 0
        with self._db:
            (last_hash,) = self._one("SELECT hash FROM rows WHERE id = ?", (last,))
            self._db.execute("UPDATE chain SET anchor_id = ?, anchor_hash = ?", (last, last_hash))
            self._db.execute("DELETE FROM rows WHERE id <= ?", (last,))
        return int(last - start)

    def checkpoint(self) -> None:
        """Moves what was committed into the database itself, and onto the disk."""
        self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def close(self) -> None:
        """Lets go of the file."""
        self._db.close()


def _charges(rows: Sequence[Row]) -> list[tuple[str, str, float]]:
    """Summed up beforehand: mostly one statement a batch, in place of one a row."""
    sums: dict[tuple[str, str], float] = {}
    for row in rows:
        if row.charge:
            day, key, usd = row.charge
            sums[day, key] = sums.get((day, key), 0.0) + usd
    return [(day, key, usd) for (day, key), usd in sums.items()]
