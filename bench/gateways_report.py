"""From the rounds of `bench.gateways` to its tables, and their place in RESULTS.md."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Protocol

from bench import results
from bench.gateways_load import QUESTION, SYSTEM, Calls, Streams
from bench.report import Table, ms
from bench.results import Part
from bench.upstream import CONTENT

BEGIN = "<!-- written by `make bench-gateways BENCH_ARGS=--write` -->"
END = "<!-- end of gateways -->"


@dataclass(frozen=True, slots=True)
class Round:
    """What one round of one gateway gave. Seconds and bytes.

    Attributes:
        streams: by how many were begun at once.
        cpu_s: the gateway's processor time for one request of the throughput.
        ready_s: from the start of its process to its first 200.
        memory: resident, of its processes: a second after the start, and after all load; None for the upstream.
    """

    latency: Calls
    throughput: Calls
    streams: Mapping[int, Streams]
    cpu_s: float
    ready_s: float
    memory: tuple[int, int] | None


class Loads(Protocol):
    """What the notes say of the load; see `bench.gateways.Plan`."""

    @property
    def clients(self) -> int: ...
    @property
    def seconds(self) -> float: ...
    @property
    def deltas(self) -> int: ...
    @property
    def interval_s(self) -> float: ...


Rounds = Mapping[str, Sequence[Round]]
"""Gateway → its rounds."""


def tables(rounds: Rounds, plan: Loads) -> list[Table]:
    """All tables of what was measured."""
    found = [latency_table(rounds), throughput_table(rounds, plan)]
    if any(one.streams for values in rounds.values() for one in values):
        found.append(streams_table(rounds, plan))
    return [*found, start_table(rounds)]


def latency_table(rounds: Rounds) -> Table:
    """One client, one request after another."""
    rows = []
    for name, values in _ran(rounds):
        calls = [one.latency for one in values]
        rows.append(
            [
                name,
                spread([c.at(50) for c in calls], fine),
                fine(median(c.at(99) for c in calls)),
                str(sum(len(c.times) for c in calls)),
                str(sum(c.failed for c in calls)),
            ]
        )
    note = "One client that keeps its connection, one request after another."
    return Table("Latency of one request", note, ["gateway", "p50", "p99", "requests", "failed"], rows)


def throughput_table(rounds: Rounds, plan: Loads) -> Table:
    """Many clients, each with its next request as soon as it is answered."""
    rows = []
    for name, values in _ran(rounds):
        calls = [one.throughput for one in values]
        rows.append(
            [
                name,
                spread([c.rate for c in calls], lambda rate: f"{rate:,.0f}"),
                fine(median(c.at(50) for c in calls)),
                fine(median(c.at(99) for c in calls)),
                fine(median(one.cpu_s for one in values)),
                str(sum(c.failed for c in calls)),
            ]
        )
    note = (
        f"{plan.clients} clients that keep their connections, {plan.seconds:g} s a round. "
        "*CPU*: the gateway's processor time for one request."
    )
    return Table("Requests a second", note, ["gateway", "requests/s", "p50", "p99", "CPU", "failed"], rows)


def streams_table(rounds: Rounds, plan: Loads) -> Table:
    """Streams begun at one moment. Frames and streams of all rounds are added up: none may be lost in a median."""
    rows = []
    for name, values in _ran(rounds):
        for count in sorted({count for one in values for count in one.streams}):
            seen = [one.streams[count] for one in values if count in one.streams]
            rows.append(
                [
                    str(count),
                    name,
                    f"{sum(s.whole for s in seen):,} of {sum(s.streams for s in seen):,}",
                    f"{sum(s.expected - s.frames for s in seen):,} of {sum(s.expected for s in seen):,}",
                    spread([s.seconds for s in seen], lambda seconds: f"{seconds:.2f}", " s"),
                    *(ms(median(values)) for values in ([s.ttft_p99 for s in seen], [s.gap_p99 for s in seen])),
                ]
            )
    note = (
        f"Begun at one moment, {plan.deltas} deltas each, one every {plan.interval_s * 1000:g} ms: the last one ends "
        f"{plan.deltas * plan.interval_s:.2f} s after its request at the earliest. *whole*: every delta, in order, "
        "once, and `[DONE]`."
    )
    header = ["streams", "gateway", "whole", "frames lost", "all ended after", "TTFT p99", "gap p99"]
    return Table("Streams held", note, header, rows)


def start_table(rounds: Rounds) -> Table:
    """What a gateway costs before it does anything, and after."""
    rows = []
    for name, values in _ran(rounds):
        memory = [one.memory for one in values if one.memory is not None]
        if memory:
            rest, after = (f"{median(both[i] for both in memory) / 2**20:.0f} MiB" for i in (0, 1))
            rows.append([name, spread([one.ready_s for one in values], lambda s: f"{s:.2f}", " s"), rest, after])
    note = "From the start of the process to its first 200; resident memory of its processes."
    return Table("Start and memory", note, ["gateway", "ready", "memory at rest", "after the load"], rows)


def machine(rounds: int, versions: str, pinned: str, plan: Loads) -> str:
    """What the figures were taken on, and how."""
    asked = f"Each request asks {len(SYSTEM + QUESTION)} characters, each answer has {len(CONTENT)}"
    return results.machine(f"Pinned: {pinned}", f"Packages: {versions}", asked, rounds=rounds)


keep = Part(BEGIN, END).keep


def spread(values: Iterable[float], show: Callable[[float], str], unit: str = "") -> str:
    """The median with the lowest and the highest: `3,100 (2,900–3,200)`."""
    ordered = sorted(values)
    if len(ordered) < 2:
        return "".join(show(value) for value in ordered) + unit
    return f"{show(median(ordered))} ({show(ordered[0])}–{show(ordered[-1])}){unit}"


def fine(seconds: float) -> str:
    """Milliseconds down to a hundredth; a dash for what was not measured."""
    return "–" if seconds != seconds else f"{seconds * 1000:,.2f} ms"


def _ran(rounds: Rounds) -> Iterable[tuple[str, Sequence[Round]]]:
    return [(name, values) for name, values in rounds.items() if values]
