"""`outstation ingest --watch`: looks at the folder again and again, and brings the store in step with every change.

Looking needs no help of the system's: it works on network shares, in containers, and for folders of any size.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import click

from gateway.commands.client import Refused, Unreachable
from gateway.commands.ingest_folder import Listing, Look, Reader, Seen, Stillness, look
from gateway.commands.ingest_objects import Report, Show
from gateway.commands.ingest_plan import Plan
from gateway.commands.ingest_sync import Sync

LOOK_S: Final = 2.0
FOLLOW_S: Final = 0.5
"""While the gateway reads files in."""
WHOLE_S: Final = 300.0
"""After which the store is compared anew although the folder is as it was: others may have changed the store."""
LONGEST_WAIT_S: Final = 60.0


def emptied(plan: Plan, listing: Listing) -> str:
    """What to say if all that the folder had is gone: more likely a share that is not mounted than a wish."""
    if listing.sha256 or listing.held or not plan.vanished:
        return ""
    return (
        f"The folder is empty, and the vector store has {plan.vanished} files of it. "
        "Nothing was removed: if that is meant, say --delete."
    )


class Watch:
    """Goes on through everything but a wrong command line: a gateway that restarts, a share that is away.

    Args:
        begin: finds the store, with the counts so far.
        told: is called whenever the store is in step after a change.
        may_empty: an empty folder empties the store.
    """

    def __init__(
        self,
        folder: Path,
        begin: Callable[[Report], Sync],
        reader: Reader,
        show: Show,
        told: Callable[[Report], None],
        *,
        may_empty: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._begin = begin
        self._reader = reader
        self._show = show
        self._told = told
        self._may_empty = may_empty
        self._clock = clock
        self._stillness = Stillness()
        self._sync: Sync | None = None
        self._report = Report()
        self._began = False
        self._synced: Mapping[str, Seen | None] | None = None
        self._whole_at = 0.0
        self._trouble = ""
        self._wait_s = LOOK_S
        self._news = False

    def run(self) -> None:
        """For ever. Raises `click.ClickException` if it cannot even begin, `KeyboardInterrupt`."""
        self._show.say(f"Watching {self._folder}. Ctrl-C ends it.")
        while True:
            time.sleep(self.step())

    def step(self) -> float:
        """Looks once. Returns how long to wait for the next time (s)."""
        try:
            self._look()
        except click.ClickException as error:
            if not self._began and not _passing(error):
                raise
            self._complain(error.message)
            if isinstance(error, Refused | Unreachable):
                self._sync = self._synced = None  # what it knew of the gateway may not hold any more
            self._wait_s = min(self._wait_s * 2, LONGEST_WAIT_S)
            return self._wait_s
        if self._trouble:
            self._trouble = ""
            self._show.say("It goes on.")
        self._wait_s = LOOK_S
        return FOLLOW_S if self._sync and self._sync.pending else LOOK_S

    def _complain(self, text: str) -> None:
        """Once for each trouble, not at each try."""
        if text != self._trouble:
            self._show.say(text)
        self._trouble = text

    def _look(self) -> None:
        found = look(self._folder)
        moving = self._stillness.moving(found)
        gone = moving - found.files.keys()  # of a file that is renamed, too, until its new name is still
        if self._sync is None:
            self._sync = self._begin(self._report)
            if not self._began:
                self._began = True
                return  # whether a file is still is known from the second look on
        still = {path: seen for path, seen in found.files.items() if path not in moving} | dict.fromkeys(gone)
        if still != self._synced or self._sync.again or self._clock() >= self._whole_at:
            self._round(self._sync, found, moving)
            self._synced = still
        if self._sync.pending:
            self._sync.follow()
        if self._news and not self._sync.pending:
            self._news = False
            self._told(self._sync.report)

    def _round(self, sync: Sync, found: Look, moving: frozenset[str]) -> None:
        retry = self._clock() >= self._whole_at
        listing = self._reader.read(found, moving)
        plan = sync.plan(listing, retry=retry)
        if not self._may_empty and (text := emptied(plan, listing)):
            raise click.ClickException(text)
        sync.carry_out(plan, listing)
        self._report = sync.report
        self._whole_at = self._clock() + WHOLE_S
        self._news = self._news or not plan.empty


def _passing(error: click.ClickException) -> bool:
    """Whether it may be otherwise in a while, whatever the command line says."""
    return isinstance(error, Unreachable) or (
        isinstance(error, Refused) and error.status in (408, 429, *range(500, 600))
    )
