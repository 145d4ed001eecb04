"""What every store of documents does, on every database."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from backends.errors import InvalidRequest
from rag.filters import parse
from rag.store.base import open_store
from rag.store.engine import Engine
from rag.store.errors import NotThere, OtherEmbedder, StoreTrouble, Superseded
from rag.store.records import Counts, Cut, Entry, LastError
from rag.store.stores import AT_ONCE, Stores
from rag.types import Chunk
from tests.rag.stores import OTHER, SMALL, Site, chunks, index, nearest, put, texts, vector, work


def test_a_file_is_kept_as_it_came(site: Site) -> None:
    content = bytes(range(256)) * 9_000
    file = site.store.files.add("a\0b.bin", "assistants", [content[:5], content[5:]])
    assert file.size == len(content)
    assert file.sha256 == hashlib.sha256(content).hexdigest()
    assert b"".join(site.store.files.content(file.id)) == content
    assert site.store.files.get(file.id) == file
    assert file.name == "a\N{REPLACEMENT CHARACTER}b.bin"


def test_the_same_content_is_kept_once_and_until_its_last_file_goes(site: Site) -> None:
    one, two = (site.store.files.add(name, "assistants", [b"same"]) for name in ("one", "two"))
    site.store.files.delete(one.id)
    assert b"".join(site.store.files.content(two.id)) == b"same"
    site.store.files.delete(two.id)
    with pytest.raises(NotThere):
        site.store.files.get(two.id)
    assert site.store.files.add("three", "assistants", [b"same"]).size == 4


def test_a_file_that_breaks_off_is_not_there(site: Site) -> None:
    def broken() -> object:
        yield b"first"
        raise RuntimeError("the line went dead")

    with pytest.raises(RuntimeError):
        site.store.files.add("half", "assistants", broken())  # type: ignore[arg-type]
    assert not site.store.files.list(Cut()).items


def test_files_are_removed_when_their_time_is_over(site: Site) -> None:
    short, long = (site.store.files.add("a", "batch", [b"same"], expires_after=after) for after in (3600.0, 7200.0))
    store = site.store.stores.create("manuals", SMALL)
    site.store.members.add(store.id, Entry(short.id))
    assert short.expires == short.created + 3600
    site.clock.now += 3599
    assert site.store.files.expire() == 0
    site.clock.now += 1
    assert site.store.files.expire() == 1
    assert [one.id for one in site.store.files.list(Cut()).items] == [long.id]
    assert site.store.stores.get(store.id).counts.total == 0
    assert b"".join(site.store.files.content(long.id)) == b"same"


def test_many_files_are_listed_at_once(site: Site) -> None:
    for n in range(102):
        site.store.files.add(f"{n}", "assistants", [b"same"])
    assert len(site.store.files.list(Cut(limit=10_000)).items) == 102
    with pytest.raises(InvalidRequest, match="10000"):
        site.store.files.list(Cut(limit=10_001))


def test_lists_come_in_pages_both_ways(site: Site) -> None:
    ids = [site.store.files.add(f"{n}", "assistants", [b"%d" % n]).id for n in range(7)]
    site.store.files.add("other", "batch", [b"other"])

    def cut(**how: object) -> tuple[list[int], bool]:
        page = site.store.files.list(Cut(**how), "assistants")  # type: ignore[arg-type]
        return [ids.index(one.id) for one in page.items], page.has_more

    assert cut(limit=3) == ([6, 5, 4], True)
    assert cut(limit=3, after=ids[4]) == ([3, 2, 1], True)
    assert cut(limit=3, after=ids[1]) == ([0], False)
    assert cut(limit=3, order="asc", after=ids[1]) == ([2, 3, 4], True)
    assert cut(limit=2, before=ids[2]) == ([4, 3], True)
    assert cut(limit=10, before=ids[2], after=ids[5]) == ([4, 3], False)
    assert cut(limit=2, order="asc", before=ids[1]) == ([0], False)
    with pytest.raises(InvalidRequest):
        cut(limit=0)
    with pytest.raises(InvalidRequest):
        site.store.stores.list(Cut(limit=101))
    with pytest.raises(NotThere):
        cut(after="file-unknown")


def test_a_vector_store_is_described_changed_and_deleted(site: Site) -> None:
    stores = site.store.stores
    made = stores.create(
        "pumps", SMALL, metadata={"site": "7"}, description="All of them", data_class="internal", expires_after=3
    )
    assert made.description == "All of them"
    assert (made.status, made.embedder, made.counts, made.usage_bytes) == ("completed", SMALL, Counts(), 0)
    assert made.expires_at == site.clock.now + 3 * 86_400
    changed = stores.modify(made.id, {"name": "seals", "metadata": {}, "expires_after": None, "settings": {"w": 0.5}})
    assert changed == replace(made, name="seals", metadata={}, expires_after=None, settings={"w": 0.5})
    assert stores.get(made.id) == changed
    assert list(stores.list(Cut()).items) == [changed]
    with pytest.raises(InvalidRequest):
        stores.modify(made.id, {"embedder": 2})
    file = put(site.store, made.id, "pump")
    work(site.store)
    stores.delete(made.id)
    with pytest.raises(NotThere):
        stores.get(made.id)
    assert site.store.files.get(file.file_id).id == file.file_id


def test_a_store_that_is_not_used_expires(site: Site) -> None:
    stores = site.store.stores
    used, unused, ever = (stores.create("", SMALL, expires_after=days) for days in (1, 1, None))
    put(site.store, unused.id, "pump")
    site.clock.now += 80_000
    stores.touch(used.id)
    assert stores.expire() == []
    site.clock.now += 10_000
    assert stores.expire() == [unused.id]
    assert [stores.get(one.id).status for one in (used, unused, ever)] == ["completed", "expired", "completed"]
    assert stores.get(unused.id).counts.total == 0
    with pytest.raises(InvalidRequest, match="expired"):
        put(site.store, unused.id, "pump")


def test_a_file_is_searched_by_vector_and_by_words(site: Site) -> None:
    store = site.store.stores.create("", SMALL)
    for text in texts(30):
        put(site.store, store.id, text)
    assert site.store.stores.get(store.id).status == "in_progress"
    assert site.store.search.find(store.id, text="pump", vector=vector("pump"), embedder=SMALL).vectors == []
    assert work(site.store) == 30
    record = site.store.stores.get(store.id)
    assert record.counts == Counts(completed=30)
    assert record.usage_bytes > 30 * 100
    found = site.store.search.find(store.id, text="P-17/A", vector=vector("gasket"), embedder=SMALL, limit=5)
    assert len(found.vectors) == 5
    by_words = site.store.search.pieces(store.id, [hit.id for hit in found.words])
    assert by_words
    assert all("P-17/A" in one.chunk.text for one in by_words)
    assert "gasket" in nearest(site.store, store.id, "gasket")[0]
    scores = [hit.score for hit in found.vectors]
    assert scores == sorted(scores, reverse=True)
    assert 0.5 < scores[0] <= 1.0001


def test_pieces_carry_their_place_and_their_neighbours(site: Site) -> None:
    store = site.store.stores.create("", SMALL)
    text = "".join(f"Line {n} of the manual of the pump.\n" for n in range(20))
    file = put(site.store, store.id, text, {"lang": "en"})
    assert site.store.search.of_file(store.id, file.file_id) == []
    work(site.store)
    every = site.store.search.of_file(store.id, file.file_id)
    assert [one.chunk for one in every] == chunks(text)
    assert [one.place for one in every] == list(range(len(every)))
    assert every[0].file.attributes == {"lang": "en"}
    around = site.store.search.neighbours(every[5], 2, 1)
    assert around == every[3:7]
    assert site.store.search.neighbours(every[0], 3, 0) == every[:1]
    assert site.store.search.neighbours(every[-1], 0, 3) == every[-1:]


def test_filters_come_before_the_best_are_taken(site: Site) -> None:
    store = site.store.stores.create("", SMALL)
    for n in range(60):
        put(site.store, store.id, f"The pump number {n}.", {"year": float(2000 + n), "new": n == 59})
    work(site.store)
    wanted = parse({"type": "and", "filters": [{"type": "lt", "key": "year", "value": 2003}]})
    found = site.store.search.find(store.id, text="pump", vector=vector("pump"), embedder=SMALL, wanted=wanted, limit=3)
    for path in (found.vectors, found.words):
        pieces = site.store.search.pieces(store.id, [hit.id for hit in path], wanted)
        assert sorted(one.file.attributes["year"] for one in pieces) == [2000.0, 2001.0, 2002.0]
    one = parse({"type": "eq", "key": "new", "value": True})
    assert nearest(site.store, store.id, "valve", wanted=one) == ["The pump number 59."]
    assert nearest(site.store, store.id, "valve", wanted=parse({"type": "eq", "key": "new", "value": 1})) == []
    file = put(site.store, store.id, "The pump number 60.")
    work(site.store)
    site.store.members.set_attributes(store.id, file.file_id, {"new": True})
    assert sorted(nearest(site.store, store.id, "valve", wanted=one)) == ["The pump number 59.", "The pump number 60."]


def test_the_same_content_costs_nothing_again(site: Site) -> None:
    one, two = (site.store.stores.create("", SMALL) for _ in range(2))
    put(site.store, one.id, "The pump.", size=40)
    work(site.store)
    for store, how, reused in ((one, {"size": 40}, True), (two, {"size": 40}, True), (two, {"size": 80}, False)):
        put(site.store, store.id, "The pump.", **how)
        claim = site.store.work.claim("worker", 60.0)
        assert claim is not None
        assert site.store.index.reuse(claim) is reused
        if not reused:
            site.store.work.fail(claim, LastError("server_error", "not now"))
    site.store.stores.delete(one.id)
    assert nearest(site.store, two.id, "pump") == ["The pump."]
    assert site.store.stores.get(two.id).counts == Counts(completed=1, failed=1)


def test_two_files_of_the_same_content_are_told_apart_by_the_filter(site: Site) -> None:
    store = site.store.stores.create("", SMALL)
    for lang in ("en", "de"):
        put(site.store, store.id, "The pump.", {"lang": lang})
    work(site.store)
    found = site.store.search.find(store.id, vector=vector("pump"), embedder=SMALL)
    assert len(found.vectors) == 1
    for lang in ("en", "de"):
        wanted = parse({"type": "eq", "key": "lang", "value": lang})
        (piece,) = site.store.search.pieces(store.id, [found.vectors[0].id], wanted)
        assert piece.file.attributes == {"lang": lang}
    assert not site.store.search.pieces(store.id, [1], parse({"type": "eq", "key": "lang", "value": "fr"}))


def test_stores_do_not_see_each_other(site: Site) -> None:
    mine, other = (site.store.stores.create("", SMALL) for _ in range(2))
    put(site.store, mine.id, "The pump.")
    put(site.store, other.id, "The pump and its seal.")
    work(site.store)
    assert nearest(site.store, mine.id, "seal") == ["The pump."]
    found = site.store.search.find(mine.id, text="seal")
    assert found.words == []
    hit = site.store.search.find(other.id, text="seal").words[0]
    assert site.store.search.pieces(mine.id, [hit.id]) == []


def test_what_is_removed_is_no_longer_found(site: Site) -> None:
    store = site.store.stores.create("", SMALL)
    files = [put(site.store, store.id, text) for text in texts(6)]
    work(site.store)
    assert any("P-2/A" in text for text in nearest(site.store, store.id, "valve"))
    site.store.members.remove(store.id, files[2].file_id)
    site.store.files.delete(files[3].file_id)
    left = " ".join(nearest(site.store, store.id, "valve"))
    assert "P-2/A" not in left
    assert "P-3/A" not in left
    assert "P-4/A" in left
    assert site.store.search.find(store.id, text="P-2/A P-3/A").words == []
    assert site.store.stores.get(store.id).counts.total == 4
    with pytest.raises(NotThere):
        site.store.members.get(store.id, files[3].file_id)


def test_another_embedders_vectors_are_refused(site: Site) -> None:
    store = site.store.stores.create("", SMALL)
    put(site.store, store.id, "The pump.")
    claim = site.store.work.claim("worker", 60.0)
    assert claim is not None
    for embedder in (OTHER, replace(SMALL, sha256="c" * 64)):
        made = np.zeros((1, embedder.dimensions), np.float32)
        with pytest.raises(OtherEmbedder, match="outstation reindex"):
            site.store.index.finish(claim, embedder, chunks("The pump."), made)
        with pytest.raises(OtherEmbedder):
            site.store.search.find(store.id, vector=made[0], embedder=embedder)
    for wrong in (np.zeros((2, 8), np.float32), np.zeros((1, 8)), np.full((1, 8), np.nan, np.float32)):
        with pytest.raises(InvalidRequest):
            site.store.index.finish(claim, SMALL, chunks("The pump."), wrong)
    assert site.store.members.get(store.id, claim.file.file_id).status == "in_progress"


def test_a_rebuild_goes_over_at_once_and_the_old_one_serves_until_then(site: Site) -> None:
    store = site.store.stores.create("", SMALL)
    for text in texts(4):
        put(site.store, store.id, text)
    work(site.store)
    before = nearest(site.store, store.id, "pump")
    assert site.store.stores.begin_rebuild(store.id, OTHER).next_embedder == OTHER
    for _ in range(3):
        claim = site.store.work.claim("worker", 60.0)
        assert claim is not None
        assert (claim.rebuild, claim.embedder) == (True, OTHER)
        index(site.store, claim)
    record = site.store.stores.get(store.id)
    assert (record.rebuilt, record.rebuild_failed, record.counts.completed) == (3, 0, 4)
    assert not site.store.stores.finish_rebuild(store.id)
    assert nearest(site.store, store.id, "pump") == before
    late = put(site.store, store.id, "The motor and its filter.")
    assert work(site.store) == 3  # the last old one; the late one for the embedder that serves, and for the next
    assert site.store.members.get(store.id, late.file_id).status == "completed"
    assert nearest(site.store, store.id, "motor filter")[0] == "The motor and its filter."
    assert site.store.stores.finish_rebuild(store.id)
    record = site.store.stores.get(store.id)
    assert (record.embedder, record.next_embedder, record.counts) == (OTHER, None, Counts(completed=5))
    with pytest.raises(OtherEmbedder):
        nearest(site.store, store.id, "pump")
    found = site.store.search.find(store.id, text="pump", vector=vector("motor filter", 12), embedder=OTHER)
    assert site.store.search.pieces(store.id, [found.vectors[0].id])[0].chunk.text == "The motor and its filter."
    assert found.words
    assert not site.store.stores.finish_rebuild(store.id)


def test_each_rebuild_counts_attempts_anew(site: Site) -> None:
    """Work on a file ends after some attempts; a store may be rebuilt as often as one likes."""
    store = site.store.stores.create("", SMALL)
    put(site.store, store.id, "pump")
    work(site.store)
    for embedder in (OTHER, SMALL, OTHER, SMALL):
        site.store.stores.begin_rebuild(store.id, embedder)
        claim = site.store.work.claim("worker", 60.0)
        assert claim is not None
        assert claim.file.attempts == 1
        index(site.store, claim)
        assert site.store.stores.finish_rebuild(store.id)


def test_a_rebuild_that_is_given_up_or_fails_loses_nothing(site: Site) -> None:
    store = site.store.stores.create("", SMALL)
    for text in texts(2):
        put(site.store, store.id, text)
    work(site.store)
    before = nearest(site.store, store.id, "pump")
    site.store.stores.begin_rebuild(store.id, OTHER)
    claim = site.store.work.claim("worker", 60.0)
    assert claim is not None
    site.store.stores.cancel_rebuild(store.id)
    with pytest.raises(Superseded):
        index(site.store, claim)
    assert site.store.work.claim("worker", 60.0) is None
    assert nearest(site.store, store.id, "pump") == before
    site.store.stores.begin_rebuild(store.id, OTHER)
    claim = site.store.work.claim("worker", 60.0)
    assert claim is not None
    site.store.work.fail(claim, LastError("server_error", "no"))
    record = site.store.stores.get(store.id)
    assert (record.rebuilt, record.rebuild_failed) == (0, 1)
    assert nearest(site.store, store.id, "pump") == before
    work(site.store)
    assert site.store.stores.finish_rebuild(store.id)
    assert site.store.stores.get(store.id).counts == Counts(completed=1, failed=1)


def test_work_is_claimed_by_one_and_by_another_when_it_died(site: Site) -> None:
    store = site.store.stores.create("", SMALL)
    put(site.store, store.id, "The pump.")
    first = site.store.work.claim("first", 60.0)
    assert first is not None
    assert site.store.work.claim("second", 60.0) is None
    site.clock.now += 50
    site.store.work.renew(first, 60.0)
    site.clock.now += 50
    assert site.store.work.claim("second", 60.0) is None
    site.clock.now += 11
    second = site.store.work.claim("second", 60.0)
    assert second is not None
    assert second.file.attempts == 2
    for late in (
        lambda: index(site.store, first),
        lambda: site.store.work.renew(first, 60.0),
        lambda: site.store.work.fail(first, LastError("server_error", "")),
        lambda: site.store.index.reuse(first),
    ):
        with pytest.raises(Superseded):
            late()
    site.store.work.release(second)
    third = site.store.work.claim("third", 60.0)
    assert third is not None
    site.store.work.fail(third, LastError("invalid_file", "The PDF is broken."))
    failed = site.store.members.get(store.id, third.file.file_id)
    assert (failed.status, failed.last_error) == ("failed", LastError("invalid_file", "The PDF is broken."))
    site.store.members.add(store.id, Entry(third.file.file_id))
    assert work(site.store) == 1
    assert site.store.members.get(store.id, third.file.file_id).last_error is None


def test_a_batch_is_counted_and_cancelled(site: Site) -> None:
    store = site.store.stores.create("", SMALL)
    files = [site.store.files.add("", "assistants", [text.encode()]) for text in texts(5)]
    with pytest.raises(NotThere):
        site.store.members.add_batch(store.id, [Entry(files[0].id), Entry("file-unknown")])
    assert site.store.stores.get(store.id).counts.total == 0
    batch = site.store.members.add_batch(store.id, [Entry(file.id) for file in files])
    assert (batch.status, batch.counts) == ("in_progress", Counts(in_progress=5))
    for _ in range(2):
        claim = site.store.work.claim("worker", 60.0)
        assert claim is not None
        index(site.store, claim)
    claim = site.store.work.claim("worker", 60.0)
    assert claim is not None
    cancelled = site.store.members.cancel_batch(store.id, batch.id)
    assert (cancelled.status, cancelled.counts) == ("cancelled", Counts(completed=2, cancelled=3))
    assert site.store.members.batch(store.id, batch.id) == cancelled
    with pytest.raises(Superseded):
        index(site.store, claim)
    done = site.store.members.list(store.id, Cut(), "completed", batch.id)
    assert [one.file_id for one in done.items] == [files[1].id, files[0].id]
    assert {one.batch_id for one in done.items} == {batch.id}
    other = site.store.stores.create("", SMALL)
    with pytest.raises(NotThere):
        site.store.members.batch(other.id, batch.id)


def test_another_process_sees_all_and_its_writes_are_seen(site: Site, request: pytest.FixtureRequest) -> None:
    key = 'it\'s a "key"' if "encrypted" in request.node.name else ""
    store = site.store.stores.create("", SMALL)
    put(site.store, store.id, "The pump.")
    work(site.store)
    assert len(nearest(site.store, store.id, "pump")) == 1
    other = open_store(site.where, key, site.clock)
    try:
        file = put(other, store.id, "The pump and the seal.")
        work(other)
        assert len(nearest(other, store.id, "pump")) == 2
        assert len(nearest(site.store, store.id, "pump")) == 2
        other.members.remove(store.id, file.file_id)
        assert nearest(site.store, store.id, "seal") == ["The pump."]
    finally:
        other.close()


def test_threads_search_while_others_write(site: Site) -> None:
    store = site.store.stores.create("", SMALL)
    for text in texts(40):
        put(site.store, store.id, text)
    wrong: list[str] = []
    done = threading.Event()

    def search() -> None:
        seen = 0
        while not done.is_set():
            now = len(nearest(site.store, store.id, "pump", limit=200))
            if now < seen:
                wrong.append(f"{now} pieces after {seen}")
            seen = now

    readers = [threading.Thread(target=search) for _ in range(2)]
    for reader in readers:
        reader.start()
    workers = [threading.Thread(target=work, args=(site.store,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    done.set()
    for reader in readers:
        reader.join()
    assert not wrong
    assert site.store.stores.get(store.id).counts == Counts(completed=40)


def test_no_question_is_a_command(site: Site) -> None:
    store = site.store.stores.create("", SMALL)
    put(site.store, store.id, 'A "pump" is NOT P-101/A; café.')
    work(site.store)
    for text in (
        '"',
        'pump"',
        "NOT",
        "pump AND",
        "body:pump",
        "pump*",
        "(",
        "'; --",
        "\0pump",
        "& | !",
        "<->",
        ":*",
        "\\",
    ):
        site.store.search.find(store.id, text=text)
    for text in ('"pump"', "P-101/A?", "PUMP", "cafe", "zzz pump", "not"):
        assert site.store.search.find(store.id, text=text).words, text
    assert not site.store.search.find(store.id, text="P-101/B").words
    assert not site.store.search.find(store.id, text="").words


@pytest.mark.parametrize("long", ["a" * 5_000, "é" * 1_500, f"http://site.example/{'x' * 5_000}/P-7"])
def test_a_very_long_word_is_no_trouble(site: Site, long: str) -> None:
    id_ = site.store.stores.create("", SMALL).id
    file = site.store.files.add("manual.txt", "assistants", [b"long"])
    site.store.members.add(id_, Entry(file.id))
    claim = site.store.work.claim("worker", 60.0)
    assert claim
    text = f"valve {long} gasket"
    site.store.index.finish(claim, SMALL, [Chunk(text, 0, len(text), 9)], np.stack([vector(text)]))
    for question in (long, f"gasket {long}", f"valve {long} gasket"):
        found = site.store.search.find(id_, text=question, vector=vector(text), embedder=SMALL)
        assert len(found.vectors) == 1
        assert bool(found.words) or question == long
    assert site.store.search.find(id_, text=f"gasket {long}").words


def test_text_that_no_database_can_keep_keeps_its_places(site: Site) -> None:
    store = site.store.stores.create("", SMALL)
    put(site.store, store.id, "x")
    claim = site.store.work.claim("worker", 60.0)
    assert claim is not None
    odd = replace(chunks("pump\0seal\ud800")[0], headings=("a\0",))
    site.store.index.finish(claim, SMALL, [odd], np.stack([vector("x")]))
    (piece,) = site.store.search.of_file(store.id, claim.file.file_id)
    assert piece.chunk.text == "pump\N{REPLACEMENT CHARACTER}seal?"
    assert site.store.search.find(store.id, text="seal").words


def test_an_empty_file_completes(site: Site) -> None:
    store = site.store.stores.create("", SMALL)
    file = put(site.store, store.id, "")
    put(site.store, store.id, "The pump.")
    assert work(site.store) == 2
    assert site.store.members.get(store.id, file.file_id).status == "completed"
    assert nearest(site.store, store.id, "pump") == ["The pump."]


def test_a_large_store_is_deleted_in_steps_and_others_write_in_between(site: Site) -> None:
    large, small = (site.store.stores.create("", SMALL) for _ in range(2))
    for text in texts(3 * AT_ONCE):
        put(site.store, large.id, text)
    work(site.store)
    seen: list[Counts] = []

    def write() -> None:
        for n in range(200):
            put(site.store, small.id, f"The pump {n}.")
            try:
                seen.append(site.store.stores.get(large.id).counts)
            except NotThere:
                return

    other = threading.Thread(target=write)
    other.start()
    site.store.stores.delete(large.id)
    other.join()
    assert all(one.completed % AT_ONCE == 0 for one in seen), "a part of a step was seen"
    work(site.store)
    assert set(nearest(site.store, small.id, "pump", limit=500)) == {
        f"The pump {n}." for n in range(site.store.stores.get(small.id).counts.total)
    }
    with pytest.raises(NotThere):
        site.store.stores.get(large.id)


def test_a_deletion_that_broke_off_is_gone_on_with(site: Site) -> None:
    store = site.store.stores.create("", SMALL)
    for text in texts(AT_ONCE + 3):
        put(site.store, store.id, text)
    work(site.store)
    writes = 0

    class Dying:
        def __getattr__(self, name: str) -> object:
            nonlocal writes
            writes += name == "write"
            if writes > 2:
                raise KeyboardInterrupt
            return getattr(site.store._engine, name)

    with pytest.raises(KeyboardInterrupt):
        Stores(cast(Engine, Dying()), site.clock).delete(store.id)
    left = site.store.stores.get(store.id)
    assert (left.status, left.counts) == ("expired", Counts(completed=3))
    assert len({piece.split(":")[0] for piece in nearest(site.store, store.id, "pump", limit=500)}) > 0
    assert site.store.stores.expire() == [store.id]
    assert site.store.stores.get(store.id).counts == Counts()
    assert site.store.stores.expire() == []
    site.store.stores.delete(store.id)
    assert not site.store.stores.list(Cut()).items


def test_the_rarest_of_the_words_decides(site: Site) -> None:
    store = site.store.stores.create("", SMALL)
    for n in range(30):
        put(site.store, store.id, f"The pump number {n} of the plant." + " It leaks." * (n == 7))
    work(site.store)
    for how in ({"text": "leaks"}, {"text": "the pump of which leaks", "vector": vector("pump"), "embedder": SMALL}):
        found = site.store.search.find(store.id, limit=5, **how)
        (best,) = site.store.search.pieces(store.id, [found.words[0].id])
        assert "leaks" in best.chunk.text
        scores = [hit.score for hit in found.words]
        assert scores == sorted(scores, reverse=True)
        assert len(found.words) <= 5


def test_no_way_through_another_store_takes_a_data_class_away(site: Site) -> None:
    stores, members = site.store.stores, site.store.members
    secret = stores.create("", SMALL, data_class="manuals", declared=frozenset({"secret"})).id
    open_ = stores.create("", SMALL, data_class="open").id
    file = site.store.files.add("a.txt", "assistants", [b"pump"])
    assert stores.pinned(open_).classes == {"open"}
    members.add(secret, Entry(file.id))
    members.add(open_, Entry(file.id))
    assert stores.pinned(open_).classes == {"open", "manuals", "secret"}
    members.remove(open_, file.id)
    assert stores.pinned(open_).classes == {"open", "manuals", "secret"}
    assert stores.get(open_).classes == stores.pinned(open_).classes


def test_what_is_declared_with_a_file_or_its_adding_counts(site: Site) -> None:
    stores, members = site.store.stores, site.store.members
    id_ = stores.create("", SMALL, data_class="open").id
    health = site.store.files.add("a.txt", "assistants", [b"pump"], declared=frozenset({"health"}))
    plain = site.store.files.add("b.txt", "assistants", [b"valve"])
    members.add_batch(id_, [Entry(health.id)], frozenset({"site"}))
    assert stores.pinned(id_).classes == {"open", "health", "site"}
    other = stores.create("", SMALL, data_class="open").id
    members.add(other, Entry(plain.id))
    assert stores.pinned(other).classes == {"open"}


def test_a_store_with_files_keeps_the_class_that_it_had(site: Site) -> None:
    stores = site.store.stores
    id_ = stores.create("", SMALL, data_class="secret").id
    assert stores.modify(id_, {"data_class": "open"}).classes == {"open"}
    put(site.store, id_, "pump")
    assert stores.modify(id_, {"data_class": "documents"}).classes == {"open", "documents"}
    assert stores.get(id_).data_class == "documents"


def test_the_same_content_of_another_kind_is_read_anew(site: Site) -> None:
    id_ = site.store.stores.create("", SMALL).id
    for name in ("a.txt", "b.html", "c.txt"):
        file = site.store.files.add(name, "assistants", [b"<p>pump</p>"])
        site.store.members.add(id_, Entry(file.id))
    read = []
    while claim := site.store.work.claim("worker", 60.0):
        if not site.store.index.reuse(claim):
            read.append(claim.file.name)
            index(site.store, claim)
    assert read == ["a.txt", "b.html"]


def test_the_smallest_file_need_not_wait_for_a_large_one(site: Site) -> None:
    id_ = site.store.stores.create("", SMALL).id
    for text in ("pump " * 900, "valve " * 500, "seal"):
        put(site.store, id_, text)
    sizes = []
    for n, smallest in enumerate((True, False, True)):
        claim = site.store.work.claim(f"worker {n}", 60.0, smallest=smallest)
        assert claim is not None
        sizes.append(site.store.files.get(claim.file.file_id).size)
    assert sizes == [4, 4500, 3000]


def test_who_reads_from_a_closed_store_is_told_and_does_not_wait_for_ever(site: Site) -> None:
    store = open_store(site.where, 'it\'s a "key"' if _encrypted(site) else "")
    store.close()
    said: list[str] = []

    def read() -> None:
        with pytest.raises(StoreTrouble, match="closed"):
            store.stores.rebuilding()
        said.append("told")

    threads = [threading.Thread(target=read, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert said == ["told"] * 8


def _encrypted(site: Site) -> bool:
    return "://" not in site.where and not Path(site.where).read_bytes().startswith(b"SQLite format 3")
