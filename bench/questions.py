"""`python -m bench.questions`: how well the right passage is found, and noticed that there is none.

The half of the questions that is held is reported; everything was chosen on the other (`--half tuned` shows it). The
models are those of `OUTSTATION_HOME`; the documents are fetched by apt into bench/out.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench import questions_report as report
from bench.questions_corpus import Question, absent, answering, cut, pages, questions
from bench.questions_index import PLAIN, Index
from bench.questions_models import Embedder, Reranker
from bench.questions_ways import Asked, Bench, Way, place
from bench.report import Table
from rag.chunks import Strategy
from rag.rank import Settings
from rag.rank_tune import WEIGHTS, Case, fitted, reciprocals, tuned

CACHE = Path(__file__).parent / "out" / "questions"
NOTE = """{questions} questions to {files} pages of documentation in {pieces} pieces, the {half} half. An answer counts
where a piece holds the very words that answer. In brackets: 95% of bootstrap samples."""
FLOOR_NOTE = """False refusals: of {questions} questions that the documents answer. False answers: of {near} questions
near to the documents' matter and {far} of another, none of which they answer."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the tables."""
    options = _options().parse_args(arguments)
    try:
        files = pages(CACHE)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    models = Path(os.environ.get("OUTSTATION_HOME", ".outstation")) / "models"
    embedder = Embedder(models / "bge-small-en-v1.5", CACHE)
    pieces = cut(files, embedder.tokenize, Strategy(options.tokens, options.overlap, not options.sliding))
    index = Index(pieces, embedder, headings=not options.no_headings, tokens=options.fts or PLAIN)
    bench = Bench(index, Reranker(models / "ms-marco-minilm-l-12-v2", CACHE))
    half = Half(options.half, _half(questions(), options.half), _half(absent(), options.half))
    half.ask(bench, embedder)
    embedder.keep()
    if options.fit:
        half.fit(bench)
    else:
        print(half.ranking(bench, len(files)).markdown())
        print(half.floor(bench).markdown())
        _cost(bench)
    bench.reranker.keep()
    return 0


@dataclass(slots=True)
class Half:
    """The questions that are asked, and what the paths found for them.

    Attributes:
        answered, not_answered: by the documents.
    """

    name: str
    answered: list[Question]
    not_answered: list[Question]
    found: list[Asked] = field(default_factory=list)
    nothing: list[Asked] = field(default_factory=list)

    def ask(self, bench: Bench, embedder: Embedder) -> None:
        """Both paths, once."""
        texts = [one.text for one in [*self.answered, *self.not_answered]]
        vectors = dict(zip(texts, embedder.questions(texts), strict=True))
        self.found = bench.ask(self.answered, vectors)
        self.nothing = bench.ask(self.not_answered, vectors)

    def ranking(self, bench: Bench, files: int) -> Table:
        """Each way, beside the vectors alone."""
        pieces = bench.index.pieces
        answers = answering(self.answered, pieces)
        lost = [one.text for one, right in zip(self.answered, answers, strict=True) if not right]
        if lost:
            print(f"{len(lost)} questions have no answer in these versions of the packages: {lost}", file=sys.stderr)
        ways: dict[str, Way] = {
            report.REFERENCE: bench.dense,
            "words alone (BM25)": bench.words,
            "reciprocal-rank fusion": bench.by_rank,
            "weighted": bench.weighted,
            "weighted, reranked (default)": bench.reranked,
            "the same, neighbours merged": bench.shown,
        }
        places = {
            name: [place(way(one), right) for one, right in zip(self.found, answers, strict=True)]
            for name, way in ways.items()
        }
        note = NOTE.format(questions=len(self.answered), files=files, pieces=len(pieces), half=self.name)
        return report.ranking("The right passage", note, places)

    def floor(self, bench: Bench) -> Table:
        """Refusals that are wrong, and answers that are."""
        rows = {}
        for name, rerank in (("without a reranker", False), ("with (default)", True)):
            yes = [bench.answer(one, rerank=rerank).answered for one in self.found]
            near = [bench.answer(one, rerank=rerank).answered for one in self.nothing if one.question.near]
            far = [bench.answer(one, rerank=rerank).answered for one in self.nothing if not one.question.near]
            rows[name] = (1 - float(np.mean(yes)), float(np.mean(near)), float(np.mean(far)))
        near_ones = sum(one.near for one in self.not_answered)
        note = FLOOR_NOTE.format(questions=len(self.answered), near=near_ones, far=len(self.not_answered) - near_ones)
        return report.floor("The documents do not say", note, rows)

    def fit(self, bench: Bench) -> None:
        """Prints what this half would choose."""
        cases = [
            Case(one.vectors, one.words, right)
            for one, right in zip(self.found, answering(self.answered, bench.index.pieces), strict=True)
        ]
        print("MRR@10 by the weight of words:")
        for weight in WEIGHTS:
            print(f"  {weight}: {np.mean(reciprocals(cases, Settings(words=weight))):.3f}")
        print(f"Chosen: {tuned(cases).words}")
        for name, rerank in (("plain", False), ("reranked", True)):
            asked = [*self.found, *self.nothing]
            rows = [bench.speaks(one, rerank=rerank) for one in asked]
            most = max(map(len, rows))
            told = [
                (row, bool(one.question.known_by)) for row, one in zip(rows, asked, strict=True) if len(row) == most
            ]
            weights = fitted([row for row, _ in told], [said for _, said in told])
            print(f"Floor, {name}: {', '.join(f'{weight:.2f}' for weight in weights)}")


def _cost(bench: Bench) -> None:
    asked = [pairs for pairs in bench.pairs if pairs]
    print(f"Ranking: {1e3 * np.median(bench.ranking):.1f} ms (p95 {1e3 * np.percentile(bench.ranking, 95):.1f}).")
    print(f"Pairs for the reranker: {np.mean(asked):.1f} for those {len(asked)} of {len(bench.pairs)} that had any.")
    if bench.reranker.times:
        times = 1e3 * np.array(bench.reranker.times)
        print(f"A pair, on one core: {np.median(times):.0f} ms (p95 {np.percentile(times, 95):.0f}).")


def _half(all_: Sequence[Question], half: str) -> list[Question]:
    return [one for one in all_ if half == "whole" or one.held == (half == "held")]


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--half", choices=("held", "tuned", "whole"), default="held")
    parser.add_argument("--fit", action="store_true", help="print what this half would choose, in place of tables")
    parser.add_argument("--tokens", type=int, default=400, help="of a piece, at most")
    parser.add_argument("--overlap", type=int, default=0, help="tokens that a piece repeats")
    parser.add_argument("--sliding", action="store_true", help="pieces that do not mind headings")
    parser.add_argument("--no-headings", action="store_true", help="headings are not embedded")
    parser.add_argument("--fts", default="", help="FTS5's tokenizer, such as 'porter unicode61'")
    return parser


if __name__ == "__main__":
    sys.exit(main())
