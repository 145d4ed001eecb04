"""The database of responses, as its one thread sees it. Texts of requests and answers are kept nowhere else."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from gateway.audit_store import Trouble
from gateway.responses.conversations import MOST_BYTES, SCHEMA, Addition, Conversations, Found, TooLongError, forget
from gateway.responses.items import Item, kept_of

VERSION: Final = 2
BUSY_MS: Final = 2_000
REMOVED_AT_ONCE: Final = 500
ENDED: Final = frozenset({"completed", "incomplete", "failed", "cancelled"})
_SCHEMA: Final = """
-- body: the response object; input: its own input items; declared, local_only: what the request said of its data;
-- answered: who did, and why; job: of one in the background that has not ended, what is to be run; runs: how often it
-- was begun.
CREATE TABLE responses (
    id TEXT PRIMARY KEY, key TEXT NOT NULL, created REAL NOT NULL, previous TEXT, status TEXT NOT NULL,
    body BLOB NOT NULL, input BLOB NOT NULL, declared TEXT NOT NULL, local_only INTEGER NOT NULL,
    answered BLOB NOT NULL, job BLOB, runs INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX responses_created ON responses (created);
CREATE INDEX responses_previous ON responses (previous) WHERE previous IS NOT NULL;
CREATE INDEX responses_open ON responses (created) WHERE status IN ('queued', 'in_progress');
CREATE TABLE items (id TEXT NOT NULL, response TEXT NOT NULL, PRIMARY KEY (id, response)) STRICT, WITHOUT ROWID;
CREATE INDEX items_response ON items (response);
"""
_SECOND: Final = f"""
ALTER TABLE responses ADD COLUMN conversation TEXT;
{SCHEMA}
PRAGMA user_version = 2;
"""
"""What the second version has besides."""
_COLUMNS: Final = (
    "id, key, created, previous, status, body, input, declared, local_only, answered, job, runs, conversation"
)
_BODY: Final = _COLUMNS.split(", ").index("body")
_CHAIN: Final = f"""
WITH RECURSIVE chain (id, depth) AS (
    SELECT ?1, 0 UNION ALL
    SELECT r.previous, chain.depth + 1 FROM responses r JOIN chain ON r.id = chain.id
    WHERE r.previous IS NOT NULL AND r.key = ?2 AND chain.depth < ?3
)
SELECT chain.id, {", ".join("r." + name for name in _COLUMNS.split(", "))}
FROM chain LEFT JOIN responses r ON r.id = chain.id AND r.key = ?2 ORDER BY chain.depth DESC
"""  # noqa: S608 - of constants


class MissingError(LookupError):
    """There is no such response, or it is another key's. `id`: which one."""

    def __init__(self, id_: str) -> None:
        super().__init__(id_)
        self.id = id_


@dataclass(frozen=True, slots=True)
class Kept:
    """A response with all that belongs to it.

    Attributes:
        key: name of the API key that it came with.
        created: Unix time (s).
        previous: id of the response that it went on from.
        body: the response object.
        input: its own input items, without those of the responses before it.
        declared: data classes that its request declared; `local_only`: it asked to stay on the box.
        answered: `route`, `reason` and `attempts` of the answer.
        job: of one that has not ended, what is to be run.
        conversation: id of the one that its items are added to.
    """

    id: str
    key: str
    created: float
    previous: str | None
    body: Mapping[str, Any]
    input: Sequence[Item]
    declared: frozenset[str] = frozenset()
    local_only: bool = False
    answered: Mapping[str, Any] = field(default_factory=dict)
    job: Mapping[str, Any] | None = None
    runs: int = 0
    conversation: str | None = None

    @property
    def status(self) -> str:
        found: str = self.body["status"]
        return found


class Store:
    """An open database. Belongs to one thread; raises `apsw.Error`, `OSError` or `Trouble` when something is wrong."""

    def __init__(self, path: Path) -> None:
        import apsw

        path.parent.mkdir(parents=True, exist_ok=True)
        # Made here so that nobody else can ever read it; SQLite gives its other files the same permissions.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        path.chmod(0o600)
        self._db = apsw.Connection(str(path))
        try:
            self._db.set_busy_timeout(BUSY_MS)
            # One gateway at a time: a second one would run the same jobs again. What is removed is overwritten. What is
            # committed survives the power, too.
            for pragma in (
                "locking_mode = EXCLUSIVE",
                "journal_mode = WAL",
                "synchronous = FULL",
                "secure_delete = ON",
                "journal_size_limit = 16777216",
            ):
                self._db.execute(f"PRAGMA {pragma}").fetchall()
            self.conversations = Conversations(self._db)
            self._prepare()
        except BaseException:
            self._db.close()
            raise

    def _prepare(self) -> None:
        ((version,),) = self._db.execute("PRAGMA user_version").fetchall()
        if version > VERSION:  # type: ignore[operator]
            raise Trouble("it was written by a newer version")
        with self._db:
            if version == 0:
                self._db.execute(_SCHEMA)
            if version < VERSION:  # type: ignore[operator]
                self._db.execute(_SECOND)

    def add(self, kept: Kept) -> None:
        """Keeps it. On the disk when this returns."""
        row = (
            kept.id,
            kept.key,
            kept.created,
            kept.previous,
            kept.status,
            orjson.dumps(kept.body),
            orjson.dumps(kept.input),
            " ".join(sorted(kept.declared)),
            int(kept.local_only),
            orjson.dumps(kept.answered),
            None if kept.job is None else orjson.dumps(kept.job),
            kept.runs,
            kept.conversation,
        )
        with self._db:
            self._db.execute(f"INSERT INTO responses VALUES ({','.join('?' * len(row))})", row)  # noqa: S608
            self._name([*kept.input, *kept.body["output"]], kept.id)
            self._tell_conversation(kept, kept.body, kept.created)

    def _tell_conversation(self, kept: Kept, body: Mapping[str, Any], at: float) -> None:
        """What was said is part of its conversation once it is whole, or cut. One that was deleted stays so."""
        if kept.conversation and body["status"] in ("completed", "incomplete"):
            said = Addition([*kept.input, *kept_of(body)], at, kept.declared, kept.local_only)
            self.conversations.add(kept.conversation, kept.key, said)

    def _name(self, items: Sequence[Item], response: str) -> None:
        rows = [(item["id"], response) for item in items if isinstance(item.get("id"), str)]
        self._db.executemany("INSERT OR IGNORE INTO items VALUES (?,?)", rows)

    def get(self, id_: str, key: str) -> Kept | None:
        """The response of that key."""
        row = self._db.execute(f"SELECT {_COLUMNS} FROM responses WHERE id = ? AND key = ?", (id_, key)).fetchone()  # noqa: S608
        return _kept(row) if row else None

    def chain(self, id_: str, key: str, most: int) -> list[Kept]:
        """It and those before it, the oldest first; no more than `most` + 1. Raises `MissingError`, `TooLongError`."""
        chain, size = [], 0
        for found, *row in self._db.execute(_CHAIN, (id_, key, most)):
            if row[0] is None:
                raise MissingError(str(found))
            size += len(row[_BODY]) + len(row[_BODY + 1])
            if size > MOST_BYTES:
                raise TooLongError
            chain.append(_kept(row))
        return chain

    def item(self, id_: str, key: str) -> Found | None:
        """An item of any response or conversation of that key, by its id; of the newest response that has it."""
        row = self._db.execute(
            "SELECT body, input, declared, local_only FROM responses "
            "WHERE key = ?2 AND id IN (SELECT response FROM items WHERE id = ?1) ORDER BY created DESC LIMIT 1",
            (id_, key),
        ).fetchone()
        if row is None:
            return self.conversations.item(id_, key)
        body, input_, declared, local_only = row
        items: list[Item] = [*orjson.loads(input_), *orjson.loads(body)["output"]]
        item = next((item for item in items if item.get("id") == id_), None)
        return Found(item, frozenset(declared.split()), bool(local_only)) if item else None

    def begin(self, id_: str) -> Kept | None:
        """One of the background begins, once more. None: it has ended, or is gone."""
        with self._db:
            self._db.execute(
                "UPDATE responses SET runs = runs + 1, status = 'in_progress', "
                "body = CAST(json_set(body, '$.status', 'in_progress') AS BLOB) "
                "WHERE id = ? AND status IN ('queued', 'in_progress')",
                (id_,),
            )
            if not self._db.changes():
                return None
            row = self._db.execute(f"SELECT {_COLUMNS} FROM responses WHERE id = ?", (id_,)).fetchone()  # noqa: S608
        return _kept(row) if row else None

    def end(self, id_: str, body: Mapping[str, Any], answered: Mapping[str, Any], at: float) -> bool:
        """One of the background has ended, at that Unix time (s). False: it had, already, or is gone; what is kept
        stays."""
        with self._db:
            self._db.execute(
                "UPDATE responses SET status = ?, body = ?, answered = ?, job = NULL "
                "WHERE id = ? AND status IN ('queued', 'in_progress')",
                (body["status"], orjson.dumps(body), orjson.dumps(answered), id_),
            )
            if not self._db.changes():
                return False
            self._name(body["output"], id_)
            row = self._db.execute(f"SELECT {_COLUMNS} FROM responses WHERE id = ?", (id_,)).fetchone()  # noqa: S608
            self._tell_conversation(_kept(row), body, at)
        return True

    def open(self) -> list[str]:
        """Ids of those in the background that have not ended, the oldest first."""
        rows = self._db.execute("SELECT id FROM responses WHERE status IN ('queued', 'in_progress') ORDER BY created")
        return [str(id_) for (id_,) in rows]

    def delete(self, id_: str, key: str) -> bool:
        """Removes it, from the file as well. False: there was none."""
        with self._db:
            self._db.execute("DELETE FROM responses WHERE id = ? AND key = ?", (id_, key))
            if not self._db.changes():
                return False
            self._db.execute("DELETE FROM items WHERE response = ?", (id_,))
        forget(self._db)
        return True

    @property
    def size(self) -> int:
        """Bytes in use: what was removed is used again."""
        pages, free, each = (
            int(self._db.execute(f"PRAGMA {name}").fetchall()[0][0])  # type: ignore[arg-type]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * each

    def remove_before(self, unix: float, most: int = REMOVED_AT_ONCE) -> int:
        """Removes the oldest of those from before that no younger one went on from, `most` at once; once there are
        none, conversations that nothing was added to since. Returns how many.

        Those that have not ended stay.
        """
        with self._db:
            old = [
                row[0]
                for row in self._db.execute(
                    "SELECT id FROM responses r WHERE created < ? AND status NOT IN ('queued', 'in_progress') "
                    "AND NOT EXISTS (SELECT 1 FROM responses n WHERE n.previous = r.id) "
                    "ORDER BY created LIMIT ?",
                    (unix, most),
                )
            ]
            self._db.executemany("DELETE FROM responses WHERE id = ?", [(id_,) for id_ in old])
            self._db.executemany("DELETE FROM items WHERE response = ?", [(id_,) for id_ in old])
        return len(old) or self.conversations.remove_unused(unix, most)

    def close(self) -> None:
        """Lets go of the file."""
        self._db.close()


def _kept(row: Any) -> Kept:
    id_, key, created, previous, _, body, input_, declared, local_only, answered, job, runs, conversation = row
    return Kept(
        id_,
        key,
        created,
        previous,
        orjson.loads(body),
        orjson.loads(input_),
        frozenset(declared.split()),
        bool(local_only),
        orjson.loads(answered),
        None if job is None else orjson.loads(job),
        runs,
        conversation,
    )
