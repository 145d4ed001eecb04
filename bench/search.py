"""`python -m bench.search`: what a search in the store of documents costs, and how much an exact one finds more.

    python -m bench.search --write                     stores of 100,000 and of 1,000,000 pieces, into RESULTS.md
    python -m bench.search fill PATH --rows 100000     a store of so many pieces (goes on where it was stopped)
    python -m bench.search measure PATH                its figures, from a process that holds nothing else
    python -m bench.search kill --times 200            processes that index, killed at any moment

A search takes milliseconds within one process, so this calls the product's own functions: it measures no network. The
stores stay in bench/out (0.2 and 2.2 GB), and are used again.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import orjson

from bench import search_report as report
from bench.search_data import CACHE, MODEL, ROOT, Floats, load
from bench.search_measure import BESIDE, measure
from rag.store.base import DocumentStore, open_store
from rag.store.records import Cut, Entry
from rag.store.sqlite import SqliteEngine
from rag.types import AttributeValue, Chunk, Embedder

RESULTS = ROOT / "bench" / "RESULTS.md"
EMBEDDER = Embedder("bge-small-en-v1.5", "0" * 64, 384)
PIECES = 50
"""Of a file."""
SIZES = (100_000, 1_000_000)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["all", "fill", "measure", "kill", "index", "beside"], default="all")
    parser.add_argument("path", nargs="?", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--seconds", type=float, default=1e9, help="stop filling after so long; call again to go on")
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--json", action="store_true", help="figures for another program")
    parser.add_argument("--write", action="store_true", help="write the tables into bench/RESULTS.md")
    asked = parser.parse_args(arguments)
    if asked.what not in ("all", "kill") and asked.path is None:
        parser.error("a path is needed")
    if asked.what == "all":
        everything(asked.rows, write=asked.write)
    elif asked.what == "kill":
        kill(asked.times)
    elif asked.what == "index":
        index(asked.path)
    elif asked.what == "beside":
        beside(asked.path)
    elif asked.what == "fill":
        fill(asked.path, asked.rows[0], asked.seconds)
    else:
        said = measure(asked.path).json()
        print(said.decode() if asked.json else _markdown([orjson.loads(said)]))
    return 0


def everything(sizes: Sequence[int], *, write: bool) -> None:
    """Fills a store of each size and measures it, each in a process of its own."""
    stores = []
    machine = report.machine()
    for rows in sizes:
        path = ROOT / "bench" / "out" / f"search-{rows}.db"
        for what in (["fill", str(path), "--rows", str(rows)], ["measure", str(path), "--json"]):
            command = [sys.executable, "-m", "bench.search", *what]
            said = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
        stores.append(orjson.loads(said))
    text = f"{machine}\n\n{_markdown(stores)}"
    print(text)
    if write:
        report.keep(RESULTS, text)


def _markdown(stores: Sequence[dict[str, object]]) -> str:
    return "\n".join(table.markdown() for table in report.tables(stores))


def fill(path: Path, rows: int, seconds: float) -> None:
    """Puts files into the store until it has so many pieces."""
    data = load(MODEL, CACHE)
    store = open_store(str(path))
    there = store.stores.list(Cut()).items
    id_ = there[0].id if there else store.stores.create("bench", EMBEDDER).id
    begun, done = time.monotonic(), store.stores.get(id_).counts.completed
    before = done
    while done < rows // PIECES and time.monotonic() - begun < seconds:
        _one_file(store, id_, done, *data.more(PIECES, done))
        done += 1
    took = time.monotonic() - begun
    print(f"{done * PIECES} of {rows} pieces; {(done - before) * PIECES / max(took, 1e-9):.0f} a second")
    store.close()


def _one_file(store: DocumentStore, id_: str, n: int, texts: Sequence[str], vectors: Floats) -> None:
    chosen = random.Random(n)
    file = store.files.add(f"{n}.txt", "assistants", [b"%d" % n])
    attributes: dict[str, AttributeValue] = {
        "year": 2000 + chosen.random() * 20,
        "lang": chosen.choice(["en", "de", "fr", "es"]),
    }
    store.members.add(id_, Entry(file.id, attributes))
    claim = store.work.claim(f"bench {os.getpid()}", 0.0)
    assert claim is not None
    chunks = [Chunk(text, at * 400, at * 400 + len(text), 100, ("Manual",)) for at, text in enumerate(texts)]
    store.index.finish(claim, EMBEDDER, chunks, vectors)


def kill(times: int) -> None:
    """Indexes in a process that is killed, again and again, then counts what is lost, doubled or half there."""
    with tempfile.TemporaryDirectory() as folder:
        path, chosen, halves, lost, done = Path(folder) / "documents.db", random.Random(), 0, 0, 0
        for _ in range(times):
            command = [sys.executable, "-m", "bench.search", "index", str(path)]
            with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
                _wait_for_more(path, process)
                time.sleep(chosen.random() * 0.1)
                process.kill()
            now, wrong = _whole(path)
            halves += wrong
            lost += now < done
            done = now
        print(f"killed {times} times while {done} files were indexed: {lost} times one was lost, {halves} half there")


def index(path: Path) -> None:
    """Indexes until it is killed, beginning with the file that was in progress then."""
    store = open_store(str(path))
    there = store.stores.list(Cut()).items
    id_ = there[0].id if there else store.stores.create("bench", EMBEDDER).id
    chosen = np.random.default_rng()
    while True:
        vectors = chosen.standard_normal((PIECES, 384)).astype(np.float32)
        n = store.stores.get(id_).counts.total
        _one_file(store, id_, n, [f"The pump {at} of unit {n}." for at in range(PIECES)], vectors)


def beside(path: Path) -> None:
    """Indexes a file every quarter of a second into a store of its own, until it is killed."""
    store = open_store(str(path))
    id_ = store.stores.create(BESIDE, EMBEDDER).id
    data = load(MODEL, CACHE)
    for n in range(1, 1 << 20):
        _one_file(store, id_, -n, *data.more(PIECES, (1 << 20) + n))
        print(n, flush=True)
        time.sleep(0.25)


def _wait_for_more(path: Path, process: subprocess.Popen[bytes]) -> None:
    wal = path.with_name(path.name + "-wal")
    before = wal.stat().st_mtime_ns if wal.exists() else 0
    while process.poll() is None and (not wal.exists() or wal.stat().st_mtime_ns == before):
        time.sleep(0.005)


def _whole(path: Path) -> tuple[int, int]:
    """How many files are completed; and how many of them, or of documents, are not whole or are twice there."""
    engine = SqliteEngine(path)
    with engine.read() as cursor:
        docs: dict[int, int] = dict(cursor.all("SELECT n, pieces FROM docs"))
        done = cursor.all("SELECT doc FROM members WHERE status = 'completed'")
        wrong = len({n for (n,) in done} ^ set(docs)) + len(done) - len(docs)
        for table, column in (("chunks", "id"), ("vectors_1", "id"), ("words", "rowid")):
            have: dict[int, int] = dict(cursor.all(f"SELECT {column} >> 20, count(*) FROM {table} GROUP BY 1"))  # noqa: S608
            wrong += sum(have.get(n) != docs.get(n) for n in {*have, *docs})
    engine.close()
    return len(done), wrong


if __name__ == "__main__":
    sys.exit(main())
