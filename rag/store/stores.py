"""Vector stores: pinned to an embedder, which a rebuild changes for all their files at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from backends.errors import InvalidRequest
from rag.store.engine import Cursor, Engine, Row
from rag.store.errors import NotThere
from rag.store.index import known_embedder, remove_members, remove_unused, touched
from rag.store.members import counts
from rag.store.parts import classes_of, classes_text, dump, embedder_of, new_id, number, page
from rag.store.records import Cut, Page, VectorStore
from rag.types import Embedder

DAY_S: Final = 86_400.0
AT_ONCE: Final = 20
"""Files that are taken out of a store while others wait to write."""
PAUSE_S: Final = 0.002
_SELECT: Final = (
    "SELECT s.id, s.name, s.embedder, s.created, s.last_active, s.metadata, s.settings, s.data_class, s.expires_after, "
    "s.expired, s.next_embedder, s.n, s.description, s.classes FROM stores s"
)
_TEXTS: Final = ("name", "description", "data_class")
_JSON: Final = ("metadata", "settings")


@dataclass(frozen=True, slots=True)
class Pinned:
    """What a search has to know of a vector store: cheap to read, whatever is in it. See `VectorStore`."""

    id: str
    embedder: Embedder
    settings: Mapping[str, Any]
    classes: frozenset[str]
    expired: bool


class Stores:
    """The vector stores. Its methods raise `StoreTrouble`, and `NotThere` where an id is not known.

    Args:
        clock: Unix time (s).
    """

    def __init__(self, engine: Engine, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._clock = clock

    def create(
        self,
        name: str,
        embedder: Embedder,
        *,
        metadata: Mapping[str, str] | None = None,
        description: str = "",
        data_class: str = "",
        declared: frozenset[str] = frozenset(),
        expires_after: int | None = None,
    ) -> VectorStore:
        """An empty one. `expires_after`: days without use."""
        id_, now = new_id("vs_"), self._clock()
        with self._engine.write() as cursor:
            made = cursor.one(
                "INSERT INTO stores (id, name, embedder, metadata, description, settings, data_class, expires_after, "
                "created, last_active, classes) VALUES (?, ?, ?, ?, ?, '{}', ?, ?, ?, ?, ?) RETURNING n",
                (
                    id_,
                    name,
                    known_embedder(self._engine, cursor, embedder),
                    dump(metadata or {}),
                    description,
                    data_class,
                    expires_after,
                    now,
                    now,
                    classes_text(declared),
                ),
            )
            assert made is not None
            return self._one(cursor, id_)

    def get(self, id_: str) -> VectorStore:
        """One of them."""
        with self._engine.read() as cursor:
            return self._one(cursor, id_)

    def pinned(self, id_: str) -> Pinned:
        """What a search has to know of one."""
        with self._engine.read() as cursor:
            row = cursor.one("SELECT embedder, settings, data_class, classes, expired FROM stores WHERE id = ?", (id_,))
            if row is None:
                raise NotThere("vector store", id_)
            classes = classes_of(row[2]) | classes_of(row[3])
            return Pinned(id_, embedder_of(cursor, row[0]), orjson.loads(row[1]), classes, bool(row[4]))

    def rebuilding(self) -> Sequence[str]:
        """Ids of those that are being rebuilt."""
        with self._engine.read() as cursor:
            return [id_ for (id_,) in cursor.all("SELECT id FROM stores WHERE next_embedder IS NOT NULL ORDER BY n")]

    def list(self, cut: Cut) -> Page[VectorStore]:
        """All of them."""
        with self._engine.read() as cursor:
            place = lambda id_, param: number(cursor, "stores", "vector store", id_, param)  # noqa: E731
            return page(cursor, (_SELECT, "s.n"), [], cut, place, lambda row: self._record(cursor, row))

    def modify(self, id_: str, changes: Mapping[str, Any]) -> VectorStore:
        """Changes some of `name`, `description`, `metadata`, `settings`, `data_class`, `expires_after`. One that has
        files keeps the class that it had, besides the other one."""
        with self._engine.write() as cursor:
            n = number(cursor, "stores", "vector store", id_)
            if "data_class" in changes:
                _keep_class(cursor, n)
            for name, value in changes.items():
                if name not in (*_TEXTS, *_JSON, "expires_after"):
                    raise InvalidRequest(f"A vector store's {name!r} cannot be changed.", param=name)
                kept = dump(value) if name in _JSON else value
                cursor.run(f"UPDATE stores SET {name} = ? WHERE n = ?", (kept, n))  # noqa: S608
            return self._one(cursor, id_)

    def delete(self, id_: str) -> None:
        """With all that is in it; the files themselves stay.

        Others write in between. Broken off, it is an expired store that `expire` empties, and may be deleted again.
        """
        with self._engine.write() as cursor:
            n = number(cursor, "stores", "vector store", id_)
            cursor.run("UPDATE stores SET expired = 1 WHERE n = ?", (n,))
        self._empty(n)
        with self._engine.write() as cursor:
            n = number(cursor, "stores", "vector store", id_)
            cursor.run("DELETE FROM batches WHERE store = ?", (n,))
            row = cursor.one("DELETE FROM stores WHERE n = ? RETURNING embedder, next_embedder", (n,))
            _forget(self._engine, cursor, *(row or ()))

    def _empty(self, n: int) -> None:
        """Takes all files out of a store that takes none any more, some at a time."""
        while True:
            with self._engine.write() as cursor:
                removed = remove_members(self._engine, cursor, "store", n, AT_ONCE)
            if removed < AT_ONCE:
                return
            # Whoever waits for the lock gets it now: it is not given in turn.
            time.sleep(PAUSE_S)

    def touch(self, id_: str) -> None:
        """It was used: what expires without use begins anew. Written once a minute at most."""
        now = self._clock()
        with self._engine.read() as cursor:
            row = cursor.one("SELECT last_active FROM stores WHERE id = ?", (id_,))
        if row is not None and now - row[0] > 60.0:
            with self._engine.write() as cursor:
                cursor.run("UPDATE stores SET last_active = ? WHERE id = ? AND last_active < ?", (now, id_, now))

    def expire(self) -> Sequence[str]:
        """Empties the stores whose time is over, and goes on where that was broken off. Returns their ids."""
        due = (
            "SELECT n, id FROM stores WHERE expired = 0 AND last_active + expires_after * ? < ? OR expired = 1 "
            "AND EXISTS (SELECT 1 FROM members WHERE members.store = stores.n)"
        )
        with self._engine.read() as cursor:
            if not cursor.all(due, (DAY_S, self._clock())):
                return []
        with self._engine.write() as cursor:
            rows = cursor.all(due, (DAY_S, self._clock()))
            for n, _ in rows:
                cursor.run("UPDATE stores SET expired = 1, next_embedder = NULL WHERE n = ?", (n,))
        for n, _ in rows:
            self._empty(n)
        return [id_ for _, id_ in rows]

    def begin_rebuild(self, id_: str, embedder: Embedder) -> VectorStore:
        """From now on `Work.claim` gives the store's files for this embedder too; the old vectors serve meanwhile."""
        with self._engine.write() as cursor:
            n = number(cursor, "stores", "vector store", id_)
            _clear(self._engine, cursor, n)
            cursor.run(
                "UPDATE stores SET next_embedder = ? WHERE n = ? AND expired = 0",
                (known_embedder(self._engine, cursor, embedder), n),
            )
            return self._one(cursor, id_)

    def finish_rebuild(self, id_: str) -> bool:
        """All its files go over to the new vectors at once. False: some are not rebuilt yet, or it is not rebuilt."""
        with self._engine.write() as cursor:
            n = number(cursor, "stores", "vector store", id_)
            asked = "SELECT embedder, next_embedder FROM stores WHERE n = ? AND next_embedder IS NOT NULL"
            left = (
                "SELECT 1 FROM members "
                "WHERE store = ? AND status = 'completed' AND next_doc IS NULL AND next_failed = 0 LIMIT 1"
            )
            row = cursor.one(asked, (n,))
            if row is None or cursor.one(left, (n,)):
                return False
            old = cursor.all("SELECT doc FROM members WHERE store = ? AND doc IS NOT NULL", (n,))
            # What is being worked on for the old embedder has to be claimed anew.
            cursor.run(
                "UPDATE members SET doc = next_doc, next_doc = NULL, next_failed = 0, owner = '', until = 0, "
                "status = CASE WHEN next_failed = 1 THEN 'failed' ELSE status END WHERE store = ?",
                (n,),
            )
            cursor.run("UPDATE stores SET embedder = next_embedder, next_embedder = NULL WHERE n = ?", (n,))
            remove_unused(self._engine, cursor, [doc for (doc,) in old])
            _forget(self._engine, cursor, row[0])
            touched(cursor, "members")
        return True

    def cancel_rebuild(self, id_: str) -> None:
        """The old vectors stay."""
        with self._engine.write() as cursor:
            _clear(self._engine, cursor, number(cursor, "stores", "vector store", id_))

    def _one(self, cursor: Cursor, id_: str) -> VectorStore:
        row = cursor.one(f"{_SELECT} WHERE s.id = ?", (id_,))
        if row is None:
            raise NotThere("vector store", id_)
        return self._record(cursor, row)

    def _record(self, cursor: Cursor, row: Row) -> VectorStore:
        id_, name, embedder, created, last_active, metadata, settings, data_class, after, expired, next_, n, *rest = row
        told, brought = rest
        rebuilt, failed = _rebuilt(cursor, n) if next_ is not None else (0, 0)
        used = cursor.one("SELECT sum(d.bytes) FROM members m JOIN docs d ON d.n = m.doc WHERE m.store = ?", (n,))
        return VectorStore(
            id_,
            name,
            embedder_of(cursor, embedder),
            created,
            last_active,
            orjson.loads(metadata),
            orjson.loads(settings),
            data_class,
            after,
            expired=bool(expired),
            usage_bytes=int((used or (0,))[0] or 0),
            counts=counts(cursor, "store", n),
            next_embedder=embedder_of(cursor, next_) if next_ is not None else None,
            rebuilt=rebuilt,
            rebuild_failed=failed,
            description=told,
            classes=classes_of(data_class) | classes_of(brought),
        )


def _keep_class(cursor: Cursor, n: int) -> None:
    if cursor.one("SELECT 1 FROM members WHERE store = ? LIMIT 1", (n,)):
        data_class, classes = cursor.one("SELECT data_class, classes FROM stores WHERE n = ?", (n,)) or ("", "")
        kept = classes_text(classes_of(classes) | classes_of(data_class))
        cursor.run("UPDATE stores SET classes = ? WHERE n = ?", (kept, n))


def _rebuilt(cursor: Cursor, n: int) -> tuple[int, int]:
    """Of a store's completed files: with their new vectors, and those that cannot have any."""
    asked = "SELECT count(next_doc), sum(next_failed) FROM members WHERE store = ? AND status = 'completed'"
    done, failed = cursor.one(asked, (n,)) or (0, 0)
    return int(done), int(failed or 0)


def _clear(engine: Engine, cursor: Cursor, n: int) -> None:
    """Ends a rebuild without its result."""
    row = cursor.one("SELECT next_embedder FROM stores WHERE n = ?", (n,))
    made = cursor.all("SELECT next_doc FROM members WHERE store = ? AND next_doc IS NOT NULL", (n,))
    cursor.run("UPDATE members SET next_doc = NULL, next_failed = 0 WHERE store = ?", (n,))
    # What was read once may be begun as often as a new file, at each rebuild.
    cursor.run("UPDATE members SET owner = '', until = 0, attempts = 0 WHERE store = ? AND status = 'completed'", (n,))
    cursor.run("UPDATE stores SET next_embedder = NULL WHERE n = ?", (n,))
    remove_unused(engine, cursor, [doc for (doc,) in made])
    _forget(engine, cursor, *(row or ()))


def _forget(engine: Engine, cursor: Cursor, *embedders: int | None) -> None:
    """Those embedders that no store and no document has any more, with the place for their vectors."""
    for n in embedders:
        used = (
            "SELECT 1 FROM stores WHERE embedder = ? OR next_embedder = ? UNION ALL "
            "SELECT 1 FROM docs WHERE embedder = ? LIMIT 1"
        )
        if n is not None and cursor.one(used, (n, n, n)) is None:
            engine.drop(cursor, n)
            cursor.run("DELETE FROM embedders WHERE n = ?", (n,))
