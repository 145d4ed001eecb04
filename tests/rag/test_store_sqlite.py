"""What SQLite alone has: a key, permissions, versions, the scan in memory beside sqlite-vec's."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import cast

import apsw
import numpy as np
import pytest

from rag.filters import parse
from rag.store.base import DocumentStore, open_store
from rag.store.engine import SHIFT, Asked, Cursor
from rag.store.errors import StoreTrouble
from rag.store.records import Cut
from rag.store.sqlite import SqliteEngine
from rag.store.words import BUDGET, COUNTED, MOST_ALONE, MOST_WORDS, Counted, Counts, chosen, words_of
from tests.rag.stores import SMALL, index, nearest, put, texts, vector, work


def test_with_a_key_nothing_can_be_read_without_it(tmp_path: Path) -> None:
    path = tmp_path / "documents.db"
    store = open_store(str(path), "correct")
    put(store, store.stores.create("", SMALL).id, "The pump of the hidden plant.")
    work(store)
    store.close()
    assert all(b"hidden" not in one.read_bytes() for one in tmp_path.iterdir())
    assert path.stat().st_mode & 0o777 == 0o600
    for key in ("", "wrong"):
        with pytest.raises(StoreTrouble, match="its key is another one"):
            open_store(str(path), key)
    store = open_store(str(path), "correct")
    assert len(store.stores.list(Cut()).items) == 1
    store.close()


def test_what_is_wrong_with_the_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database" * 1_000)
    with pytest.raises(StoreTrouble, match="not a database"):
        open_store(str(tmp_path / "text.db"))
    with pytest.raises(StoreTrouble):
        open_store("/proc/documents/documents.db")
    engine = SqliteEngine(tmp_path / "newer.db")
    with engine.write() as cursor:
        cursor.run("PRAGMA user_version = 99")
    engine.close()
    with pytest.raises(StoreTrouble, match="newer version"):
        open_store(str(tmp_path / "newer.db"))


@pytest.mark.parametrize("key", ["", "secret"])
def test_what_was_deleted_is_given_back_to_the_disk(tmp_path: Path, key: str) -> None:
    path = tmp_path / "documents.db"
    store = open_store(str(path), key)
    kept, large = (store.files.add(name, "assistants", [b"x" * (1 << 20)] * n) for name, n in (("a", 2), ("b", 40)))
    store.files.delete(large.id)
    before = path.stat().st_size
    assert before > 40 << 20
    for _ in range(3):
        store.tidy()
    assert path.stat().st_size < 8 << 20
    assert not path.with_name("documents.db-wal").stat().st_size
    assert len(b"".join(store.files.content(kept.id))) == 2 << 20
    store.close()


def test_a_file_of_an_earlier_version_is_served_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "documents.db"
    db = apsw.Connection(str(path))
    db.execute("PRAGMA page_size = 8192; PRAGMA journal_mode = WAL; CREATE TABLE earlier (n)").fetchall()
    db.close()
    store = open_store(str(path))
    store.files.delete(store.files.add("a", "assistants", [b"x" * (1 << 20)] * 10).id)
    store.tidy()
    assert store.files.add("a", "assistants", [b"kept"]).size == 4
    store.close()


def test_tidying_waits_for_no_reader(tmp_path: Path) -> None:
    engine = SqliteEngine(tmp_path / "documents.db")
    store = DocumentStore(engine)
    with engine.read() as cursor:
        assert cursor.one("SELECT count(*) FROM files") == (0,)
        store.files.delete(store.files.add("a", "assistants", [b"x" * (1 << 20)] * 10).id)
        store.tidy()
        assert cursor.one("SELECT count(*) FROM files") == (0,)
    assert store.files.add("a", "assistants", [b"kept"]).size == 4
    store.close()


def test_a_file_that_may_not_grow_is_a_full_disk(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "documents.db"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, hard))
    try:
        with pytest.raises(StoreTrouble, match="the disk is full; free some space"):
            store.files.add("a", "assistants", [b"x" * (1 << 20)] * 10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert store.files.add("a", "assistants", [b"kept"]).size == 4
    store.close()


def test_without_memory_for_it_sqlite_vec_finds_the_same(tmp_path: Path) -> None:
    engines = [SqliteEngine(tmp_path / "documents.db", scan_bytes=size) for size in (1 << 30, 0)]
    stores = [DocumentStore(engine) for engine in engines]
    id_ = stores[0].stores.create("", SMALL).id
    for n, text in enumerate(texts(200)):
        put(stores[0], id_, text, {"n": float(n)})
    work(stores[0])
    for raw in (None, {"type": "lt", "key": "n", "value": 50}, {"type": "lt", "key": "n", "value": -1}):
        wanted = parse(raw) if raw else None
        found = []
        for engine in engines:
            with engine.read() as cursor:
                hits = engine.search(cursor, Asked(1, 1, wanted, "", vector("pump seal"), 10)).vectors
                found.append([(hit.id, round(hit.score, 5)) for hit in hits])
        assert found[0] == found[1]
        assert len(found[0]) == (0 if raw and raw["value"] == -1 else 10)
    for store in stores:
        store.close()


def test_the_mean_is_taken_again_as_the_store_grows(tmp_path: Path) -> None:
    """The first file alone would say little of what is to come; and removed rows are given back."""
    engine = SqliteEngine(tmp_path / "documents.db")
    store = DocumentStore(engine)
    id_ = store.stores.create("", SMALL).id
    files = [put(store, id_, text) for text in texts(60)]
    claim = store.work.claim("worker", 60.0)
    assert claim is not None
    index(store, claim)
    nearest(store, id_, "pump")
    work(store)
    nearest(store, id_, "pump")
    with engine.read() as cursor:
        view = engine.live(1, 8).view(cursor)
        rows = cursor.all("SELECT vector FROM vectors_1")
    assert view is not None
    every = np.frombuffer(b"".join(row[0] for row in rows), np.float32).reshape(-1, 8)
    assert (view.rows, view.dead) == (len(every), 0)
    assert np.allclose(view.mean, every.mean(axis=0), atol=1e-6)
    for file in files[:20]:
        store.members.remove(id_, file.file_id)
    nearest(store, id_, "pump")
    store.members.remove(id_, files[20].file_id)
    nearest(store, id_, "pump")
    with engine.read() as cursor:
        after = engine.live(1, 8).view(cursor)
    assert after is not None
    assert after.rows - after.dead < len(every) * 0.7
    assert after.rows < len(every), "rows of removed files are never given back"
    store.close()


def test_each_word_is_asked_for_once() -> None:
    assert words_of('The "pump"\0P-101/A * - pump pump') == ["The", '"pump"', "P-101/A", "pump"]
    assert len(words_of(" ".join(map(str, range(1_000))))) == MOST_WORDS


def test_a_question_costs_no_more_than_its_budget() -> None:
    def rarest(found: dict[str, int], together: dict[str, int] | None = None) -> list[str]:
        counted = [Counted(text, rows) for text, rows in found.items()]
        return [one.text for one in chosen(counted, together.__getitem__ if together is not None else None)]

    assert rarest({"a": BUDGET + 1, "b": 10, "c": BUDGET - 5, "d": 0, "e": 3}) == ["e", "b"]
    assert rarest({"a": BUDGET + 1, "b": MOST_ALONE + 1}) == ["a"]
    assert rarest({}) == []
    many = MOST_ALONE + 1
    assert rarest({"a": many, "b": many}) == [], "the vectors find it"
    assert rarest({"a": many}, {}) == ["a"]
    common = {"a": many + 2, "b": many, "c": many + 1}
    assert rarest(common, {"b AND c": 0, "b AND a": 7}) == ["b AND a"]
    assert rarest(common, {"b AND c": 7}) == ["b AND c"]


def test_common_words_are_counted_once_until_the_store_has_grown() -> None:
    asked: list[str] = []
    sizes = {"SELECT sum": (100_000, None), "SELECT min": (11, 20)}

    class Known:
        def one(self, sql: str, _: object = ()) -> tuple[object, ...]:
            return sizes[sql[:10]]

    def count(_: Cursor, phrase: str, limit: int) -> tuple[int, int | None]:
        asked.append(phrase)
        return {"rare": (7, 12 << SHIFT), "option": (9_000, 20 << SHIFT), "the": (limit, 15 << SHIFT)}[phrase]

    counts, cursor = Counts(count), cast(Cursor, Known())
    for _ in range(2):
        assert counts.total(cursor) == 100_000
        assert [counts.of(cursor, word) for word in ("rare", "option", "the")] == [7, 9_000, 2 * COUNTED]
    assert asked == ["rare", "option", "the", "rare"]
    sizes["SELECT sum"] = (110_000, None)
    counts.total(cursor)
    counts.of(cursor, "the")
    assert len(asked) == 4
    sizes["SELECT sum"] = (120_000, None)
    counts.total(cursor)
    counts.of(cursor, "the")
    assert asked[4:] == ["the"]
