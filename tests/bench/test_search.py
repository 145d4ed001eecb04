"""The bench of searches: what it measures of a small store, and what it prints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import orjson
import pytest

from bench import search_report as report
from bench.search_data import Data
from bench.search_measure import Measured, few, half, timed
from rag.filters import matches
from rag.store.engine import Asked
from rag.store.sqlite import SqliteEngine


def _measured(pieces: int) -> Measured:
    times = {"vectors": [1.0, 2.0, 3.0], "both": [4.0, 5.0, 60.0]}
    return Measured(pieces, 1.5, 24 << 20, 150 << 20, times, {"no filter": 1.0, "half": 0.995, "1%": 1.0}, [30.0])


def test_tables_have_a_column_for_each_store(tmp_path: Path) -> None:
    stores = [orjson.loads(_measured(pieces).json()) for pieces in (100_000, 1_000_000)]
    text = "\n".join(table.markdown() for table in report.tables(stores))
    assert "| searches | 100,000 pieces   | 1,000,000 pieces |" in text
    assert "| both     | 5.0 ms / 54.5 ms |" in text
    assert "1.000 / 0.995 / 1.000" in text
    assert "150 MiB" in text
    for _ in range(2):
        report.keep(tmp_path / "RESULTS.md", text)
    written = (tmp_path / "RESULTS.md").read_text()
    assert written.count(report.BEGIN) == written.count("### A search") == 1


def test_filters_take_what_they_say() -> None:
    chosen = np.random.default_rng(3)
    files = [
        {"year": 2000 + float(chosen.random()) * 20, "lang": str(chosen.choice(["en", "de", "fr", "es"]))}
        for _ in range(4_000)
    ]
    for make, share in ((half, 0.5), (few, 0.01)):
        assert sum(matches(make(7), file) for file in files) / len(files) == pytest.approx(share, rel=0.35)
    assert half(1) != half(2)


def test_each_search_is_timed_once(tmp_path: Path) -> None:
    engine = SqliteEngine(tmp_path / "documents.db")
    assert len(timed(engine, [Asked(1, 1, None, "pump", None, 5)] * 7)) == 7
    engine.close()


def test_made_passages_are_of_unit_length_and_the_same_each_time() -> None:
    vectors = np.eye(3, 384, dtype=np.float32)
    data = Data(["one", "two", "three"], vectors, ["q"], vectors[:1])
    texts, made = data.more(5, 9)
    assert np.allclose(np.linalg.norm(made, axis=1), 1.0)
    assert data.more(5, 9)[0] == texts
    assert all(len(text.split("\n")) == 2 for text in texts)
