"""`make bench-questions`: how well the right passage is found, and noticed that there is none.

A gateway reads the pages in as it does a customer's, and is asked; everything was chosen on the half of the questions
that is not held (`--fit` shows it), so the held half is told by itself. The pages are fetched by apt into bench/out.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench import questions_report as report
from bench import results
from bench.documents_site import Wire, database, gateway
from bench.peers import running
from bench.questions_corpus import Question, absent, answering, pages, questions
from bench.questions_site import Served, filled, pieces_of
from bench.questions_ways import EveryPiece, OverHTTP, Paths, Product, Way, place
from bench.report import Table
from gateway.schemas.documents_settings import DocumentSettings
from rag.rank import Settings
from rag.rank_tune import WEIGHTS, Case, fitted, reciprocals, tuned
from rag.store.base import open_store
from rag.store.records import Piece

HERE = Path(__file__).parent
CACHE = HERE / "out" / "questions"
UNBOUNDED_S = 60.0
DEFAULT = "default"
PLAIN = "default, without a reranker"
UNBOUNDED = "default, no time limit"
EVERY = "default, no time limit, every piece scored by words"
MERGED = "default, neighbours merged"
HTTP = "default, neighbours merged, over HTTP"


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the tables; with --write keeps them in RESULTS.md."""
    options = _options().parse_args(arguments)
    try:
        files = pages(CACHE)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    notes = results.machine()
    text = asyncio.run(measured(options, files))
    if text:
        print(f"{notes}\n\n{text}")
    if text and options.write:
        report.keep(HERE / "RESULTS.md", f"{notes}\n\n{text}")
    return 0


async def measured(options: argparse.Namespace, files: Mapping[str, Path]) -> str:
    """What is to be told; empty: it is told already."""
    with tempfile.TemporaryDirectory(prefix="outstation-bench-") as folder:
        return await _measured(options, files, Path(options.kept or folder).resolve())


async def _measured(options: argparse.Namespace, files: Mapping[str, Path], home: Path) -> str:
    peer = gateway(home, options.home.resolve() / "models", "outstation-questions")
    async with running(peer, Path(), CACHE) as server:
        wire, begun = Wire(server.port), time.perf_counter()
        id_ = await filled(wire, files, _chunking(options))
        print(f"{len(files)} files after {time.perf_counter() - begun:.0f} s", file=sys.stderr)
        if options.index_only:
            return ""
        with closing(open_store(str(database(home)))) as store:
            pieces = pieces_of(store, id_)
            with ThreadPoolExecutor() as threads:
                paths = Paths(store, id_, store.stores.pinned(id_).embedder, Served(wire), threads)
                if options.fit:
                    await fit(paths, pieces)
                    return ""
                site = Compared(paths, pieces, len(files))
                await site.ask()
                await _settled()
            return "\n".join(one.markdown() for one in site.tables())


@dataclass(slots=True)
class Compared:
    """The ways, and what they said.

    Attributes:
        places: of each way, the place of each question's answer. refused: of each question, "the documents do not say".
    """

    paths: Paths
    pieces: Sequence[Piece]
    files: int
    places: dict[str, list[int | None]] = field(default_factory=dict)
    refused: dict[str, dict[str, bool]] = field(default_factory=dict)

    def ways(self) -> tuple[dict[str, Way], dict[str, Product]]:
        """Those that are compared, and those that tell as well when the documents do not say."""
        paths, every = self.paths, EveryPiece(self.pieces)
        rerank_s = DocumentSettings().rerank_ms / 1000
        patient = replace(paths, served=Served(paths.served.wire, remember=True))
        products = {
            PLAIN: Product(paths, 0.0),
            DEFAULT: Product(paths, rerank_s),
            UNBOUNDED: Product(patient, UNBOUNDED_S),
            EVERY: Product(patient, UNBOUNDED_S, every),
        }
        ways: dict[str, Way] = {
            report.REFERENCE: paths.dense,
            "words alone": paths.words,
            "words alone, every piece scored": every.alone,
            "reciprocal-rank fusion": paths.by_rank,
            **{name: one.ranked for name, one in products.items()},
            MERGED: products[DEFAULT].shown,
        }
        return ways, products

    async def ask(self) -> None:
        """All questions, in every way."""
        asked = questions()
        answers = answering(asked, {piece.id: piece.chunk.text for piece in self.pieces})
        lost = [one.text for one, right in zip(asked, answers, strict=True) if not right]
        if lost:
            print(f"{len(lost)} questions have no answer in these versions of the packages: {lost}", file=sys.stderr)
        ways, products = self.ways()
        for name, way in ways.items():
            self.places[name] = [place(await way(q.text), right) for q, right in zip(asked, answers, strict=True)]
        http = OverHTTP(self.paths, {one.text: one.known_by for one in asked})
        self.places[HTTP] = [place(await http.ask(one.text), frozenset({1})) for one in asked]
        for name in (PLAIN, DEFAULT):
            self.refused[name] = {
                one.text: not (await products[name].ask(one.text)).answered for one in [*asked, *absent()]
            }

    def tables(self) -> list[Table]:
        """The held half, then all."""
        asked, nothing, found = questions(), absent(), []
        for half, held in (("the held half", True), ("all questions", False)):
            kept = [n for n, one in enumerate(asked) if one.held or not held]
            places = {name: [all_[n] for n in kept] for name, all_ in self.places.items()}
            note = report.NOTE.format(questions=len(kept), files=self.files, pieces=len(self.pieces))
            found.append(report.ranking(f"The right passage: {half}", note + self._pairs(), places))
            yes = [asked[n] for n in kept]
            near = [one for one in nothing if one.near and (one.held or not held)]
            far = [one for one in nothing if not one.near and (one.held or not held)]
            found.append(report.floor(half, (len(yes), len(near), len(far)), self._shares(yes, near, far)))
        return found

    def _pairs(self) -> str:
        pairs = self.paths.served.pairs
        return f"\nThe default asked its reranker {len(pairs)} times, about {np.mean(pairs):.1f} pairs on average."

    def _shares(self, yes: Sequence[Question], *no: Sequence[Question]) -> dict[str, tuple[float, ...]]:
        return {
            name: (
                float(np.mean([said[one.text] for one in yes])),
                *(1 - float(np.mean([said[one.text] for one in some])) for some in no),
            )
            for name, said in self.refused.items()
        }


async def _settled() -> None:
    """Nothing touches the store any more: a search leaves a note that it was used, and waits for none."""
    if left := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(left)


async def fit(paths: Paths, pieces: Sequence[Piece]) -> None:
    """Prints what the half that is not held would choose."""
    asked = [one for one in questions() if not one.held]
    nothing = [one for one in absent() if not one.held]
    answers = answering(asked, {piece.id: piece.chunk.text for piece in pieces})
    found = [await paths.found(one.text) for one in asked]
    cases = [Case(one.vectors, one.words, right) for one, right in zip(found, answers, strict=True)]
    print("MRR@10 by the weight of words:")
    for weight in WEIGHTS:
        print(f"  {weight}: {np.mean(reciprocals(cases, Settings(words=weight))):.3f}")
    print(f"Chosen: {tuned(cases).words}")
    for name, rerank in (("plain", False), ("reranked", True)):
        rows = [(await paths.speaks(one.text, rerank=rerank), bool(one.known_by)) for one in [*asked, *nothing]]
        most = max(len(row) for row, _ in rows)
        told = [one for one in rows if len(one[0]) == most]
        weights = fitted([row for row, _ in told], [said for _, said in told])
        print(f"Floor, {name}: {', '.join(f'{weight:.2f}' for weight in weights)}")


def _chunking(options: argparse.Namespace) -> dict[str, Any] | None:
    settings = DocumentSettings()
    if (options.tokens, options.overlap) == (
        settings.chunk_tokens,
        settings.chunk_overlap_tokens,
    ) and not options.sliding:
        return None
    static = {"max_chunk_size_tokens": options.tokens, "chunk_overlap_tokens": options.overlap}
    return {"type": "static", "static": static, "outstation": {"by_structure": not options.sliding}}


def _options() -> argparse.ArgumentParser:
    settings = DocumentSettings()
    parser = argparse.ArgumentParser(prog="bench.questions", description=__doc__)
    home = Path(os.environ.get("OUTSTATION_HOME", HERE.parent / ".outstation"))
    parser.add_argument("--home", type=Path, default=home, help="the store with the models")
    parser.add_argument("--kept", type=Path, help="a folder for what is read in: the next run with it only asks")
    parser.add_argument("--index-only", action="store_true", help="read the pages in (--kept), and end")
    parser.add_argument("--fit", action="store_true", help="print what the other half would choose, in place of tables")
    parser.add_argument("--tokens", type=int, default=settings.chunk_tokens, help="of a piece, at most")
    parser.add_argument(
        "--overlap", type=int, default=settings.chunk_overlap_tokens, help="tokens that a piece repeats"
    )
    parser.add_argument("--sliding", action="store_true", help="pieces that do not mind headings")
    parser.add_argument("--write", action="store_true", help="keep the tables in bench/RESULTS.md")
    return parser


if __name__ == "__main__":
    sys.exit(main())
