"""Files into the store: whole or not at all, whatever goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from backends.errors import Unavailable
from rag.chunks import Strategy
from rag.extract import Extractor
from rag.ingest import MOST_ATTEMPTS, Ingest, chunking, strategy_of
from rag.store.base import DocumentStore, open_store
from rag.store.errors import NotThere
from rag.store.records import Claim, Counts, Cut, Entry, StoreFile
from tests.rag.ingest_writer import Counting, Threads
from tests.rag.stores import OTHER, SMALL, vector

pytestmark = pytest.mark.anyio
FILES = Path(__file__).parent / "files"
MANUAL = b"# Pump P-101/A\n\nThe seal leaks.\n\n## Motor\n\nReplace the bearing after 8,000 hours.\n"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DocumentStore]:
    opened = open_store(str(tmp_path / "documents.db"))
    yield opened
    opened.close()


@pytest.fixture
async def ingest(store: DocumentStore, tmp_path: Path) -> AsyncIterator[Ingest]:
    async with Extractor() as extractor:
        yield Ingest(Threads(store), extractor, tmp_path / "work")


def put(store: DocumentStore, id_: str, name: str, content: bytes, strategy: Strategy | None = None) -> str:
    file = store.files.add(name, "assistants", [content])
    store.members.add(id_, Entry(file.id, {}, chunking(strategy or Strategy(400, 0, by_structure=True))))
    return file.id


def read(store: DocumentStore, id_: str, file_id: str) -> StoreFile:
    return store.members.get(id_, file_id)


@pytest.mark.parametrize("strategy", [Strategy(), Strategy(400, 0, by_structure=True), Strategy(100, 50)])
def test_how_a_file_was_cut_is_kept_with_it(strategy: Strategy) -> None:
    assert strategy_of(chunking(strategy)) == strategy


async def test_a_manual_is_found_by_page_and_by_words(store: DocumentStore, ingest: Ingest) -> None:
    id_ = store.stores.create("", SMALL).id
    file = put(store, id_, "manual.pdf", (FILES / "manual.pdf").read_bytes(), Strategy(100, 0, by_structure=True))
    embeds = Counting()
    assert await ingest.one(embeds)
    assert not await ingest.one(embeds)
    pieces = [piece.chunk for piece in store.search.of_file(id_, file)]
    assert read(store, id_, file).status == "completed"
    assert {piece.page for piece in pieces} >= {1, 2}
    # What is embedded of a piece begins with what it stands under.
    assert sorted(embeds.texts) == sorted("\n".join([" > ".join(p.headings), p.text]).lstrip("\n") for p in pieces)
    some = pieces[-1]
    found = store.search.find(id_, text=some.text, vector=vector(some.text), embedder=SMALL)
    assert found.words and found.vectors


async def test_the_same_content_costs_nothing_again(store: DocumentStore, ingest: Ingest) -> None:
    id_ = store.stores.create("", SMALL).id
    embeds = Counting()
    first = put(store, id_, "a.md", MANUAL)
    assert await ingest.one(embeds)
    before = list(embeds.texts)
    second, other = put(store, id_, "b.md", MANUAL), store.stores.create("", SMALL).id
    third = put(store, other, "c.md", MANUAL)
    assert await ingest.one(embeds)
    assert await ingest.one(embeds)
    assert embeds.texts == before
    assert [read(store, i, f).status for i, f in ((id_, first), (id_, second), (other, third))] == ["completed"] * 3


async def test_a_bad_file_says_why_and_the_rest_goes_on(store: DocumentStore, ingest: Ingest) -> None:
    id_ = store.stores.create("", SMALL).id
    bad = {
        "password.pdf": ((FILES / "password.pdf").read_bytes(), "invalid_file", "password"),
        "broken.pdf": ((FILES / "manual.pdf").read_bytes()[:700], "invalid_file", "damaged"),
        "notes.txt": (bytes(range(256)) * 20, "unsupported_file", "not text"),
        "empty.txt": (b"", "invalid_file", "empty"),
        "pump.zip": (b"PK\x05\x06" + b"\0" * 18, "unsupported_file", "archive"),
        "manual.docx": ((FILES / "manual.pdf").read_bytes(), "invalid_file", ".pdf"),
    }
    ids = {name: put(store, id_, name, content) for name, (content, _, _) in bad.items()}
    good = put(store, id_, "good.md", MANUAL)
    embeds = Counting()
    while await ingest.one(embeds):
        pass
    for name, (_, code, word) in bad.items():
        error = read(store, id_, ids[name]).last_error
        assert error is not None
        assert (error.code, word in error.message) == (code, True), error
        assert error.message.endswith("."), "a sentence"
    assert read(store, id_, good).status == "completed"
    assert store.stores.get(id_).counts == Counts(completed=1, failed=len(bad))


async def test_a_file_waits_for_its_embedder(store: DocumentStore, ingest: Ingest) -> None:
    id_ = store.stores.create("", SMALL).id
    file = put(store, id_, "a.md", MANUAL)
    embeds = Counting()
    embeds.error = Unavailable("It is loading.")
    for _ in range(MOST_ATTEMPTS + 2):
        with pytest.raises(Unavailable):
            await ingest.one(embeds)
    assert read(store, id_, file).status == "in_progress"
    embeds.error = None
    assert await ingest.one(embeds)
    assert read(store, id_, file).status == "completed"


async def test_a_defect_of_ours_ends_in_an_error_and_not_in_a_loop(store: DocumentStore, ingest: Ingest) -> None:
    id_ = store.stores.create("", SMALL).id
    file = put(store, id_, "a.md", MANUAL)
    embeds = Counting()
    embeds.error = ZeroDivisionError("a defect")
    times = 0
    while await ingest.one(embeds):
        times += 1
    error = read(store, id_, file).last_error
    assert error is not None
    assert (error.code, times) == ("server_error", 3)


async def test_what_always_ends_the_gateway_is_given_up(store: DocumentStore, ingest: Ingest) -> None:
    id_ = store.stores.create("", SMALL).id
    file = put(store, id_, "a.md", MANUAL)
    fine = put(store, id_, "b.md", MANUAL + b"more")
    for n in range(MOST_ATTEMPTS):
        claim = store.work.claim(f"killed {n}", 0.0)
        assert claim is not None
        if claim.file.file_id == fine:
            store.work.release(claim)
    embeds = Counting()
    while await ingest.one(embeds):
        pass
    assert read(store, id_, fine).status == "completed", "it was begun first: nobody had begun it before"
    error = read(store, id_, file).last_error
    assert error is None or error.code == "server_error"


async def test_who_stops_gives_back_what_is_not_done(store: DocumentStore, ingest: Ingest) -> None:
    id_ = store.stores.create("", SMALL).id
    file = put(store, id_, "a.md", MANUAL)
    embeds = Counting(wait_s=60.0)
    task = asyncio.create_task(ingest.one(embeds))
    while read(store, id_, file).attempts == 0:
        await asyncio.sleep(0.01)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert await ingest.one(Counting())
    assert read(store, id_, file).status == "completed"


@pytest.mark.parametrize("how", ["file", "store", "member"])
async def test_a_file_that_is_removed_meanwhile_leaves_nothing(store: DocumentStore, tmp_path: Path, how: str) -> None:
    id_ = store.stores.create("", SMALL).id
    file = put(store, id_, "a.md", MANUAL)
    async with Extractor() as extractor:
        ingest = Ingest(Threads(store), extractor, tmp_path / "work", lease_s=0.3)
        task = asyncio.create_task(ingest.one(Counting(wait_s=60.0)))
        while read(store, id_, file).attempts == 0:
            await asyncio.sleep(0.01)
        if how == "file":
            store.files.delete(file)
        elif how == "store":
            store.stores.delete(id_)
        else:
            store.members.remove(id_, file)
        assert await task, "it is broken off as soon as it is noticed, and that is no error"
    with pytest.raises(NotThere):
        read(store, id_, file)
    assert not list((tmp_path / "work").iterdir())


async def test_what_is_secret_never_touches_the_disk(store: DocumentStore, tmp_path: Path) -> None:
    id_ = store.stores.create("", SMALL).id
    file = put(store, id_, "manual.pdf", (FILES / "manual.pdf").read_bytes())
    async with Extractor() as extractor:
        assert await Ingest(Threads(store), extractor, tmp_path / "work", secret=True).one(Counting())
    assert read(store, id_, file).status == "completed"
    assert not (tmp_path / "work").exists()


async def test_a_store_is_rebuilt_while_the_old_one_serves(store: DocumentStore, ingest: Ingest) -> None:
    id_ = store.stores.create("", SMALL).id
    files = [put(store, id_, f"{n}.md", MANUAL + str(n).encode()) for n in range(3)]
    embeds = Counting()
    while await ingest.one(embeds):
        pass
    store.stores.begin_rebuild(id_, OTHER)
    for _ in files:
        assert store.stores.get(id_).embedder == SMALL
        assert len(store.search.find(id_, vector=vector("seal"), embedder=SMALL).vectors) >= 3
        assert await ingest.one(embeds)
    assert not await ingest.one(embeds)
    assert store.stores.finish_rebuild(id_)
    assert store.stores.get(id_).embedder == OTHER
    assert len(store.search.find(id_, vector=vector("seal", 12), embedder=OTHER).vectors) >= 3


async def test_progress_is_told_while_a_file_is_read(store: DocumentStore, tmp_path: Path) -> None:
    id_ = store.stores.create("", SMALL).id
    put(store, id_, "manual.pdf", (FILES / "manual.pdf").read_bytes())
    told: list[tuple[int, int] | None] = []

    def tell(claim: Claim, progress: tuple[int, int] | None) -> None:
        told.append(progress)

    async with Extractor() as extractor:
        await Ingest(Threads(store), extractor, tmp_path / "work", told=tell).one(Counting())
    assert told[0] == (0, 0)
    assert told[-1] is None
    assert all(one is None or 0 <= one[0] <= one[1] for one in told)


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_no_file_is_lost_or_half_there_after_kills(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    where = request.getfixturevalue("postgres")() if kind == "postgres" else str(tmp_path / "documents.db")
    store = open_store(where)
    try:
        id_ = store.stores.create("", SMALL).id
        ids = [put(store, id_, f"{n}.md", MANUAL * (1 + n % 7) + str(n).encode()) for n in range(40)]
        for _ in range(6):
            _killed(where, tmp_path / "work", random.uniform(0.0, 0.4))
            for file in store.members.list(id_, Cut(limit=100)).items:
                assert bool(store.search.of_file(id_, file.file_id)) == (file.status == "completed")
        _finished(where, tmp_path / "work")
        assert store.stores.get(id_).counts == Counts(completed=len(ids))
        with store._engine.read() as cursor:
            assert cursor.one("SELECT count(*) FROM docs") == (len(ids),)
    finally:
        store.close()


def _process(where: str, work: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.rag.ingest_writer", where, str(work)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])


def _killed(where: str, work: Path, after_s: float) -> None:
    """Some time after it did its first file."""
    with _process(where, work) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(after_s)
        process.kill()


def _finished(where: str, work: Path) -> None:
    """A claim of one that was killed lasts half a second."""
    for _ in range(10):
        with _process(where, work) as process:
            assert process.stdout is not None
            done = process.stdout.read()
        if not done:
            return
        time.sleep(0.6)
