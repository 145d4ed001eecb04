"""From figures to the tables that are printed and kept in RESULTS.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import results
from bench.results import Part
from bench.scenarios import Disconnect, Idle, Neighbour
from bench.stats import Figures, middle

BEGIN = "<!-- written by `make bench BENCH_ARGS=--write` -->"
END = "<!-- end -->"
REFERENCE = "llama-server"


@dataclass(frozen=True, slots=True)
class Table:
    """A table with its title and what to know when reading it."""

    title: str
    note: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """The table as Markdown, its columns aligned so that a terminal shows it well too."""
        cells = [self.header, *self.rows]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.header))]
        lines = ["| " + " | ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)) + " |" for row in cells]
        lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
        return "\n".join([f"### {self.title}", "", self.note, "", *lines, ""])


Rounds = Mapping[tuple[str, int], Sequence[Figures]]
"""(server, streams) → its rounds."""


def load_table(title: str, note: str, rounds: Rounds) -> Table:
    """Tokens/s, TTFT and gaps of each server at each number of streams: the medians over the rounds."""
    middles = {key: middle(values) for key, values in rounds.items() if values}
    rows = []
    for (name, streams), figures in sorted(middles.items(), key=lambda item: item[0][1]):
        reference = middles.get((REFERENCE, streams))
        spread = [r.tokens_per_s for r in rounds[name, streams]]
        rows.append(
            [
                str(streams),
                name,
                f"{figures.tokens_per_s:.0f} ({min(spread):.0f}–{max(spread):.0f})",
                ratio(figures.tokens_per_s, reference.tokens_per_s if reference else None),
                *(ms(v) for v in (figures.ttft_p50, figures.ttft_p95, figures.gap_p50, figures.gap_p99)),
                str(figures.failed),
            ]
        )
    header = ["streams", "server", "tokens/s", f"× {REFERENCE}", "TTFT p50", "TTFT p95", "gap p50", "gap p99", "failed"]
    return Table(title, note, header, rows)


def neighbour_table(rounds: Mapping[str, Sequence[Neighbour]]) -> Table:
    """One stream beside a long prompt: medians over the rounds, the worst gap as well."""
    rows = [
        [
            name,
            ms(_median(r.longest_gap for r in values)),
            ms(max(r.longest_gap for r in values)),
            ms(_median(r.before for r in values)),
            ms(_median(r.neighbour_ttft for r in values)),
            str(round(_median(r.prompt_tokens for r in values))),
        ]
        for name, values in rounds.items()
        if values
    ]
    note = "One stream decodes while another client sends a long prompt that shares nothing with any other."
    header = ["server", "longest gap", "worst round", "longest gap before", "neighbour's TTFT", "prompt tokens"]
    return Table("A neighbour's long prompt", note, header, rows)


def disconnect_table(rounds: Mapping[str, Sequence[Disconnect]]) -> Table:
    """Time until a sequence is free after its client left: the medians, and the worst."""
    rows = []
    for name, values in rounds.items():
        decode, prefill = [r.in_decode for r in values], [r.in_prefill for r in values]
        if values:
            cells = (_median(decode), max(decode), _median(prefill), max(prefill))
            rows.append([name, *(ms(v) for v in cells)])
    note = "Seconds from closing the connection until the server's own status shows nothing running or waiting."
    header = ["server", "in decode", "worst", "in prefill", "worst"]
    return Table("A client that goes away", note.replace("Seconds", "Time"), header, rows)


def idle_table(figures: Idle, starts: int) -> Table:
    """A gateway without a model."""
    rows = [["outstation", f"{figures.ready_s:.2f} s", f"{figures.memory_bytes / 2**20:.0f} MiB"]]
    note = f"From the start of the process to `/healthz` 200; resident memory of its processes. Medians of {starts}."
    return Table("The gateway without a model", note, ["server", "ready", "memory"], rows)


def python_table(shares: Mapping[int, Sequence[float]]) -> Table:
    """The engine's Python as a share of the step."""
    rows = [[str(streams), f"{_median(values):.1%}"] for streams, values in sorted(shares.items()) if values]
    note = "Share of a step's time that is spent in Python and not in llama.cpp, in the throughput rounds above."
    return Table("The engine's Python per step", note, ["streams", "share"], rows)


def machine(model: Path, rounds: int, versions: str) -> str:
    """What the figures were taken on: CPU, cores, memory, system, versions, date."""
    file = f"Model: `{model.name}`, {model.stat().st_size:,} bytes"
    return results.machine(file, f"Packages: {versions}", rounds=rounds)


keep = Part(BEGIN, END).keep


def ms(seconds: float) -> str:
    """Milliseconds with a unit; a dash for what was not measured."""
    if seconds != seconds:  # NaN
        return "–"
    return f"{seconds * 1000:.1f} ms" if seconds < 0.1 else f"{seconds * 1000:,.0f} ms"


def ratio(value: float, reference: float | None) -> str:
    """How many times the reference; a dash without one."""
    return f"{value / reference:.2f}" if reference else "–"


def _median(values: Iterable[float]) -> float:
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
