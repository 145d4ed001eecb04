"""`outstation replay`: past decisions under another policy, and what would change."""

from __future__ import annotations

import json
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.commands.common import echo_table, json_option, parse_since, printable

if TYPE_CHECKING:
    from gateway.replay import Replayed

SHOWN = 20
MOST_MOVES = 10_000
NUMBER = re.compile(r"(?<=[\s$])\d+(?:\.\d+)?")


@click.command()
@click.option(
    "--policy",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="The configuration to decide by. No key is read.",
)
@click.option("--since", default="7d", show_default=True, callback=parse_since, help="How far back: 30m, 12h, 7d.")
@click.option("--home", type=click.Path(path_type=Path, file_okay=False), help="Whose audit. Default: the home.")
@json_option
def replay(policy: Path, since: float, home: Path | None, as_json: bool) -> None:
    """Decide past requests anew by another configuration; run nothing, send nothing.

    Prints what would change: routes, money, time, and what would have left the site.
    """
    import time

    from gateway.audit_reader import decisions
    from gateway.config import ConfigError, home_dir, load_config
    from gateway.replay import Replay, Replayed

    try:
        decided_anew = Replay(load_config(policy, to_serve=False))
    except ConfigError as error:
        raise click.ClickException(str(error)) from error
    summary = Summary()
    listed = Listing() if as_json else None
    for result in decided_anew.decide(decisions((home or home_dir()) / "audit.db", since, time.time())):
        if not isinstance(result, Replayed):
            summary.without_facts += 1
            continue
        summary.add(result)
        if listed and result.changed:
            listed.add(_row(result))
    if listed:
        listed.end(summary.data())
    else:
        _print(summary)


@dataclass(slots=True)
class Summary:
    """All of it in figures; no row is kept. Two numbers, before and after, wherever there is a pair."""

    decisions: int = 0
    without_facts: int = 0
    changes: int = 0
    cost: list[float] = field(default_factory=lambda: [0.0, 0.0])
    seconds: tuple[array[float], array[float]] = field(default_factory=lambda: (array("d"), array("d")))
    left: tuple[Counter[str], Counter[str]] = field(default_factory=lambda: (Counter(), Counter()))
    unsearched: Counter[str] = field(default_factory=Counter)
    classes: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    redacted: Counter[str] = field(default_factory=Counter)
    moves: Counter[tuple[str, str, str]] = field(default_factory=Counter)

    def add(self, result: Replayed) -> None:
        """One decision."""
        self.decisions += 1
        self.cost[0] += result.cost_before
        self.cost[1] += result.cost_after
        self.left[0].update(result.left_before)
        self.left[1].update(result.left_after)
        for provider in result.left_after:
            self.classes[provider].update(result.row.data_classes)
            self.redacted[provider] += result.redacted_after
            self.unsearched[provider] += not result.searched
        if result.changed:
            self._moved(result)

    def _moved(self, result: Replayed) -> None:
        self.changes += 1
        # One line for all that differ in a number only.
        why = NUMBER.sub("#", result.reason)
        move = result.before, f"not {result.lost} after it" if result.lost else result.after, why
        if move not in self.moves and len(self.moves) >= MOST_MOVES:
            move = (*move[:2], "…")
        self.moves[move] += 1
        if result.total_after is not None:
            self.seconds[0].append(result.total_before)
            self.seconds[1].append(result.total_after)

    def data(self) -> dict[str, Any]:
        """For `--json`. Times in seconds, of those changed requests whose time can be told."""
        return {
            "decisions": self.decisions,
            "without_facts": self.without_facts,
            "changes": self.changes,
            "cost_usd": {"before": self.cost[0], "after": self.cost[1]},
            "median_s": {
                "of": len(self.seconds[0]),
                "before": _median(self.seconds[0]),
                "after": _median(self.seconds[1]),
            },
            "redaction": "assumed to succeed",
            "left_the_site": {"before": dict(self.left[0]), "after": dict(self.left[1])},
            "would_leave": {
                name: {
                    "requests": self.left[1][name],
                    "redacted": self.redacted[name],
                    "unsearched": self.unsearched[name],
                    "data_classes": dict(self.classes[name]),
                }
                for name in sorted(self.left[1])
            },
        }


class Listing:
    """Prints the changed decisions as they come, as members of one JSON object: there may be very many."""

    def __init__(self, echo: Callable[[str], object] = click.echo) -> None:
        self._echo = echo
        self._before = '{\n  "changed": ['

    def add(self, row: Mapping[str, Any]) -> None:
        """One more."""
        self._echo(self._before + ("," if self._before.endswith("}") else ""))
        self._before = f"    {json.dumps(row, ensure_ascii=False)}"

    def end(self, rest: Mapping[str, Any]) -> None:
        """The other members."""
        self._echo(f"{self._before}\n  ],\n{json.dumps(rest, indent=2, ensure_ascii=False)[2:]}")


def _print(summary: Summary) -> None:
    click.echo(f"{_of(summary.decisions, 'decision')}, {summary.changes} would change.")
    if summary.without_facts:
        click.echo(f"{_of(summary.without_facts, 'row')} without facts to decide by passed over.")
    if summary.moves:
        click.echo()
        top = summary.moves.most_common(SHOWN)
        rows = [[before, after, str(count), printable(why)[:100] or "-"] for (before, after, why), count in top]
        echo_table(["BEFORE", "AFTER", "REQUESTS", "WHY"], rows)
        if rest := summary.changes - sum(count for _, count in top):
            click.echo(f"and {rest} more (--json lists all)")
    click.echo()
    rows = [["cost", f"${summary.cost[0]:.4f}", f"${summary.cost[1]:.4f}"]]
    before, after = (_median(seconds) for seconds in summary.seconds)
    if before is not None and after is not None:
        rows.append([f"median time of {len(summary.seconds[0])} changed", f"{before:.2f} s", f"{after:.2f} s"])
    rows += [
        [f"requests sent to {name}", str(summary.left[0][name]), str(summary.left[1][name])]
        for name in sorted({*summary.left[0], *summary.left[1]})
    ]
    echo_table(["", "BEFORE", "AFTER"], rows)
    _print_classes(summary)


def _print_classes(summary: Summary) -> None:
    rows = [[p, name, str(count)] for p in sorted(summary.left[1]) for name, count in summary.classes[p].most_common()]
    if rows:
        click.echo()
        echo_table(["WOULD GO TO", "DATA CLASS", "REQUESTS"], rows)
    for name in sorted(summary.left[1]):
        if summary.redacted[name]:
            click.echo(
                f"{_of(summary.redacted[name], 'request')} would reach {name} redacted, if all that must be replaced "
                "can be: no text is kept to try it on."
            )
        if summary.unsearched[name]:
            click.echo(
                f"{_of(summary.unsearched[name], 'request')} to {name} had no text searched for private data then: "
                "privacy may hold some of them back."
            )


def _of(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _row(result: Replayed) -> dict[str, Any]:
    row = result.row
    return {
        "request_id": row.request_id,
        "at": row.at,
        "key": row.key,
        "model": row.model,
        "before": result.before,
        "after": result.after,
        "lost": result.lost or None,
        "reason": result.reason,
        "cost_before": result.cost_before,
        "cost_after": result.cost_after,
        "total_s_before": result.total_before,
        "total_s_after": result.total_after,
        "left_before": result.left_before,
        "left_after": result.left_after,
        "data_classes": row.data_classes,
        "redacted_after": result.redacted_after,
        "searched": result.searched,
    }


def _median(values: array[float]) -> float | None:
    from statistics import median

    return median(values) if values else None
