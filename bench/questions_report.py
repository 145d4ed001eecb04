"""From places of answers to tables, with intervals that say how much chance is in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bench.report import Table
from bench.results import Part

Places = Sequence[int | None]
"""Of each question, at which place its answer came, from 1; None: not among the first ten."""
REFERENCE = "vectors alone"
BEGIN = "<!-- written by `make bench-questions BENCH_ARGS=--write` -->"
END = "<!-- end of questions -->"
HEADING = """
## Questions to documents

What `make bench-questions` saw: questions of technicians to three packages' documentation, which a gateway has read in
as it comes: its own chunks, its own embedder and reranker. Whatever was tuned was tuned on the half that is not held,
but for two choices that were made with all questions in view: words score what vectors found, too; a floor of 0.5.

"""
NOTE = """{questions} questions to {files} pages of documentation in {pieces} pieces. An answer counts where a piece
holds the very words that answer. In brackets: 95% of bootstrap samples."""
FLOOR_NOTE = """False refusals: of {questions} questions that the documents answer. False answers: of {near} questions
near to the documents' matter and {far} of another, none of which they answer."""
_SAMPLES = 10_000


def reached(places: Places, within: int) -> float:
    """The share of questions whose answer came so early."""
    return sum(place is not None and place <= within for place in places) / len(places)


def reciprocal(places: Places) -> list[float]:
    """Of each question 1 / place; 0: not among the first ten."""
    return [0.0 if place is None else 1 / place for place in places]


def interval(values: Sequence[float], others: Sequence[float]) -> tuple[float, float]:
    """Of the mean difference, by the bootstrap over questions: 95% of the samples lie between the two."""
    differences = np.asarray(values) - np.asarray(others)
    chosen = np.random.default_rng(0).integers(0, len(differences), (_SAMPLES, len(differences)))
    low, high = np.percentile(differences[chosen].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def ranking(title: str, note: str, ways: Mapping[str, Places]) -> Table:
    """Each way beside the reference."""
    reference = ways[REFERENCE]
    rows = []
    for name, places in ways.items():
        first = [float(place == 1) for place in places]
        gains = [
            _gain(first, [float(place == 1) for place in reference]),
            _gain(reciprocal(places), reciprocal(reference)),
        ]
        figures = (reached(places, 1), reached(places, 3), reached(places, 10), float(np.mean(reciprocal(places))))
        rows.append([name, *(f"{figure:.3f}" for figure in figures), *(gains if places is not reference else ["", ""])])
    header = ["way", "R@1", "R@3", "R@10", "MRR@10", f"R@1 against {REFERENCE}", "MRR@10 against it"]
    return Table(title, note, header, rows)


def floor(half: str, asked: tuple[int, int, int], rows: Mapping[str, Sequence[float]]) -> Table:
    """False refusals, and false answers to near and to far questions. `asked`: how many of each."""
    header = ["way", "false refusals", "false answers, near", "false answers, far"]
    shares = [[name, *(f"{share:.1%}" for share in shares)] for name, shares in rows.items()]
    note = FLOOR_NOTE.format(questions=asked[0], near=asked[1], far=asked[2])
    return Table(f"The documents do not say: {half}", note, header, shares)


def _gain(values: Sequence[float], others: Sequence[float]) -> str:
    low, high = interval(values, others)
    return f"{np.mean(values) - np.mean(others):+.3f} ({low:+.3f} to {high:+.3f})"


keep = Part(BEGIN, END, HEADING).keep
