"""From what `bench.documents` measured to its tables, and their place in RESULTS.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import orjson

from bench.gateways_report import fine
from bench.report import Table
from bench.results import Part
from bench.stats import percentile

BEGIN = "<!-- written by `make bench-documents BENCH_ARGS=--write` -->"
END = "<!-- end of documents -->"
HEADING = """
## Documents

What `make bench-documents` saw: files of real documentation uploaded to a gateway and read in, searches beside that,
and processes that were killed meanwhile. But for the first kind of kill everything is asked over HTTP on loopback.

"""
DEFAULT, PLAIN, SILENT = "default", "ranker `none`", "default, after a silence"


@dataclass(slots=True)
class Ingested:
    """One round. Seconds.

    Attributes:
        whole: with the uploads. alone: the embedder, for the same texts.
    """

    chunks: int
    seconds: float
    whole: float
    alone: float = float("nan")


@dataclass(slots=True)
class Searched:
    """One round of searches. Seconds.

    Attributes:
        left: files in progress after each search.
        late: searches after which there were none; they are not among `times`.
        finished: files that were read in meanwhile.
    """

    times: list[float]
    left: list[int] = field(default_factory=list)
    late: int = 0
    finished: int = 0


@dataclass(slots=True)
class Killed:
    """Kills of one kind, and what was found after them, all of them added up.

    Attributes:
        files: that were acknowledged.
        lost: acknowledged, and not there or not as they were sent. doubled: indexed twice, or what belongs to no file.
        half: pieces, words or vectors that are not what the whole file gives.
        orphans: processes of a killed gateway that were there 10 s later.
        during: files that were whole after the last kill; ended: when all was done.
    """

    times: int = 0
    files: int = 0
    lost: int = 0
    doubled: int = 0
    half: int = 0
    orphans: int = 0
    during: int = 0
    ended: int = 0

    def and_also(self, other: Killed | None) -> Killed:
        """Both together."""
        if other is None:
            return self
        return Killed(**{name: value + getattr(other, name) for name, value in asdict(self).items()})


@dataclass(slots=True)
class Rounds:
    """All that was measured, in one run or in several. `way`: how the embedder alone was asked last."""

    ingest: list[Ingested] = field(default_factory=list)
    idle: dict[str, list[Searched]] = field(default_factory=dict)
    beside: dict[str, list[Searched]] = field(default_factory=dict)
    killed: dict[str, Killed] = field(default_factory=dict)
    files: int = 0
    tokens: int = 0
    way: tuple[int, int] = (0, 1)
    loads: list[float] = field(default_factory=list)

    def keep(self, path: Path) -> None:
        """Writes it down."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(orjson.dumps(asdict(self)))


def loaded(path: Path) -> Rounds:
    """What was written down; nothing where there is no such file."""
    if not path.exists():
        return Rounds()
    kept: dict[str, Any] = orjson.loads(path.read_bytes())
    for name in ("idle", "beside"):
        kept[name] = {kind: [Searched(**one) for one in rounds] for kind, rounds in kept[name].items()}
    kept["ingest"] = [Ingested(**{**one, "alone": one["alone"] or float("nan")}) for one in kept["ingest"]]
    kept["killed"] = {kind: Killed(**one) for kind, one in kept["killed"].items()}
    kept["way"] = tuple(kept["way"])
    return Rounds(**kept)


def tables(rounds: Rounds) -> list[Table]:
    """Of what was measured."""
    found = []
    if rounds.ingest:
        found.append(ingest_table(rounds))
    if rounds.beside:
        found.append(search_table(rounds))
    if rounds.killed:
        found.append(kill_table(rounds))
    return found


def ingest_table(rounds: Rounds) -> Table:
    """Chunks a second, beside the embedder alone."""
    chunks = rounds.ingest[0].chunks
    size, clients = rounds.way
    asked = f"{'all texts in one request' if not size else f'{size} texts a request'}, {clients} at once"
    ratios = [one.alone / one.seconds for one in rounds.ingest]
    kinds = {
        f"the embedder alone, {asked}": [one.chunks / one.alone for one in rounds.ingest],
        "ingest": [one.chunks / one.seconds for one in rounds.ingest],
        "ingest, uploads included": [one.chunks / one.whole for one in rounds.ingest],
    }
    ratio = {
        "ingest": ratios,
        "ingest, uploads included": [one.alone / one.whole for one in rounds.ingest],
    }
    rows = [
        [name, _spread(values, 1), _spread(ratio[name], 2) if name in ratio else "–"] for name, values in kinds.items()
    ]
    note = (
        f"{rounds.files} files, {chunks} chunks of {rounds.tokens / max(1, chunks):.0f} tokens on average; "
        f"{len(rounds.ingest)} rounds. *ingest*: from the request that puts the files into a vector store until the "
        "last one is completed. *the embedder alone*: `/v1/embeddings` of the same gateway with the very same texts, "
        "in the way that is fastest. Medians; in brackets the lowest and the highest."
    )
    return Table("Reading files in", note, ["", "chunks/s", "× the embedder alone"], rows)


def search_table(rounds: Rounds) -> Table:
    """Searches while files are read in, beside the same when nothing else happens."""
    rows = []
    for kind, during in rounds.beside.items():
        quiet = [seen for one in rounds.idle[kind] for seen in one.times]
        busy = [seen for one in during for seen in one.times]
        left = [files for one in during for files in one.left]
        rows.append(
            [
                kind,
                f"{len(quiet)} / {len(busy)}",
                *(fine(percentile(times, q)) for q in (50, 95) for times in (quiet, busy)),
                f"{percentile(busy, 95) / percentile(quiet, 95):.2f}",
                f"{min(left)}–{max(left)}",
                str(sum(one.finished for one in during)),
            ]
        )
    note = (
        "`/v1/vector_stores/{id}/search`, one after another, 50 to 350 ms apart; *after a silence*: 2.5 s apart, when "
        "ingest has taken all cores again. *beside*: while 10 files are read in into another vector store; each counts "
        "only if files were still in progress after it. *in progress*: the fewest and the most files then. *finished*: "
        "files that were read in meanwhile."
    )
    header = ["search", "asked idle / beside", "p50 idle", "beside", "p95 idle", "beside", "× p95", "in progress"]
    return Table("Searches while files are read in", note, [*header, "finished"], rows)


def kill_table(rounds: Rounds) -> Table:
    """What kills have left."""
    rows = [
        [
            kind,
            *map(str, (one.times, one.files, one.during, one.lost, one.doubled, one.half, one.orphans)),
            f"{one.ended} of {one.files}",
        ]
        for kind, one in rounds.killed.items()
    ]
    note = (
        "`kill -9` at a random moment of ingest, then the next process goes on with the same store. After each kill "
        "every acknowledged file is compared, byte by byte and piece by piece, with what was sent and what the whole "
        "file gives. *orphans*: processes of a killed gateway that did not end by themselves."
    )
    header = [
        "killed",
        "times",
        "files",
        "whole by then",
        "lost",
        "doubled",
        "half there",
        "orphans",
        "whole in the end",
    ]
    return Table("kill -9 during ingest", note, header, rows)


def _spread(values: Sequence[float], digits: int) -> str:
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


keep = Part(BEGIN, END, HEADING).keep
