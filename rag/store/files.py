"""Files and what they contain: each content is kept once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator

from rag.store.engine import Cursor, Engine, Row
from rag.store.errors import NotThere
from rag.store.index import remove_members
from rag.store.parts import classes_text, kept, new_id, number, page
from rag.store.records import Cut, FileRecord, Page

PART_BYTES = 1 << 20
MOST_LISTED = 10_000
_SELECT = (
    "SELECT f.id, f.name, f.purpose, f.size, c.sha256, f.created, f.expires "
    "FROM files f JOIN contents c ON c.n = f.content"
)


class Files:
    """The files. Its methods raise `StoreTrouble`, and `NotThere` where an id is not known.

    Args:
        clock: Unix time (s).
    """

    def __init__(self, engine: Engine, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._clock = clock

    def add(
        self,
        name: str,
        purpose: str,
        content: Iterable[bytes],
        expires_after: float | None = None,
        declared: frozenset[str] = frozenset(),
    ) -> FileRecord:
        """Keeps a file; on the disk when this returns. Others wait to write meanwhile: let `content` be at hand.

        Args:
            expires_after: seconds after which `expire` removes it; None: never.
            declared: data classes, which every store that it comes into has from then on.
        """
        id_, name, digest, size = new_id("file-"), kept(name), hashlib.sha256(), 0
        with self._engine.write() as cursor:
            # Until all is read its hash is not known: it is the id that no other content can have.
            made = cursor.one("INSERT INTO contents (sha256) VALUES (?) RETURNING n", (id_,))
            assert made is not None
            for place, part in enumerate(_parts(content)):
                digest.update(part)
                size += len(part)
                cursor.run("INSERT INTO content_parts (content, place, data) VALUES (?, ?, ?)", (made[0], place, part))
            same = self._same(cursor, made[0], digest.hexdigest())
            created = self._clock()
            expires = None if expires_after is None else created + expires_after
            cursor.run(
                "INSERT INTO files (id, name, purpose, size, created, content, expires, classes) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (id_, name, purpose, size, created, same, expires, classes_text(declared)),
            )
        return FileRecord(id_, name, purpose, size, digest.hexdigest(), created, expires)

    def _same(self, cursor: Cursor, made: int, sha256: str) -> int:
        """The number of the content with that hash: the one that is there already, or the one just made."""
        there = cursor.one("SELECT n FROM contents WHERE sha256 = ?", (sha256,))
        if there is None:
            cursor.run("UPDATE contents SET sha256 = ? WHERE n = ?", (sha256, made))
            return made
        _remove_content(cursor, made)
        return int(there[0])

    def get(self, id_: str) -> FileRecord:
        """One of them."""
        with self._engine.read() as cursor:
            row = cursor.one(f"{_SELECT} WHERE f.id = ?", (id_,))
        if row is None:
            raise NotThere("file", id_)
        return _record(row)

    def list(self, cut: Cut, purpose: str | None = None) -> Page[FileRecord]:
        """Those of a purpose, or all."""
        conditions = [("f.purpose = ?", purpose)] if purpose is not None else []
        with self._engine.read() as cursor:
            place = lambda id_, param: number(cursor, "files", "file", id_, param)  # noqa: E731
            return page(cursor, (_SELECT, "f.n"), conditions, cut, place, _record, MOST_LISTED)

    def content(self, id_: str) -> Iterator[bytes]:
        """What it contains, in parts of at most 1 MiB. A file that is removed meanwhile raises `NotThere`."""
        self.get(id_)
        asked = (
            "SELECT p.data FROM files f JOIN content_parts p ON p.content = f.content WHERE f.id = ? AND p.place = ?"
        )
        count = "SELECT count(*) FROM files f JOIN content_parts p ON p.content = f.content WHERE f.id = ?"
        with self._engine.read() as cursor:
            total = (cursor.one(count, (id_,)) or (0,))[0]
        for place in range(total):
            with self._engine.read() as cursor:
                row = cursor.one(asked, (id_, place))
            if row is None:
                raise NotThere("file", id_)
            yield bytes(row[0])

    def delete(self, id_: str) -> None:
        """The file, what it contains if no other file does, and its pieces in every store."""
        with self._engine.write() as cursor:
            self._remove(cursor, number(cursor, "files", "file", id_))

    def expire(self) -> int:
        """Removes the files whose time is over, each by itself. Returns how many."""
        due, removed = "SELECT n FROM files WHERE expires <= ? ORDER BY expires LIMIT 1", 0
        while True:
            with self._engine.read() as cursor:
                if cursor.one(due, (self._clock(),)) is None:
                    return removed
            with self._engine.write() as cursor:
                row = cursor.one(due, (self._clock(),))
                if row is not None:
                    self._remove(cursor, row[0])
                    removed += 1

    def _remove(self, cursor: Cursor, n: int) -> None:
        remove_members(self._engine, cursor, "file", n)
        row = cursor.one("DELETE FROM files WHERE n = ? RETURNING content", (n,))
        assert row is not None
        if cursor.one("SELECT 1 FROM files WHERE content = ?", row) is None:
            _remove_content(cursor, row[0])


def _remove_content(cursor: Cursor, n: int) -> None:
    cursor.run("DELETE FROM content_parts WHERE content = ?", (n,))
    cursor.run("DELETE FROM contents WHERE n = ?", (n,))


def _record(row: Row) -> FileRecord:
    return FileRecord(*row)


def _parts(content: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in parts of `PART_BYTES`, so that how they came decides nothing."""
    held = bytearray()
    for some in content:
        held += some
        while len(held) >= PART_BYTES:
            yield bytes(memoryview(held)[:PART_BYTES])
            del held[:PART_BYTES]
    if held:
        yield bytes(held)
