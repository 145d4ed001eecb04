"""`outstation audit`: what was decided, what left the site, and whether the record of both is whole."""

from __future__ import annotations

import sys
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.commands.common import echo_json, echo_table, json_option, parse_since, printable, size_text, time_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.audit import Decision, Departure

_since_option = click.option(
    "--since", callback=parse_since, metavar="AGE", help="Not older than `7d`, `12h` or `30m`."
)


@click.group()
def audit() -> None:
    """Show and check the record of decisions, and of what left the site."""


@audit.command()
@click.option("--head", "known", default="", metavar="HASH", help="A hash printed earlier, which it must still hold.")
@json_option
def verify(known: str, as_json: bool) -> None:
    """Check every row against the hash of the row before it.

    Exit code 1, with the first bad row, if anything was changed, removed or moved. Whoever can write the file can write
    all of it anew: only a head hash that was kept elsewhere shows that (`--head`).
    """
    from gateway.audit import verify as check

    found = check(_path(), known.strip().lower())
    if as_json:
        echo_json(asdict(found))
    elif found.ok:
        click.echo(f"{found.rows} rows are as they were written ({found.first} to {found.last}).")
        click.echo(f"head {found.head}")
    else:
        click.echo(f"The audit is not as it was written: {printable(found.why)}. {found.rows} rows before that are.")
    sys.exit(not found.ok)


@audit.command("ls")
@_since_option
@click.option("-n", "--last", "count", type=click.IntRange(1), default=20, show_default=True, help="How many at most.")
@json_option
def list_decisions(since: float | None, count: int, as_json: bool) -> None:
    """List the last decisions, the newest last."""
    from gateway.audit_reader import last_decisions

    rows = last_decisions(_path(), count, since or 0.0)
    if as_json:
        echo_json([_plain(row) for row in rows])
        return
    columns = ("TIME", "KEY", "ROUTE", "ENDING", "PROMPT", "COMPLETION", "USD", "REASON")
    echo_table(columns, [_decision_cells(row) for row in rows])


@audit.command()
@_since_option
@click.option("-n", "--last", "count", type=click.IntRange(1), default=100, show_default=True, help="How many at most.")
@json_option
def egress(since: float | None, count: int, as_json: bool) -> None:
    """List what left the site, the newest last, with totals of all of it for each provider."""
    from gateway.audit_reader import ledger

    last: deque[Departure] = deque(maxlen=count)
    totals: dict[str, Total] = {}
    for departure in _noted(ledger(_path(), since or 0.0), totals):
        last.append(departure)
    if as_json:
        echo_json(
            {"departures": [asdict(row) for row in last], "totals": [asdict(totals[name]) for name in sorted(totals)]}
        )
        return
    columns = ("TIME", "PROVIDER", "HOST", "BYTES", "CLASSES", "REDACTED")
    echo_table(columns, [_departure_cells(row) for row in last])
    if not totals:
        click.echo("Nothing has left the site.")
    for name in sorted(totals):
        total = totals[name]
        click.echo(
            f"{printable(name)}: {total.departures} sent, {size_text(total.bytes)}, "
            f"{total.classified} with data classes, {total.redacted} redacted"
        )


@dataclass(slots=True)
class Total:
    """What a provider got: how often, how much, and how much of it was sensitive or redacted."""

    provider: str
    departures: int = 0
    bytes: int = 0
    classified: int = 0
    redacted: int = 0


def _noted(departures: Iterable[Departure], totals: dict[str, Total]) -> Iterable[Departure]:
    for departure in departures:
        total = totals.setdefault(departure.provider, Total(departure.provider))
        total.departures += 1
        total.bytes += departure.bytes
        total.classified += bool(departure.classes)
        total.redacted += departure.redacted
        yield departure


def _decision_cells(row: Decision) -> tuple[str, ...]:
    ending = row.ending if not row.error or row.error == row.ending else f"{row.ending}: {row.error}"
    cells = (
        time_text(int(row.at)),
        row.key or "-",
        row.route or "-",
        ending,
        str(row.prompt_tokens),
        str(row.completion_tokens),
        f"{row.cost:.6f}" if row.cost else "-",
        "; ".join(row.reasons),
    )
    return tuple(_cell(cell) for cell in cells)


def _departure_cells(row: Departure) -> tuple[str, ...]:
    classes = ", ".join(row.classes) or "-"
    cells = (time_text(int(row.at)), row.provider, row.host, str(row.bytes), classes, "yes" if row.redacted else "no")
    return tuple(_cell(cell) for cell in cells)


def _cell(text: str) -> str:
    return printable(text).replace("\n", " ").replace("\t", " ")


def _plain(row: Decision) -> dict[str, Any]:
    data = asdict(row)
    del data["facts"]
    return data


def _path() -> Path:
    from gateway.config import home_dir

    return home_dir() / "audit.db"
