"""From what `bench.search` measured to its tables, and their place in RESULTS.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench import results
from bench.report import Table
from bench.results import Part
from bench.stats import percentile

BEGIN = "<!-- written by `python -m bench.search --write` -->"
END = "<!-- end of searches -->"
HEADING = """
## Searches in documents

What `python -m bench.search` saw: what the store of documents takes for a search, and how many neighbours it misses. It
calls the store's own functions, one search after another, in a process that holds nothing else.

"""
NOTE = """p50 / p95 of {count} searches for the best 50, by a vector of 384 dimensions, by the first eight words of a
paragraph, or by both. *A filter*: each search has another one. *While files come in*: another process indexes one of 50
pieces every quarter of a second."""
STORES_NOTE = """*read*: the first search, which reads the vectors into memory. *vectors*, *process*: memory.
*recall@10*: of the ten nearest by an exact search, without a filter / with one that takes half / 1% of the files.
*sqlite-vec*: its own scan of all vectors, without a filter."""


def tables(stores: Sequence[Mapping[str, Any]]) -> list[Table]:
    """All tables; each store's figures as `Measured` has them."""
    header = ["searches", *(f"{one['pieces']:,} pieces" for one in stores)]
    first = stores[0]["times"]
    rows = [[kind, *(" / ".join(_ms(one["times"][kind], q) for q in (50, 95)) for one in stores)] for kind in first]
    count = len(next(iter(first.values())))
    return [Table("A search", NOTE.format(count=count), header, rows), stores_table(stores)]


def stores_table(stores: Sequence[Mapping[str, Any]]) -> Table:
    """Memory, recall, and the peer."""
    rows = [
        [
            f"{one['pieces']:,}",
            f"{one['read_s']:.1f} s",
            *(f"{one[size] / 2**20:.0f} MiB" for size in ("scan", "process")),
            " / ".join(f"{share:.3f}" for share in one["recall"].values()),
            " / ".join(_ms(one["peer"], q) for q in (50, 95)),
        ]
        for one in stores
    ]
    header = ["pieces", "read", "vectors", "process", "recall@10", "sqlite-vec p50 / p95"]
    return Table("The store", STORES_NOTE, header, rows)


def machine() -> str:
    """What the figures were taken on."""
    return results.machine("Embedder: bge-small-en-v1.5, 384 dimensions")


keep = Part(BEGIN, END, HEADING).keep


def _ms(times: Sequence[float], q: float) -> str:
    return f"{percentile(times, q):.1f} ms"
