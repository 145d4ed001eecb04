"""From what `bench.overload` saw to its tables, and their place in RESULTS.md."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bench import results
from bench.overload_load import Seen
from bench.report import Table, ms
from bench.results import Part
from bench.stats import percentile

BEGIN = "<!-- written by `python -m bench.overload --write` -->"
END = "<!-- end of overload -->"
HEADING = """
## Overload

What `python -m bench.overload` saw: three times the load that the box can bear, every request with a deadline. The
provider is a process on loopback with the pace of a remote one (`bench/overload_provider.py`).

"""
ESTIMATE = re.compile(r"^(outstation_(?:estimate|completion)\w+)\{[^}]*\} (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Result:
    """What one variant gave.

    Attributes:
        capacity: requests a second that the box answers by itself.
        again: refusals that were tried once more after their `Retry-After`.
        estimates: what the gateway says of its estimates, by the metric's name.
    """

    variant: str
    capacity: float
    first: Sequence[Seen]
    again: Sequence[Seen] = ()
    estimates: Mapping[str, float] = field(default_factory=dict)

    def of(self, kind: str) -> list[Seen]:
        """Those of which the property `kind` is true."""
        return [one for one in self.first if getattr(one, kind)]


class Loads(Protocol):
    """What the notes say of the load; see `bench.overload.Plan`."""

    @property
    def seconds(self) -> float: ...
    @property
    def over(self) -> float: ...
    @property
    def most(self) -> int: ...


def estimates(metrics: str) -> dict[str, float]:
    """The figures of the estimates, from a page of metrics with one local model."""
    return {name: float(value) for name, value in ESTIMATE.findall(metrics)}


def tables(results: Sequence[Result], plan: Loads) -> list[Table]:
    """All tables of what was measured."""
    return [deadlines_table(results, plan), refusals_table(results), estimates_table(results)]


def deadlines_table(results: Sequence[Result], plan: Loads) -> Table:
    """Who was admitted, and who of them was in time."""
    rows = []
    for result in results:
        admitted, n = result.of("admitted"), len(result.first)
        late = [one for one in admitted if not one.met]
        rows.append(
            [
                result.variant,
                f"{result.capacity:.2f}/s",
                str(n),
                f"{len(admitted)} ({share(admitted, n)})",
                f"{len([one for one in admitted if one.local])}",
                f"**{share([one for one in admitted if one.met], len(admitted))}**",
                f"{len([one for one in late if one.local])} here, {len([one for one in late if not one.local])} there",
                ms(percentile((one.ttft_s for one in admitted if one.stream and one.met), 50)),
                str(len([one for one in result.first if not one.status])),
            ]
        )
    note = (
        f"Poisson arrivals at {plan.over:g} times the capacity for {plan.seconds:g} s, deadlines of 2 to 8 s, prompts "
        f"of 30 to 800 tokens, 16 to 96 asked, half of them streamed. A failure after admission is a miss. The *full "
        f"provider* takes {plan.most} requests at once and answers 429 to others."
    )
    header = ["variant", "capacity", "requests", "admitted", "of them here", "met", "misses", "TTFT p50", "hung"]
    return Table("Deadlines", note, header, rows)


def refusals_table(results: Sequence[Result]) -> Table:
    """How soon a refusal came, and whether what it said was true."""
    rows = []
    for result in results:
        refused, away = result.of("refused"), result.of("turned_away")
        rows.append(
            [
                result.variant,
                str(len(refused)),
                *(ms(percentile((one.took_s for one in refused), q)) for q in (50, 99)),
                share([one for one in refused if one.took_s <= 0.02], len(refused)),
                f"{len([one for one in result.again if one.met])} of {len(result.again)}",
                str(len(away)),
                ms(percentile((one.took_s for one in away), 50)),
            ]
        )
    note = (
        "*met later*: of the refusals that were tried once more after their `Retry-After`, in the overload itself "
        "(in *bursts*: after one). *turned away*: the provider was asked and had no room."
    )
    header = ["variant", "refused", "p50", "p99", "within 20 ms", "met later", "turned away", "p50"]
    return Table("Refusals", note, header, rows)


def estimates_table(results: Sequence[Result]) -> Table:
    """Of the last 200 local answers, as the gateway itself says."""
    names = ["ttft_within", "total_within", "ttft_factor", "total_factor"]
    rows = []
    for result in results:
        said = [result.estimates.get(f"outstation_estimate_{name}", float("nan")) for name in names]
        rows.append([result.variant, *(f"{value:.1%}" for value in said[:2]), *(f"{value:.2f}" for value in said[2:])])
    note = "Share of the last 200 local answers within the predicted 90% quantile, from `/metrics`."
    header = ["variant", "first token within", "end within", "factor of the first token", "of the end"]
    return Table("Estimates", note, header, rows)


def line(result: Result) -> str:
    """The most of it in one line."""
    admitted, refused = result.of("admitted"), result.of("refused")
    slow = percentile((one.took_s for one in refused), 99)
    return (
        f"{len(result.first)} requests, {len(admitted)} admitted, "
        f"{share([one for one in admitted if one.met], len(admitted))} met, {len(refused)} refused (p99 {ms(slow)})"
    )


def share(some: Sequence[Seen], all_of_them: int) -> str:
    """In per cent; a dash of nothing."""
    return f"{len(some) / all_of_them:.1%}" if all_of_them else "–"


def machine(model: Path) -> str:
    """What the figures were taken on."""
    file = f"Model: `{model.name}`, {model.stat().st_size:,} bytes"
    return results.machine(file, beside="load and provider on them too")


keep = Part(BEGIN, END, HEADING).keep
