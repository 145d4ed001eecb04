"""`outstation replay`: past decisions under another policy, and what would change."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.commands.common import echo_json, echo_table, json_option, parse_since, read_config

if TYPE_CHECKING:
    from gateway.replay import Replayed


@click.command()
@click.option(
    "--policy",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="The configuration to decide by.",
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
    from gateway.config import home_dir
    from gateway.replay import Replayed
    from gateway.replay import replay as decided_anew

    config = read_config(policy)
    rows = decisions((home or home_dir()) / "audit.db", since, time.time())
    results, mute = [], 0
    for result in decided_anew(rows, config):
        if isinstance(result, Replayed):
            results.append(result)
        else:
            mute += 1
    summary = _summary(results, mute)
    if as_json:
        echo_json({**summary, "changed": [_row(result) for result in results if result.changed]})
    else:
        _print(summary, results)


def _summary(results: Sequence[Replayed], mute: int) -> dict[str, Any]:
    """All of it in figures. Times in seconds, of those changed requests whose time can be told."""
    timed = [r for r in results if r.changed and r.total_after is not None]
    return {
        "decisions": len(results),
        "without_facts": mute,
        "changes": sum(r.changed for r in results),
        "cost_usd": {"before": sum(r.cost_before for r in results), "after": sum(r.cost_after for r in results)},
        "median_s": {
            "of": len(timed),
            "before": _median([r.total_before for r in timed]),
            "after": _median([r.total_after for r in timed if r.total_after is not None]),
        },
        "left_the_site": {
            "before": dict(Counter(r.left_before for r in results if r.left_before)),
            "after": dict(Counter(r.left_after for r in results if r.left_after)),
        },
        "classes_that_would_leave": _classes(results),
    }


def _classes(results: Sequence[Replayed]) -> dict[str, dict[str, int]]:
    """Provider to data class to requests, as they would be: redacted ones are marked."""
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for result in results:
        if result.left_after:
            mark = " (something redacted)" if result.redacted_after else ""
            found[result.left_after].update(f"{name}{mark}" for name in result.row.data_classes)
    return {provider: dict(counts) for provider, counts in found.items()}


def _print(summary: dict[str, Any], results: Sequence[Replayed]) -> None:
    click.echo(f"{summary['decisions']} decisions, {summary['changes']} would change.")
    if summary["without_facts"]:
        click.echo(f"{summary['without_facts']} rows hold no facts and were passed over.")
    moves = Counter((r.before, r.after, r.reason) for r in results if r.changed)
    if moves:
        click.echo()
        rows = [[before, after, str(count), reason[:60]] for (before, after, reason), count in moves.most_common(20)]
        echo_table(["BEFORE", "AFTER", "REQUESTS", "WHY"], rows)
    click.echo()
    cost, median = summary["cost_usd"], summary["median_s"]
    rows = [["cost", f"${cost['before']:.4f}", f"${cost['after']:.4f}"]]
    if median["of"]:
        rows.append([f"median time of {median['of']}", f"{median['before']:.2f} s", f"{median['after']:.2f} s"])
    left = summary["left_the_site"]
    rows += [
        [f"sent to {name}", str(left["before"].get(name, 0)), str(left["after"].get(name, 0))]
        for name in sorted({*left["before"], *left["after"]})
    ]
    echo_table(["", "BEFORE", "AFTER"], rows)
    for provider, classes in summary["classes_that_would_leave"].items():
        for name, count in classes.items():
            click.echo(f"{provider} would get {count} requests with {name}")


def _row(result: Replayed) -> dict[str, Any]:
    return {
        "request_id": result.row.request_id,
        "at": result.row.at,
        "before": result.before,
        "after": result.after,
        "cost_before": result.cost_before,
        "cost_after": result.cost_after,
        "reason": result.reason,
    }


def _median(values: Sequence[float]) -> float | None:
    from statistics import median

    return median(values) if values else None
