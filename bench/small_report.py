"""From what `bench.small` measured to its tables, and their place in RESULTS.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Protocol

from bench import results
from bench.client import Answer
from bench.gateways_load import Calls
from bench.gateways_report import fine
from bench.report import Table
from bench.results import Part
from bench.stats import percentile

BEGIN = "<!-- written by `make bench-small BENCH_ARGS=--write` -->"
END = "<!-- end of small models -->"
HEADING = """
## Small models

What `make bench-small` saw: the small models through the gateway's API, on the box that the notes name. Everything of
ours is asked over HTTP on loopback; what it is compared with does the same work without any gateway. The rounds are
interleaved and each figure is the median of its rounds, with the lowest and highest in brackets where they matter.

"""


@dataclass(frozen=True, slots=True)
class Classified:
    """One round of one classifier. Seconds.

    Attributes:
        runs: of the bare runtime; whole: with the tokenisation.
    """

    calls: Calls
    runs: Sequence[float]
    whole: Sequence[float]


@dataclass(frozen=True, slots=True)
class Beside:
    """The language model's tokens/s without and with classifications; these beside it, and without it."""

    alone: float
    during: float
    calls: Calls
    quiet: Calls


@dataclass(frozen=True, slots=True)
class Guarded:
    """A guard on neuralchemy's test and on the technicians' sentences."""

    found: int
    attacks: int
    alarms: int
    benign: int
    technician_alarms: int
    technicians: int


class Figures(Protocol):
    """See `bench.small.Results`."""

    @property
    def classify(self) -> Mapping[tuple[str, str], Sequence[Classified]]: ...
    @property
    def embed(self) -> Mapping[str, Sequence[float]]: ...
    @property
    def clients(self) -> Mapping[tuple[int, str], Sequence[Calls]]: ...
    @property
    def beside(self) -> Sequence[Beside]: ...
    @property
    def guards(self) -> Mapping[str, Guarded]: ...
    @property
    def agreement(self) -> float: ...


class Loads(Protocol):
    """See `bench.small.Plan`."""

    @property
    def texts(self) -> int: ...
    @property
    def clients(self) -> int: ...
    @property
    def rate(self) -> float: ...


def tables(results: Figures, plan: Loads) -> list[Table]:
    """The tables of what was measured; nothing for what was not."""
    found = []
    if results.classify:
        found.append(classify_table(results.classify))
    if results.embed:
        found.append(embed_table(results.embed, plan.texts, results.agreement))
    if results.clients:
        found.append(clients_table(results.clients, plan.clients))
    if results.beside:
        found.append(beside_table(results.beside, plan.rate))
    if results.guards:
        found.append(guard_table(results.guards))
    return found


def classify_table(rounds: Mapping[tuple[str, str], Sequence[Classified]]) -> Table:
    """One client beside the bare runtime."""
    rows = []
    for (name, cores), values in rounds.items():
        p50 = median(one.calls.at(50) for one in values)
        run = median(percentile(one.runs, 50) for one in values)
        rows.append(
            [
                name,
                cores,
                fine(p50),
                fine(median(one.calls.at(99) for one in values)),
                fine(run),
                fine(median(percentile(one.runs, 99) for one in values)),
                fine(median(percentile(one.whole, 50) for one in values)),
                f"{p50 / run:.2f}",
                fine(p50 - run),
                str(sum(one.calls.failed for one in values)),
            ]
        )
    note = (
        "One client that keeps its connection. *run*: `session.run` of the same tokens in the bench's own process, of "
        "the embedder and the head for a head; *tokenised*: with the tokeniser before it. *more*: what HTTP takes "
        "beyond the run. *kept awake*: processes of the idle class keep the box's cores from halting "
        "between two messages; both figures are taken so."
    )
    header = ["model", "cores", "HTTP p50", "p99", "run p50", "p99", "tokenised p50", "× run", "more", "failed"]
    return Table("Classifying a short text", note, header, rows)


def embed_table(rounds: Mapping[str, Sequence[float]], count: int, cosine: float) -> Table:
    """Texts a second of each; the last one is what the others are compared with."""
    *_, reference = rounds
    rows = [
        [
            name,
            f"{median(values):,.0f} ({min(values):,.0f}–{max(values):,.0f})",
            f"{median(values) / median(rounds[reference]):.2f}",
        ]
        for name, values in rounds.items()
    ]
    note = f"{count:,} texts of 100 tokens in one request, by all-MiniLM-L6-v2 on the same number of threads."
    if cosine == cosine:
        note += f" The lowest cosine between our vector of a text and torch's: {cosine:.4f}."
    return Table("Embedding many texts", note, ["by", "texts/s", f"× {reference}"], rows)


def clients_table(rounds: Mapping[tuple[int, str], Sequence[Calls]], clients: int) -> Table:
    """Many clients with one text each."""
    rates = {key: median(one.rate for one in values) for key, values in rounds.items()}
    slowest = {tokens: min(rate for (of, _), rate in rates.items() if of == tokens) for tokens, _ in rates}
    rows = [
        [
            str(tokens),
            way,
            f"{rates[tokens, way]:,.0f}",
            f"{rates[tokens, way] / slowest[tokens]:.2f}",
            *(fine(median(one.at(q) for one in values)) for q in (50, 99)),
            str(sum(one.failed for one in values)),
        ]
        for (tokens, way), values in rounds.items()
    ]
    note = (
        f"{clients} clients, each with its next text as soon as it is answered; all-MiniLM-L6-v2 int8. "
        "*one by one*: `batch_tokens = 1`, so that every text has a run of its own."
    )
    return Table("Many clients", note, ["tokens", "runs", "texts/s", "× slower", "p50", "p99", "failed"], rows)


def beside_table(rounds: Sequence[Beside], rate: float) -> Table:
    """What the language model and the small ones cost each other."""
    alone, during = median(one.alone for one in rounds), median(one.during for one in rounds)
    rows = [
        ["the language model alone", f"{alone:.1f}", "–", "–", "–", "0"],
        _beside_row("both", f"{during:.1f} ({during / alone - 1:+.1%})", [one.calls for one in rounds]),
        _beside_row("the classifier alone", "–", [one.quiet for one in rounds]),
    ]
    note = (
        f"One stream of SmolLM2-135M while injection-guard classifies {rate:g} short texts a second, by one gateway. "
        "*alone* is the mean of an answer before and one after."
    )
    header = ["at work", "tokens/s", "classify p50", "p95", "p99", "failed"]
    return Table("Beside a language model", note, header, rows)


def _beside_row(name: str, tokens: str, calls: Sequence[Calls]) -> list[str]:
    times = [seen for one in calls for seen in one.times]
    return [name, tokens, *(fine(percentile(times, q)) for q in (50, 95, 99)), str(sum(one.failed for one in calls))]


def guard_table(guards: Mapping[str, Guarded]) -> Table:
    """What the guards find, through the API."""
    rows = [
        [
            name,
            f"{one.found / one.attacks:.1%} of {one.attacks}",
            f"{one.alarms / one.benign:.1%} of {one.benign}",
            f"{one.technician_alarms / one.technicians:.1%} of {one.technicians}",
        ]
        for name, one in guards.items()
        if one.attacks and one.benign and one.technicians
    ]
    note = "neuralchemy's test and technicians' sentences through `/v1/classify`, at each model's own threshold."
    return Table("The guard through the API", note, ["guard", "recall", "false alarms", "technicians' sentences"], rows)


def decode_rate(answer: Answer) -> float:
    """Tokens a second from the first text to the end."""
    return (answer.tokens - 1) / (answer.ended - answer.arrivals[0])


def machine(rounds: int, threads: int) -> str:
    """What the figures were taken on, and how. `threads`: of each of our runs; several run at once."""
    return results.machine(f"Threads: {threads} of each run, ours and the bare runtime's; torch has all", rounds=rounds)


keep = Part(BEGIN, END, HEADING).keep
