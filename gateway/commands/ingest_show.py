"""What `outstation ingest` and `outstation reindex` show of their progress: a line that changes, or lines."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from gateway.commands.common import printable
from gateway.commands.ingest_objects import Show

if TYPE_CHECKING:
    from rich.progress import Progress


@contextmanager
def showing(*, history: bool) -> Iterator[Show]:
    """On standard error: in a terminal one line that changes, elsewhere one line a file.

    Args:
        history: in a terminal too a line stays of each file.
    """
    if not sys.stderr.isatty():
        yield Lines()
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn
    from rich.table import Column

    column = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis"))
    with Progress(SpinnerColumn(), column, console=Console(stderr=True), transient=True) as progress:
        yield Line(progress, history=history)


class Lines:
    """For pipes and logs."""

    def done(self, path: str, text: str) -> None:
        """See `Show`."""
        click.echo(printable(f"{path}: {text}"), err=True)

    def now(self, done: int, total: int, failed: int, text: str) -> None:
        """Nothing: only what is done is a line."""

    def say(self, text: str) -> None:
        """See `Show`."""
        click.echo(printable(text), err=True)


class Line:
    """For a terminal."""

    def __init__(self, progress: Progress, *, history: bool) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=None)
        self._history = history

    def done(self, path: str, text: str) -> None:
        """See `Show`."""
        if self._history:
            self.say(f"{path}: {text}")

    def now(self, done: int, total: int, failed: int, text: str) -> None:
        """See `Show`."""
        parts = [f"{done}/{total}" if total else "", printable(text), f"{failed} failed" if failed else ""]
        self._progress.update(self._task, description="  ".join(part for part in parts if part))

    def say(self, text: str) -> None:
        """See `Show`."""
        self._progress.console.print(printable(text), markup=False, highlight=False)
