"""Files in vector stores, and the work that is left: a file in progress is its own job, so it survives a crash."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import orjson

from backends.errors import InvalidRequest
from rag.filters import columns
from rag.store.engine import Cursor, Engine, Row
from rag.store.errors import NotThere, Superseded
from rag.store.index import remove_members, touched
from rag.store.parts import classes_of, classes_text, dump, embedder_of, new_id, number, page
from rag.store.records import Attributes, Batch, Claim, Counts, Cut, Entry, FileStatus, LastError, Page, StoreFile

SELECT_MEMBER = (
    "SELECT s.id, f.id, f.name, c.sha256, m.status, m.created, m.attributes, m.chunking, d.bytes, m.error_code, "
    "m.error, b.id, m.attempts, m.n FROM members m JOIN stores s ON s.n = m.store JOIN files f ON f.n = m.file "
    "JOIN contents c ON c.n = f.content LEFT JOIN docs d ON d.n = m.doc LEFT JOIN batches b ON b.n = m.batch"
)
LOOKED_AT = 1000
"""Files that may be the next one."""
_COUNT = "SELECT status, count(*) FROM members WHERE {} = ? GROUP BY status"


class Members:
    """The files in the stores. Its methods raise `StoreTrouble`, and `NotThere` where an id is not known.

    Args:
        clock: Unix time (s).
    """

    def __init__(self, engine: Engine, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._clock = clock

    def add(self, store_id: str, entry: Entry, declared: frozenset[str] = frozenset()) -> StoreFile:
        """Puts a file into a store; it is in progress then. One that is there already is begun anew.

        Args:
            declared: data classes that the store has from then on, besides its own and the file's.
        """
        with self._engine.write() as cursor:
            store = _living(cursor, store_id)
            _classify(cursor, store, [entry], declared)
            return member(cursor, self._put(cursor, store, entry, None))

    def add_batch(self, store_id: str, entries: Sequence[Entry], declared: frozenset[str] = frozenset()) -> Batch:
        """Puts several: all of them, or none. `declared`: as of `add`."""
        id_, now = new_id("vsfb_"), self._clock()
        with self._engine.write() as cursor:
            store = _living(cursor, store_id)
            asked = "INSERT INTO batches (id, store, created) VALUES (?, ?, ?) RETURNING n"
            row = cursor.one(asked, (id_, store, now))
            assert row is not None
            _classify(cursor, store, entries, declared)
            for entry in entries:
                self._put(cursor, store, entry, row[0])
            return Batch(id_, store_id, now, counts(cursor, "batch", row[0]))

    def _put(self, cursor: Cursor, store: int, entry: Entry, batch: int | None) -> int:
        file = number(cursor, "files", "file", entry.file_id, "file_id")
        there = cursor.one("SELECT n FROM members WHERE store = ? AND file = ?", (store, file))
        if there is not None:
            remove_members(self._engine, cursor, "n", there[0])
        made = cursor.one(
            "INSERT INTO members (store, file, batch, status, created, attributes, chunking) "
            "VALUES (?, ?, ?, 'in_progress', ?, ?, ?) RETURNING n",
            (store, file, batch, self._clock(), dump(entry.attributes), dump(entry.chunking)),
        )
        assert made is not None
        _describe(cursor, made[0], store, entry.attributes)
        return int(made[0])

    def get(self, store_id: str, file_id: str) -> StoreFile:
        """One of them."""
        with self._engine.read() as cursor:
            return member(cursor, _number(cursor, store_id, file_id))

    def list(
        self, store_id: str, cut: Cut, status: FileStatus | None = None, batch_id: str | None = None
    ) -> Page[StoreFile]:
        """Those of a store, of a status, of a batch."""
        with self._engine.read() as cursor:
            conditions: list[tuple[str, Any]] = [("m.store = ?", number(cursor, "stores", "vector store", store_id))]
            if status is not None:
                conditions.append(("m.status = ?", status))
            if batch_id is not None:
                conditions.append(("m.batch = ?", _batch(cursor, store_id, batch_id)[0]))
            place = lambda id_, param: _number(cursor, store_id, id_, param)  # noqa: E731
            return page(cursor, (SELECT_MEMBER, "m.n"), conditions, cut, place, to_member)

    def set_attributes(self, store_id: str, file_id: str, attributes: Attributes) -> StoreFile:
        """In place of those that it has."""
        with self._engine.write() as cursor:
            n = _number(cursor, store_id, file_id)
            cursor.run("UPDATE members SET attributes = ? WHERE n = ?", (dump(attributes), n))
            cursor.run("DELETE FROM attributes WHERE member = ?", (n,))
            _describe(cursor, n, number(cursor, "stores", "vector store", store_id), attributes)
            touched(cursor, "members")
            return member(cursor, n)

    def remove(self, store_id: str, file_id: str) -> None:
        """Out of the store; the file itself stays."""
        with self._engine.write() as cursor:
            remove_members(self._engine, cursor, "n", _number(cursor, store_id, file_id))

    def batch(self, store_id: str, batch_id: str) -> Batch:
        """One of the store's."""
        with self._engine.read() as cursor:
            n, created, cancelled = _batch(cursor, store_id, batch_id)
            return Batch(batch_id, store_id, created, counts(cursor, "batch", n), bool(cancelled))

    def cancel_batch(self, store_id: str, batch_id: str) -> Batch:
        """Cancels those of its files that are in progress; those that are completed stay."""
        with self._engine.write() as cursor:
            n, created, _ = _batch(cursor, store_id, batch_id)
            cursor.run("UPDATE batches SET cancelled = 1 WHERE n = ?", (n,))
            cursor.run(
                "UPDATE members SET status = 'cancelled', owner = '', until = 0 "
                "WHERE batch = ? AND status = 'in_progress'",
                (n,),
            )
            return Batch(batch_id, store_id, created, counts(cursor, "batch", n), cancelled=True)


class Work:
    """What is left to do, for workers in any process. See `Members` for what its methods raise."""

    def __init__(self, engine: Engine, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._clock = clock

    def claim(self, owner: str, lease_s: float, *, smallest: bool = False) -> Claim | None:
        """The oldest file that nobody works on: new ones first, then those of stores that are rebuilt. One that was
        begun before comes after those that were not.

        Args:
            owner: no other worker's, in any process, ever.
            smallest: the smallest of the new ones, so that they need not all wait for a large one.
            lease_s: after so many seconds without `renew` another worker may have it: whoever claimed it has died.
        """
        now = self._clock()
        with self._engine.read() as cursor:
            # Gateways with nothing to do look every few seconds: nobody waits for that.
            if _next(cursor, now, smallest=smallest) is None:
                return None
        with self._engine.write() as cursor:
            found = _next(cursor, now, smallest=smallest)
            if found is None:
                return None
            number_, rebuild = found
            cursor.run(
                "UPDATE members SET owner = ?, until = ?, attempts = attempts + 1 WHERE n = ?",
                (owner, now + lease_s, number_),
            )
            which = "next_embedder" if rebuild else "embedder"
            asked = f"SELECT s.{which} FROM members m JOIN stores s ON s.n = m.store WHERE m.n = ?"  # noqa: S608
            row = cursor.one(asked, (number_,))
            assert row is not None
            return Claim(member(cursor, number_), owner, now + lease_s, embedder_of(cursor, row[0]), rebuild)

    def renew(self, claim: Claim, lease_s: float) -> None:
        """Says that the worker lives. Raises `Superseded`."""
        self._change(claim, "until = ?", self._clock() + lease_s)

    def release(self, claim: Claim, *, tried: bool = False) -> None:
        """Gives it back, undone. Raises `Superseded`.

        Args:
            tried: it counts among the file's attempts.
        """
        self._change(claim, f"until = ?, owner = ''{'' if tried else ', attempts = attempts - 1'}", 0.0)

    def fail(self, claim: Claim, error: LastError) -> None:
        """It cannot be done. One that is rebuilt is served until the store goes over. Raises `Superseded`."""
        how = "next_failed = 1" if claim.rebuild else "status = 'failed'"
        self._change(claim, f"error_code = ?, error = ?, owner = '', until = 0, {how}", error.code, error.message)

    def _change(self, claim: Claim, change: str, *values: float | str) -> None:
        with self._engine.write() as cursor:
            changed = cursor.run(
                f"UPDATE members SET {change} WHERE owner = ? AND status = ? "  # noqa: S608
                "AND store = (SELECT n FROM stores WHERE id = ?) AND file = (SELECT n FROM files WHERE id = ?)",
                (
                    *values,
                    claim.owner,
                    "completed" if claim.rebuild else "in_progress",
                    claim.file.store_id,
                    claim.file.file_id,
                ),
            )
            if not changed:
                raise Superseded


def _next(cursor: Cursor, now: float, *, smallest: bool) -> tuple[int, bool] | None:
    """The number of the file in a store that is worked on next, and whether it is rebuilt; None: there is none."""
    order = "attempts, size, n" if smallest else "attempts, n"
    # The oldest only: whoever works must not sort a hundred thousand files for each of them.
    fresh = cursor.one(
        "SELECT n FROM (SELECT m.n, m.attempts, f.size FROM members m JOIN files f ON f.n = m.file "  # noqa: S608
        f"WHERE m.status = 'in_progress' AND m.until <= ? ORDER BY m.n LIMIT {LOOKED_AT}) o ORDER BY {order} LIMIT 1",
        (now,),
    )
    if fresh is not None:
        return int(fresh[0]), False
    row = cursor.one(
        "SELECT m.n FROM members m JOIN stores s ON s.n = m.store WHERE s.next_embedder IS NOT NULL "
        "AND m.status = 'completed' AND m.next_doc IS NULL AND m.next_failed = 0 AND m.until <= ? "
        "ORDER BY m.n LIMIT 1",
        (now,),
    )
    return None if row is None else (int(row[0]), True)


def member(cursor: Cursor, n: int) -> StoreFile:
    """The file in a store of that number."""
    row = cursor.one(f"{SELECT_MEMBER} WHERE m.n = ?", (n,))
    assert row is not None
    return to_member(row)


def to_member(row: Row) -> StoreFile:
    """Of `SELECT_MEMBER`."""
    store, file, name, sha256, status, created, attributes, chunking, size, code, message, batch, attempts, _ = row
    error = LastError(code, message) if code is not None else None
    have, how = orjson.loads(attributes), orjson.loads(chunking)
    return StoreFile(
        store, file, name, sha256, status, created, have, how, size or 0, error, batch_id=batch, attempts=attempts
    )


def counts(cursor: Cursor, column: str, n: int) -> Counts:
    """Of a store or a batch."""
    return Counts(**{status: int(count) for status, count in cursor.all(_COUNT.format(column), (n,))})


def _living(cursor: Cursor, store_id: str) -> int:
    n = number(cursor, "stores", "vector store", store_id)
    if cursor.one("SELECT 1 FROM stores WHERE n = ? AND expired = 1", (n,)):
        raise InvalidRequest(f"The vector store {store_id!r} has expired.", param="vector_store_id")
    return n


def _classify(cursor: Cursor, store: int, entries: Sequence[Entry], declared: frozenset[str]) -> None:
    """A store has the classes of all that was ever put into it, and a file those of every store that it was in: no way
    through another store takes a class away."""
    row = cursor.one("SELECT data_class, classes FROM stores WHERE n = ?", (store,))
    assert row is not None
    files = [number(cursor, "files", "file", entry.file_id, "file_id") for entry in entries]
    own: frozenset[str] = frozenset()
    have = {}
    for file in files:
        (text,) = cursor.one("SELECT classes FROM files WHERE n = ?", (file,)) or ("",)
        have[file] = classes_of(text)
        own |= have[file]
    brought = classes_of(row[1]) | own | declared
    if brought != classes_of(row[1]):
        cursor.run("UPDATE stores SET classes = ? WHERE n = ?", (classes_text(brought), store))
    beside = brought | classes_of(row[0])
    for file, classes in have.items():
        if not beside <= classes:
            cursor.run("UPDATE files SET classes = ? WHERE n = ?", (classes_text(classes | beside), file))


def _describe(cursor: Cursor, n: int, store: int, attributes: Attributes) -> None:
    cursor.many(
        "INSERT INTO attributes (member, store, name, number, text, flag) VALUES (?, ?, ?, ?, ?, ?)",
        [(n, store, name, *columns(value)) for name, value in attributes.items()],
    )


def _number(cursor: Cursor, store_id: str, file_id: str, param: str | None = None) -> int:
    store = number(cursor, "stores", "vector store", store_id)
    row = cursor.one(
        "SELECT m.n FROM members m JOIN files f ON f.n = m.file WHERE m.store = ? AND f.id = ?", (store, file_id)
    )
    if row is None:
        raise NotThere("file in the vector store", file_id, param)
    return int(row[0])


def _batch(cursor: Cursor, store_id: str, batch_id: str) -> Row:
    row = cursor.one(
        "SELECT b.n, b.created, b.cancelled FROM batches b JOIN stores s ON s.n = b.store WHERE b.id = ? AND s.id = ?",
        (batch_id, store_id),
    )
    if row is None:
        raise NotThere("file batch", batch_id)
    return row
