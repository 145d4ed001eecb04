"""Conversations in the database of responses: items in their order, which responses go on from and add to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from gateway.responses.items import PREFIXES, Item, new_id

if TYPE_CHECKING:
    import apsw

SCHEMA: Final = """
-- used: Unix time (s) of the last item that was added; declared, local_only: what any request said of its data.
CREATE TABLE conversations (
    id TEXT PRIMARY KEY, key TEXT NOT NULL, created REAL NOT NULL, used REAL NOT NULL, metadata BLOB NOT NULL,
    declared TEXT NOT NULL, local_only INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX conversations_used ON conversations (used);
CREATE TABLE conversation_items (
    conversation TEXT NOT NULL, place INTEGER NOT NULL, id TEXT NOT NULL, item BLOB NOT NULL,
    PRIMARY KEY (conversation, place)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX conversation_items_id ON conversation_items (conversation, id);
CREATE INDEX conversation_items_by_id ON conversation_items (id);
"""
_COLUMNS: Final = "id, key, created, metadata, declared, local_only"
MOST_BYTES: Final = 64 << 20
"""Of one conversation: all of it is in memory when a response goes on from it, several times over."""


class TooLongError(Exception):
    """More than `MOST_BYTES` of one conversation would come together."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """One, without its items.

    Attributes:
        created: Unix time (s).
        declared: data classes that any of its requests declared; `local_only`: one of them had to stay on the box.
    """

    id: str
    key: str
    created: float
    metadata: Mapping[str, str]
    declared: frozenset[str] = frozenset()
    local_only: bool = False

    def object(self) -> dict[str, Any]:
        """As it goes out."""
        return {
            "id": self.id,
            "object": "conversation",
            "created_at": int(self.created),
            "metadata": self.metadata,
        }


@dataclass(frozen=True, slots=True)
class Addition:
    """What is added to a conversation.

    Attributes:
        at: Unix time (s).
        declared, local_only: what its request said of its data.
    """

    items: Sequence[Item]
    at: float
    declared: frozenset[str] = frozenset()
    local_only: bool = False


class Found(NamedTuple):
    """An item, and what was said of its data by the requests that it was part of."""

    item: Item
    declared: frozenset[str]
    local_only: bool


class Conversations:
    """The tables, as the one thread of `Store` sees them. What is done is on the disk when a call returns."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db

    def create(self, made: Conversation, items: Sequence[Item]) -> None:
        """With its first items."""
        row = (made.id, made.key, made.created, made.created, orjson.dumps(made.metadata))
        data = (" ".join(sorted(made.declared)), int(made.local_only))
        with self._db:
            self._db.execute("INSERT INTO conversations VALUES (?,?,?,?,?,?,?)", (*row, *data))
            self.add(made.id, made.key, Addition(items, made.created))

    def get(self, id_: str, key: str) -> Conversation | None:
        """The conversation of that key."""
        asked = f"SELECT {_COLUMNS} FROM conversations WHERE id = ? AND key = ?"  # noqa: S608
        row: Any = self._db.execute(asked, (id_, key)).fetchone()
        if row is None:
            return None
        _, _, created, metadata, declared, local_only = row
        return Conversation(id_, key, created, orjson.loads(metadata), frozenset(declared.split()), bool(local_only))

    def describe(self, id_: str, key: str, metadata: Mapping[str, str]) -> bool:
        """Other metadata. False: there is none of that key."""
        asked = "UPDATE conversations SET metadata = ? WHERE id = ? AND key = ?"
        self._db.execute(asked, (orjson.dumps(metadata), id_, key))
        return bool(self._db.changes())

    def delete(self, id_: str, key: str) -> bool:
        """With its items, from the file as well. False: there was none of that key."""
        with self._db:
            self._db.execute("DELETE FROM conversations WHERE id = ? AND key = ?", (id_, key))
            if not self._db.changes():
                return False
            self._db.execute("DELETE FROM conversation_items WHERE conversation = ?", (id_,))
        forget(self._db)
        return True

    def check(self, id_: str, more: int = 0) -> None:
        """Raises `TooLongError` if so many bytes more are too many."""
        asked = "SELECT coalesce(sum(length(item)), 0) FROM conversation_items WHERE conversation = ?"
        ((size,),) = self._db.execute(asked, (id_,)).fetchall()
        if int(size) + more > MOST_BYTES:  # type: ignore[arg-type]
            raise TooLongError

    def whole(self, id_: str, key: str, *, to_go_on: bool = False) -> tuple[Conversation, list[Item]] | None:
        """With its items, the oldest first. Raises `TooLongError`: it cannot be gone on from."""
        found = self.get(id_, key)
        if found and to_go_on:
            self.check(id_)
        rows = self._db.execute("SELECT item FROM conversation_items WHERE conversation = ? ORDER BY place", (id_,))
        return (found, [orjson.loads(item) for (item,) in rows]) if found else None

    def extend(self, id_: str, key: str, addition: Addition) -> list[Item] | None:
        """As `add`, by hand. Raises `TooLongError`."""
        if self.get(id_, key) is not None:
            self.check(id_, len(orjson.dumps(addition.items)))
        return self.add(id_, key, addition)

    def add(self, id_: str, key: str, addition: Addition) -> list[Item] | None:
        """Adds items at its end. An id that it has already becomes another one. None: there is no such conversation.

        Returns:
            The items as they are kept.
        """
        with self._db:
            found = self.get(id_, key)
            if found is None:
                return None
            kept = self._with_own_ids(id_, addition.items)
            asked = "SELECT coalesce(max(place), 0) FROM conversation_items WHERE conversation = ?"
            ((last,),) = self._db.execute(asked, (id_,)).fetchall()
            rows = [(id_, int(last) + at, item["id"], orjson.dumps(item)) for at, item in enumerate(kept, 1)]  # type: ignore[arg-type]
            self._db.executemany("INSERT INTO conversation_items VALUES (?,?,?,?)", rows)
            declared = " ".join(sorted(found.declared | addition.declared))
            self._db.execute(
                "UPDATE conversations SET used = ?, declared = ?, local_only = ? WHERE id = ?",
                (addition.at, declared, int(found.local_only or addition.local_only), id_),
            )
        return kept

    def _with_own_ids(self, id_: str, items: Sequence[Item]) -> list[Item]:
        kept: dict[str, Item] = {}
        asked = "SELECT 1 FROM conversation_items WHERE conversation = ? AND id = ?"
        for item in items:
            taken = item["id"] in kept or self._db.execute(asked, (id_, item["id"])).fetchone()
            own = new_id(PREFIXES[item["type"]]) if taken else item["id"]
            kept[own] = {**item, "id": own}
        return list(kept.values())

    def remove(self, id_: str, key: str, item: str) -> Conversation | None:
        """Removes one of its items, from the file as well. None: there is none of that id, or no such conversation."""
        with self._db:
            found = self.get(id_, key)
            if found is None:
                return None
            self._db.execute("DELETE FROM conversation_items WHERE conversation = ? AND id = ?", (id_, item))
            if not self._db.changes():
                return None
        forget(self._db)
        return found

    def item(self, item: str, key: str) -> Found | None:
        """An item of any conversation of that key, by its id; what holds for any that has it holds for it."""
        rows: list[Any] = self._db.execute(
            "SELECT i.item, c.declared, c.local_only FROM conversation_items i "
            "JOIN conversations c ON c.id = i.conversation WHERE i.id = ? AND c.key = ? ORDER BY c.used DESC",
            (item, key),
        ).fetchall()
        if not rows:
            return None
        declared = frozenset(" ".join(row[1] for row in rows).split())
        return Found(orjson.loads(rows[0][0]), declared, any(row[2] for row in rows))

    def remove_unused(self, since: float, most: int) -> int:
        """Removes those that nothing was added to since then, the oldest first, `most` at once. Returns how many."""
        asked = "SELECT id FROM conversations WHERE used < ? ORDER BY used LIMIT ?"
        old = [(id_,) for (id_,) in self._db.execute(asked, (since, most))]
        with self._db:
            self._db.executemany("DELETE FROM conversations WHERE id = ?", old)
            self._db.executemany("DELETE FROM conversation_items WHERE conversation = ?", old)
        return len(old)


def forget(db: apsw.Connection) -> None:
    """Leaves nothing in the file of what was removed."""
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
