"""`outstation ingest`: bring a vector store in step with a folder, once or for good."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from gateway.commands.client import Connection, Gateway, gateway_options
from gateway.commands.common import echo_json, echo_table, json_option, printable
from gateway.commands.ingest_folder import Listing, Reader, look
from gateway.commands.ingest_folder import lock as lock_folder
from gateway.commands.ingest_objects import Folder, Report, Show
from gateway.commands.ingest_show import showing
from gateway.commands.ingest_sync import Sync
from gateway.commands.ingest_watch import Watch, emptied
from gateway.commands.vector_stores import find_store

_VERBS: Final = ("added", "changed", "renamed", "removed", "unchanged", "kept")
_ROUNDS: Final = 3  # a file that is written to during each of them will have to wait for the next run


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line says. `delete`: None is said neither way."""

    folder: Path
    store: str
    data_class: str | None
    delete: bool | None
    root: str


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--store", metavar="NAME|ID", help="The vector store; made if there is none. Default: the folder's name.")
@click.option("--watch", is_flag=True, help="Go on, and follow every change, until Ctrl-C.")
@click.option("--data-class", help="What a new vector store holds: it decides whether passages may leave the site.")
@click.option(
    "--delete/--keep",
    default=None,
    help="Whether files that have vanished leave the store. Default: they do, unless the whole folder is empty.",
)
@click.option("--root", help="What the folder is known by. Say the same if it has moved. Default: made from its path.")
@json_option
@gateway_options
def ingest(
    directory: Path,
    store: str | None,
    watch: bool,
    data_class: str | None,
    delete: bool | None,
    root: str | None,
    as_json: bool,
    url: str,
) -> None:
    """Bring a vector store in step with the files in DIR: new, changed, renamed and vanished ones.

    Files that came into the store in another way are never touched. An interrupted ingest is resumed by the same
    command.
    """
    folder = directory.resolve()
    name = store or folder.name
    if not name:
        raise click.UsageError("Name the vector store: --store NAME.")
    wanted = Wanted(folder, name, data_class, delete, root or _root(folder))
    gateway = Gateway(url, os.environ.get("OUTSTATION_API_KEY"))
    try:
        with ExitStack() as stack:
            held = lock_folder(folder)
            if held is not None:
                stack.callback(os.close, held)
            show = stack.enter_context(showing(history=watch))
            link = stack.enter_context(gateway.connected())
            if watch:
                _watch(link, wanted, show, as_json=as_json)
            found, report, listing = _once(link, wanted, show)
    except KeyboardInterrupt:
        click.echo("\nStopped. What was sent is kept: the same command goes on from there.", err=True)
        sys.exit(130)
    _tell(found, wanted.root, report, listing, as_json=as_json)
    if report.failures:
        sys.exit(1)


def _root(folder: Path) -> str:
    """Readable, the same for the same folder, and without the box's directories: attributes are shown to clients."""
    return f"{folder.name[:64]}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:8]}"


def _open(link: Connection, wanted: Wanted) -> Any:
    """The vector store, made if there is none of that name."""
    store = find_store(link, wanted.store)
    if store is None:
        if wanted.store.startswith("vs_"):
            raise click.ClickException(printable(f"There is no vector store {wanted.store}."))
        own = {"outstation": {"data_class": wanted.data_class}} if wanted.data_class else {}
        return link.post("/v1/vector_stores", {"name": wanted.store, **own})
    if store["status"] == "expired":
        raise click.ClickException(
            printable(f"The vector store {wanted.store} has expired. Delete it, or name another.")
        )
    has = (store.get("outstation") or {}).get("data_class")
    if wanted.data_class and wanted.data_class != has:
        raise click.ClickException(
            printable(f"The vector store {wanted.store} has the data class {has}; --data-class is for a new one.")
        )
    return store


def _sync(
    link: Connection, store: Mapping[str, Any], wanted: Wanted, show: Show, reader: Reader, report: Report
) -> Sync:
    folder = Folder(wanted.root, wanted.folder.name or wanted.root)
    return Sync(link, store["id"], folder, show, reader, keep=wanted.delete is False, report=report)


def _once(
    link: Connection, wanted: Wanted, show: Show, sleep: Callable[[float], None] = time.sleep
) -> tuple[Any, Report, Listing]:
    reader = Reader()
    store = _open(link, wanted)
    sync = _sync(link, store, wanted, show, reader, Report())
    for round_ in range(_ROUNDS):
        listing = reader.read(look(wanted.folder))
        plan = sync.plan(listing, retry=not round_)
        if wanted.delete is None and emptied(plan, listing):
            raise click.ClickException(printable(emptied(plan, listing)))
        sync.carry_out(plan, listing)
        wait_s = 0.1
        while sync.pending:
            sleep(wait_s)
            wait_s = 0.1 if sync.follow() else min(wait_s * 1.5, 1.0)
        if not sync.again:
            return store, sync.report, listing
    sync.report.failures["."] = "changing", "Some files were written to all the time. The same command goes on."
    return store, sync.report, listing


def _watch(link: Connection, wanted: Wanted, show: Show, *, as_json: bool) -> None:
    """Does not return."""
    reader = Reader()

    def begin(report: Report) -> Sync:
        return _sync(link, _open(link, wanted), wanted, show, reader, report)

    def told(report: Report) -> None:
        if as_json:
            click.echo(json.dumps(_summary(report), ensure_ascii=False))
        else:
            show.say(_sentence(report))

    Watch(wanted.folder, begin, reader, show, told, may_empty=wanted.delete is not None).run()


def _summary(report: Report) -> dict[str, Any]:
    failed = [{"path": path, "code": code, "message": why} for path, (code, why) in sorted(report.failures.items())]
    return {**{verb: report.counts[verb] for verb in _VERBS}, "failed": failed}


def _sentence(report: Report) -> str:
    said = [f"{report.counts[verb]} {verb}" for verb in _VERBS if report.counts[verb]]
    said += [f"{len(report.failures)} failed"] if report.failures else []
    return ", ".join(said) or "nothing to do"


def _tell(store: Any, root: str, report: Report, listing: Listing, *, as_json: bool) -> None:
    skipped = {kind: count for kind, count in sorted(listing.skipped.items()) if count}
    if as_json:
        known = {"id": store["id"], "name": store["name"]}
        echo_json({"vector_store": known, "root": root, **_summary(report), "skipped": skipped})
        return
    passed = f"; skipped: {', '.join(f'{count} {kind}' for kind, count in skipped.items())}" if skipped else ""
    click.echo(printable(f"{store['name']} ({store['id']}): {_sentence(report)}{passed}."))
    if report.failures:
        click.echo()
        rows = [(path, code, why) for path, (code, why) in sorted(report.failures.items())]
        echo_table(("FILE", "CODE", "WHY"), [tuple(printable(cell) for cell in row) for row in rows])
