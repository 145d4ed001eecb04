"""What searches in one store cost, in memory and in time; how many neighbours they miss; others write meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import orjson

from bench.search_data import CACHE, MODEL, ROOT, Data, load
from rag.store.base import open_store
from rag.store.engine import Asked
from rag.store.records import Cut
from rag.store.sqlite import SqliteEngine
from rag.types import Comparison, Compound, Filter

LIMIT = 50
EXACT = 20
"""Questions whose exact answer is computed: slow, and each has ten neighbours to find."""
WORDS = 8
"""Of a paragraph, as a question: the first ones, common words and all."""
BESIDE = "beside"
"""The store into which files come while searches are measured."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One store's figures.

    Attributes:
        pieces: in the store. read_s: seconds of the first search, which reads the vectors into memory.
        scan, process: bytes: what the vectors take in memory; all that is in memory of the process at the end.
        times: milliseconds of each search, by its kind.
        recall: of the ten nearest of an exact search, how many are found, by the filter.
        peer: milliseconds of sqlite-vec's own scan.
    """

    pieces: int
    read_s: float
    scan: int
    process: int
    times: dict[str, list[float]]
    recall: dict[str, float]
    peer: list[float]

    def json(self) -> bytes:
        """For another process."""
        return orjson.dumps(asdict(self))


def measure(path: Path) -> Measured:
    """The figures of the store at a path, in this process, which should hold nothing else."""
    data = load(MODEL, CACHE)
    engine = SqliteEngine(path)
    with engine.read() as cursor:
        first = Asked(1, 1, None, "", data.asked[0], LIMIT)
        began = time.perf_counter()
        engine.search(cursor, first)
        read_s = time.perf_counter() - began
        view = engine.live(1, 384).view(cursor)
        assert view is not None
        rows, scan = view.rows - view.dead, view.bytes
    words = [" ".join(question.split()[:WORDS]) for question in data.questions]
    kinds: dict[str, Callable[[int], Asked]] = {
        "vectors": lambda n: replace(first, vector=data.asked[n]),
        "vectors, a filter that takes half": lambda n: replace(first, vector=data.asked[n], wanted=half(n)),
        "vectors, a filter that takes 1%": lambda n: replace(first, vector=data.asked[n], wanted=few(n)),
        "words, a filter that takes half": lambda n: replace(first, vector=None, text=words[n], wanted=half(n)),
        "both": lambda n: replace(first, vector=data.asked[n], text=words[n]),
        "both, a filter that takes half": lambda n: replace(first, vector=data.asked[n], text=words[n], wanted=half(n)),
        "both, the filter of the search before": lambda n: replace(
            first, vector=data.asked[n], text=words[n], wanted=half(0)
        ),
    }
    times = {name: timed(engine, [make(n) for n in range(len(words))]) for name, make in kinds.items()}
    with _indexing(path):
        both = kinds["both, a filter that takes half"]
        times["the same, while files come in"] = timed(engine, [both(n) for n in range(len(words))])
    process = _memory()
    measured = Measured(rows, read_s, scan, process, times, _recall(path, engine, data), _peer(path, data))
    engine.close()
    return measured


def half(n: int) -> Filter:
    """Takes about half of the files; each question's is another one, so nothing is remembered from the one before."""
    return Compound("and", (Comparison("gte", "year", 6.667 + n * 0.001 + 2000), Comparison("ne", "lang", "fr")))


def few(n: int) -> Filter:
    """Takes about one in a hundred."""
    return Compound("and", (Comparison("gte", "year", 2019.2 - n * 0.0001), Comparison("eq", "lang", "en")))


def timed(engine: SqliteEngine, asked: Sequence[Asked]) -> list[float]:
    """Milliseconds of each search; some go before, unmeasured."""
    took = []
    for one in [*asked[:5], *asked]:
        began = time.perf_counter()
        with engine.read() as cursor:
            engine.search(cursor, one)
        took.append((time.perf_counter() - began) * 1000)
    return took[5:]


@contextmanager
def _indexing(path: Path) -> Iterator[None]:
    """Another process indexes files meanwhile; they are removed then."""
    command = [sys.executable, "-m", "bench.search", "beside", str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()
    store = open_store(str(path))
    for one in store.stores.list(Cut()).items:
        if one.name == BESIDE:
            for file in store.members.list(one.id, Cut(limit=100)).items:
                store.files.delete(file.file_id)
            store.stores.delete(one.id)
    store.close()


def _recall(path: Path, engine: SqliteEngine, data: Data) -> dict[str, float]:
    """Against the same store without memory: sqlite-vec's exact distances over the rows that the filter takes."""
    exact = SqliteEngine(path, scan_bytes=0)
    shares = {}
    for name, wanted in (("no filter", lambda _: None), ("half", half), ("1%", few)):
        found = 0
        for n in range(EXACT):
            one = Asked(1, 1, wanted(n), "", data.asked[n], 10)
            with engine.read() as cursor, exact.read() as other:
                ours, best = (e.search(c, one).vectors for e, c in ((engine, cursor), (exact, other)))
            found += len({hit.id for hit in ours} & {hit.id for hit in best})
        shares[name] = found / EXACT / 10
    exact.close()
    return shares


def _peer(path: Path, data: Data) -> list[float]:
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
        db.close()
    return took


def _memory() -> int:
    """Bytes of this process that are in memory."""
    import psutil

    return int(psutil.Process(os.getpid()).memory_info().rss)
