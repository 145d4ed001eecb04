"""The bench of documents: its checks notice what they look for, and its figures are what they say."""

from __future__ import annotations

import asyncio
import email
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
import sqlite_vec

from bench import documents_writer
from bench.documents import SCENARIOS, parse
from bench.documents_kill import MADE_UP, STRATEGY
from bench.documents_load import Asking, beside
from bench.documents_report import DEFAULT, Ingested, Killed, Rounds, Searched, loaded, tables
from bench.documents_site import Wire, form, renewed
from bench.documents_whole import Sent, Whole
from rag.ingest import chunking
from rag.store.base import open_store
from rag.store.records import Entry
from tests.onnx.conftest import find_folder

pytestmark = pytest.mark.anyio
MANUAL = "# Pump P-{0}\n\nThe seal of unit {0} leaks.\n\n## Motor\n\nReplace the bearing after {0},000 hours.\n"
FILES = 3


@pytest.fixture
async def filled(tmp_path: Path) -> tuple[Path, Sent, Whole]:
    """A store whose files were read in by the process that is killed in the bench; here it is not."""
    where, folder = tmp_path / "documents.db", find_folder("bge-small-en-v1.5")
    store = open_store(str(where))
    sent = Sent(store.stores.create("", MADE_UP).id)
    for n in range(FILES):
        content = (MANUAL.format(n + 7) * (n + 1) * 20).encode()
        file = store.files.add(f"{n}.md", "assistants", [content])
        store.members.add(sent.store, Entry(file.id, {}, chunking(STRATEGY)))
        sent.files[file.id] = (f"{n}.md", content)
        sent.members.add(file.id)
    store.close()
    await documents_writer.main(str(where), str(tmp_path / "work"), str(folder))
    return where, sent, Whole(folder, STRATEGY, MADE_UP)


def broken(where: Path, *statements: str) -> None:
    """Changed behind the store's back."""
    db = apsw.Connection(str(where))
    db.enable_load_extension(True)
    db.load_extension(sqlite_vec.loadable_path())
    for statement in statements:
        db.execute(statement)
    db.close()


async def test_a_whole_store_is_whole_and_what_is_missing_twice_or_changed_is_noticed(
    filled: tuple[Path, Sent, Whole],
) -> None:
    where, sent, whole = filled
    found = Killed()
    assert whole.check(where, sent, found) == FILES
    assert found == Killed()

    broken(where, "UPDATE vectors_1 SET vector = zeroblob(1536) WHERE id = (SELECT max(id) FROM vectors_1)")
    assert whole.check(where, sent, changed := Killed()) == FILES
    assert (changed.lost, changed.doubled, changed.half) == (0, 0, 1)

    broken(where, "DELETE FROM words WHERE rowid = (SELECT min(id) FROM chunks)")
    assert whole.check(where, sent, half := Killed()) == FILES
    assert half.half == 2

    broken(where, "INSERT INTO docs (sha256, chunking, embedder, pieces, bytes) VALUES ('0', '{}', 1, 0, 0)")
    whole.check(where, sent, twice := Killed())
    assert twice.doubled == 1

    broken(where, "UPDATE chunks SET body = body || '.' WHERE id = (SELECT min(id) FROM chunks)")
    assert whole.check(where, sent, Killed()) == FILES - 1


async def test_an_acknowledged_file_that_is_gone_or_failed_is_lost(filled: tuple[Path, Sent, Whole]) -> None:
    where, sent, whole = filled
    store = open_store(str(where))
    gone, failed, _ = sent.files
    store.files.delete(gone)
    store.close()
    broken(where, f"UPDATE members SET status = 'failed' WHERE file = (SELECT n FROM files WHERE id = '{failed}')")
    found = Killed()
    whole.check(where, sent, found)
    assert found.lost == 2


async def test_what_was_never_acknowledged_may_be_there_or_not(filled: tuple[Path, Sent, Whole]) -> None:
    where, sent, whole = filled
    sent.members.clear()
    store = open_store(str(where))
    store.members.remove(sent.store, next(iter(sent.files)))
    store.close()
    found = Killed()
    assert whole.check(where, sent, found) == FILES - 1
    assert found == Killed()


def test_a_document_is_new_each_time_and_a_page_says_the_same() -> None:
    marks = [renewed("a.md", b"# A", mark) for mark in ("1", "2", "1")]
    assert marks[0] == marks[2] != marks[1]
    assert all(one.startswith(b"# A\n\nRevision ") for one in marks)
    assert renewed("a.html", b"<p>A</p>", "1").startswith(b"<p>A</p>\n<!-- ")
    assert renewed("a.html", b"A", "1") != renewed("b.html", b"A", "1")


def test_an_upload_is_a_form_with_the_very_bytes() -> None:
    content = b"\r\n--edge\r\n\0\xff"
    head, _, body = form("manual.md", content).partition(b"\r\n\r\n")
    fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    assert int(fields["Content-Length"]) == len(body)
    read = email.message_from_bytes(f"Content-Type: {fields['Content-Type']}\r\n\r\n".encode() + body)
    parts: Any = read.get_payload()
    purpose, file = parts
    assert purpose.get_payload() == "assistants"
    assert (file.get_filename(), file.get_payload(decode=True)) == ("manual.md", content)


async def test_an_answer_that_nobody_waited_for_is_not_the_next_one() -> None:
    asked, late, handlers = asyncio.Event(), asyncio.Event(), []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.append(asyncio.current_task())
        path = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode()
        if path == "/slow":
            asked.set()
            await late.wait()
        writer.write(f'HTTP/1.1 200 OK\r\ncontent-length: {len(path) + 2}\r\n\r\n"{path}"'.encode())
        await reader.read()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        wire = Wire(server.sockets[0].getsockname()[1])
        slow = asyncio.create_task(wire.get("/slow"))
        await asked.wait()
        slow.cancel()
        await asyncio.gather(slow, return_exceptions=True)
        late.set()
        assert await wire.get("/next") == "/next"
        wire.close()
        await asyncio.wait([one for one in handlers if one])


class Nothing:
    """In place of a gateway: searches find something, and so many files are left after each."""

    def __init__(self, left: list[int]) -> None:
        self._left: Iterator[int] = iter(left)
        self.begun = 0

    async def search(self, store: str, question: str, *, rerank: bool) -> dict[str, Any]:
        return {"data": [question]}

    def running(self) -> Nothing:
        return self

    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *_: object) -> None: ...

    async def begin(self) -> None:
        self.begun += 1

    async def left(self) -> int:
        return next(self._left)

    async def finished(self) -> int:
        return 4


async def test_a_search_after_which_no_file_was_in_progress_does_not_count() -> None:
    site: Any = Nothing([5, 0, 3])
    found = await beside(site, "vs", Asking(["a", "b"], pause=(0.0, 0.0)), site)
    assert (len(found.times), found.left, found.late, found.finished, site.begun) == (2, [5, 3], 1, 4, 1)


def rounds() -> Rounds:
    """As if measured."""
    return Rounds(
        ingest=[Ingested(100, 5.0, 10.0, 4.0), Ingested(100, 4.0, 5.0, 4.0), Ingested(100, 2.0, 4.0, 1.0)],
        idle={DEFAULT: [Searched([0.1] * 20)]},
        beside={DEFAULT: [Searched([0.15] * 10, [9, 3], 1, 2), Searched([0.15] * 10, [7], 0, 3)]},
        killed={"gateways": Killed(20, 60, during=40, ended=60)},
        files=9,
        tokens=20_000,
        way=(4, 2),
    )


def test_the_figures_of_the_tables() -> None:
    ingest, search, kill = (table.rows for table in tables(rounds()))
    assert ingest[0] == ["the embedder alone, 4 texts a request, 2 at once", "25.0 (25.0–100.0)", "–"]
    assert ingest[1] == ["ingest", "25.0 (20.0–50.0)", "0.80 (0.50–1.00)"]
    assert ingest[2] == ["ingest, uploads included", "20.0 (10.0–25.0)", "0.40 (0.25–0.80)"]
    assert search[0][:2] == [DEFAULT, "20 / 20"]
    assert search[0][-3:] == ["1.50", "3–9", "5"]
    assert kill[0] == ["gateways", "20", "60", "40", "0", "0", "0", "0", "60 of 60"]


def test_what_was_measured_in_parts_is_added_up(tmp_path: Path) -> None:
    measured = rounds()
    measured.ingest[0].alone = math.nan
    measured.keep(tmp_path / "out" / "documents.json")
    again = loaded(tmp_path / "out" / "documents.json")
    assert math.isnan(again.ingest[0].alone)
    measured.ingest[0].alone = again.ingest[0].alone = 0.0
    assert again == measured
    assert loaded(tmp_path / "none.json") == Rounds()
    assert Killed(2, 3, lost=1).and_also(Killed(1, 4, half=2)) == Killed(3, 7, lost=1, half=2)


@pytest.mark.parametrize(("flags", "expected"), [([], (3, 36, 200, 20)), (["--quick"], (1, 5, 3, 2))])
def test_how_much_is_measured(flags: list[str], expected: tuple[int, ...]) -> None:
    args = parse(flags)
    assert (args.rounds, args.searches, args.kills, args.gateways) == expected
    assert args.scenario == SCENARIOS
