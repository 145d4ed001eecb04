"""`python -m bench.search`: what a search in the store of documents costs, and how much an exact one finds more.

    python -m bench.search fill PATH --rows 100000     a store of so many pieces (goes on where it was stopped)
    python -m bench.search measure PATH                its figures, from a process that holds nothing else
    python -m bench.search kill --times 200            processes that index, killed at any moment

A search takes milliseconds within one process, so this calls the product's own functions: it measures no network.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.search_data import Data, Floats, load
from bench.stats import percentile
from rag.store.base import DocumentStore, open_store
from rag.store.engine import Asked
from rag.store.records import Cut, Entry
from rag.store.sqlite import SqliteEngine
from rag.types import AttributeValue, Chunk, Comparison, Compound, Embedder, Filter

ROOT = Path(__file__).parents[1]
CACHE = ROOT / "bench" / "out" / "search.npy"
MODEL = ROOT / ".outstation" / "models" / "bge-small-en-v1.5"
EMBEDDER = Embedder("bge-small-en-v1.5", "0" * 64, 384)
PIECES = 50
"""Of a file."""
LIMIT = 50
EXACT = 20
"""Questions whose exact answer is computed: slow, and each has ten neighbours to find."""


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["fill", "measure", "kill", "index"])
    parser.add_argument("path", nargs="?", type=Path)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=1e9, help="stop filling after so long; call again to go on")
    parser.add_argument("--times", type=int, default=200)
    asked = parser.parse_args()
    if asked.what == "kill":
        kill(asked.times)
    elif asked.path is None:
        parser.error("a path is needed")
    elif asked.what == "index":
        index(asked.path)
    elif asked.what == "fill":
        fill(asked.path, asked.rows, asked.seconds)
    else:
        measure(asked.path)


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


def measure(path: Path) -> None:
    """Prints the figures of the store at a path."""
    data = load(MODEL, CACHE)
    begin = _memory()
    engine = SqliteEngine(path)
    with engine.read() as cursor:
        first = Asked(1, 1, None, "", data.asked[0], LIMIT)
        began = time.perf_counter()
        engine.search(cursor, first)
        print(f"read into memory in {time.perf_counter() - began:.1f} s")
        view = engine.live(1, 384).view(cursor)
        assert view is not None
        print(f"{view.rows} pieces; the scan says {view.bytes / 2**20:.0f} MiB; the process has grown by", end=" ")
        print(f"{(_memory() - begin) / 2**20:.0f} MiB, and is at {_memory() / 2**20:.0f} MiB")
    words = [" ".join(question.split()[:8]) for question in data.questions]
    kinds: dict[str, Callable[[int], Asked]] = {
        "vectors": lambda n: replace(first, vector=data.asked[n]),
        "vectors, filter (half)": lambda n: replace(first, vector=data.asked[n], wanted=_half(n)),
        "vectors, filter (1%)": lambda n: replace(first, vector=data.asked[n], wanted=_few(n)),
        "words, filter (half)": lambda n: replace(first, vector=None, text=words[n], wanted=_half(n)),
        "hybrid": lambda n: replace(first, vector=data.asked[n], text=words[n]),
        "hybrid, filter (half)": lambda n: replace(first, vector=data.asked[n], text=words[n], wanted=_half(n)),
        "hybrid, the same filter": lambda n: replace(first, vector=data.asked[n], text=words[n], wanted=_half(0)),
    }
    for name, make in kinds.items():
        print(f"{name:26} {_timed(engine, [make(n) for n in range(len(words))])}")
    print(f"after all, the process is at {_memory() / 2**20:.0f} MiB")
    _recall(path, engine, data)
    engine.close()
    _peer(path, data)


def _half(n: int) -> Filter:
    """Takes about half of the files; each question's is another one, so nothing is remembered from the one before."""
    return Compound("and", (Comparison("gte", "year", 6.667 + n * 0.001 + 2000), Comparison("ne", "lang", "fr")))


def _few(n: int) -> Filter:
    return Compound("and", (Comparison("gte", "year", 2019.2 - n * 0.0001), Comparison("eq", "lang", "en")))


def _timed(engine: SqliteEngine, asked: Sequence[Asked]) -> str:
    took = []
    for one in [*asked[:5], *asked]:
        began = time.perf_counter()
        with engine.read() as cursor:
            engine.search(cursor, one)
        took.append((time.perf_counter() - began) * 1000)
    took = took[5:]
    return f"p50 {percentile(took, 50):6.2f} ms  p95 {percentile(took, 95):6.2f} ms"


def _recall(path: Path, engine: SqliteEngine, data: Data) -> None:
    """Against the same store without memory: sqlite-vec's exact distances over the rows that the filter takes."""
    exact = SqliteEngine(path, scan_bytes=0)
    for name, wanted in (("no filter", lambda _: None), ("filter (half)", _half), ("filter (1%)", _few)):
        found, took = 0, []
        for n in range(EXACT):
            one = Asked(1, 1, wanted(n), "", data.asked[n], 10)
            with engine.read() as cursor:
                ours = {hit.id for hit in engine.search(cursor, one).vectors}
            began = time.perf_counter()
            with exact.read() as cursor:
                best = {hit.id for hit in exact.search(cursor, one).vectors}
            took.append((time.perf_counter() - began) * 1000)
            found += len(ours & best)
        print(f"recall@10, {name}: {found / EXACT / 10:.4f}; the exact one: p50 {percentile(took, 50):.0f} ms")
    exact.close()


def _peer(path: Path, data: Data) -> None:
    """sqlite-vec's own table and scan, as its documentation has it: all vectors, no filter, no words."""
    import apsw
    import sqlite_vec

    with tempfile.TemporaryDirectory() as folder:
        db = apsw.Connection(str(Path(folder) / "peer.db"))
        db.enable_load_extension(True)
        db.load_extension(sqlite_vec.loadable_path())
        db.execute("PRAGMA synchronous = OFF")
        db.execute("CREATE VIRTUAL TABLE v USING vec0(e float[384] distance_metric=cosine)")
        db.execute("ATTACH ? AS other", (str(path),))
        with db:
            db.execute("INSERT INTO v (rowid, e) SELECT id, vector FROM other.vectors_1")
        took = []
        for n in range(12):
            began = time.perf_counter()
            db.execute("SELECT rowid FROM v WHERE e MATCH ? AND k = 10", (data.asked[n].tobytes(),)).fetchall()
            took.append((time.perf_counter() - began) * 1000)
        print(f"sqlite-vec's own scan: p50 {percentile(took, 50):.1f} ms  p95 {percentile(took, 95):.1f} ms")
        db.close()


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


def _memory() -> int:
    """Bytes of this process that are in memory."""
    import psutil

    return int(psutil.Process(os.getpid()).memory_info().rss)


if __name__ == "__main__":
    main()
