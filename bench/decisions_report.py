"""From what `bench.decisions` measured to its tables, and their place in RESULTS.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench import results
from bench.report import Table
from bench.results import Part
from bench.stats import percentile

BEGIN = "<!-- written by `python -m bench.decisions --write` -->"
END = "<!-- end of decisions -->"
HEADING = """
## Decisions

What `python -m bench.decisions` saw: what it takes to decide about a request, and what the search for private data
finds. This is the one measurement from within: functions are called in one process, one after another, without a
network.

"""


@dataclass(frozen=True, slots=True)
class Results:
    """What was measured.

    Attributes:
        plans: seconds of each decision, by the site.
        scans: seconds of each search, by the kind of text.
        found: the class, how many numbers were found and how many were planted, by their kind.
    """

    plans: Mapping[str, Sequence[float]]
    scans: Mapping[str, Sequence[float]]
    found: Mapping[str, tuple[str, int, int]]


def tables(results: Results, size: int) -> list[Table]:
    """All tables. `size`: bytes of a text."""
    return [plans_table(results), scans_table(results, size), found_table(results)]


def plans_table(results: Results) -> Table:
    """What a plan costs."""
    rows = [
        [name, *(f"{percentile(times, q) * 1e6:.1f} µs" for q in (50, 99)), f"{len(times):,}"]
        for name, times in results.plans.items()
    ]
    note = (
        "All policies over one request: prices, budgets, data classes, health, a snapshot of busy models. Making the "
        "snapshot is not counted."
    )
    return Table("Deciding a plan", note, ["routes", "p50", "p99", "plans"], rows)


def scans_table(results: Results, size: int) -> Table:
    """What a search costs."""
    rows = [
        [name, *(f"{percentile(times, q) * 1e3:.2f} ms" for q in (50, 99)), f"{len(times):,}"]
        for name, times in results.scans.items()
    ]
    note = f"All built-in data classes, in a chat whose question is a text of {size:,} bytes."
    return Table("Searching for private data", note, ["text", "p50", "p99", "searches"], rows)


def found_table(results: Results) -> Table:
    """What a search finds."""
    rows = [
        [kind, cls, f"{hits / of:.2%}", f"{of - hits} of {of:,}"] for kind, (cls, hits, of) in results.found.items()
    ]
    rows += [
        [f"all of {cls}", cls, f"{hits / of:.2%}", f"{of - hits} of {of:,}"] for cls, hits, of in by_class(results)
    ]
    note = (
        "Numbers with check digits, in their usual written forms, each in a sentence of a working day "
        "(`bench/decisions_planted.py`). *found*: whole and under the right class."
    )
    return Table("Finding numbers with check digits", note, ["number", "class", "found", "missed"], rows)


def by_class(results: Results) -> list[tuple[str, int, int]]:
    """(class, found, planted) of the classes with several kinds."""
    every = list(results.found.values())
    classes = [cls for cls in dict.fromkeys(cls for cls, _, _ in every) if sum(one[0] == cls for one in every) > 1]
    return [(cls, sum(h for c, h, _ in every if c == cls), sum(n for c, _, n in every if c == cls)) for cls in classes]


def machine() -> str:
    """What the figures were taken on."""
    return results.machine(beside="one core is used")


keep = Part(BEGIN, END, HEADING).keep
