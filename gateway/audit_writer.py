"""The audit's own thread: what is queued becomes rows, a transaction for each batch; a failure is tried again."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.audit_journal import Journal
from gateway.audit_rows import Decision, Row, decision_row
from gateway.audit_store import Store, what_is_wrong

if TYPE_CHECKING:
    from gateway.audit_reader import Spent

log = logging.getLogger("outstation.audit")

TIDY_S: Final = 60.0
MOST_AT_ONCE: Final = 128  # about a millisecond of the interpreter's lock

Item = Decision | Row | int
"""A decision; a departure, already in the journal; or the number of a journal file that got full."""


class Writer:
    """Owns the files. Its methods belong to one thread; others read the attributes.

    Attributes:
        why: what is wrong; empty: nothing.
        lost: decisions that could not be kept.
        spent: as it was when the file was first opened; None: it has not been.
        departed: the number of the last departure then.
        journal: only once `spent` is there.
    """

    journal: Journal

    def __init__(
        self,
        path: Path,
        keep_s: float,
        clock: Callable[[], float],
        queue: deque[Item],
        closing: threading.Event,
    ) -> None:
        self._path = path
        self._keep_s = keep_s
        self._clock = clock
        self._queue = queue
        self._closing = closing
        self._store: Store | None = None
        self._locked: Journal | None = None
        self._batch: list[Row] = []
        self._full: int | None = None
        self._tried = b""
        self._tidied = float("-inf")
        self.departed = 0
        self.spent: list[Spent] | None = None
        self.why = "The audit is being opened."
        self.lost = 0

    def work(self) -> bool:
        """Writes all that is queued. False: it could not, and says why; what was queued stays."""
        try:
            store = self._store = self._store or self._opened()
            while self._fill():
                if self._batch:
                    store.append(self._batch)
                    self._batch = []
                if self._full is not None:
                    # On the disk before the journal forgets: the power may fail as well.
                    store.checkpoint()
                    self.journal.clear(self._full)
                    self._full = None
            self._tidy(store)
        except Exception as error:  # noqa: BLE001 - the thread must live on: without it nothing may leave
            self._fail(error)
            return False
        if self.why:
            log.info("the audit is open: row %d, hash %s", store.head[0], store.head[1].hex())
            self.why = ""
        return True

    def finish(self) -> None:
        """Lets go of the files. Work that could not be done is lost."""
        waiting = len(self._batch) + len(self._queue)
        if waiting:
            self.lost += waiting
            log.error("%d rows of the audit are lost: %s", waiting, self.why)
        if self._store:
            head_id, head = self._store.head
            with contextlib.suppress(Exception):
                self._store.checkpoint()
                if not waiting:
                    self.journal.clear_all()
                log.info("the audit is closed: row %d, hash %s", head_id, head.hex())
            self._close_store()
        if self._locked:
            self._locked.close()
        self.why = "The audit is closed."

    def _fill(self) -> bool:
        """Takes rows from the queue, up to a journal file's end. False: there is nothing to do."""
        while self._full is None and len(self._batch) < MOST_AT_ONCE and self._queue:
            item = self._queue.popleft()
            if isinstance(item, int):
                self._full = item
            elif isinstance(item, Row):
                self._batch.append(item)
            else:
                self._encode(item)
        return bool(self._batch) or self._full is not None

    def _encode(self, decision: Decision) -> None:
        try:
            self._batch.append(decision_row(decision))
        except Exception as error:  # noqa: BLE001 - one row that cannot be written must not stop the others
            self.lost += 1
            log.error("the decision of %s is lost: %s", decision.request_id, error)

    def _opened(self) -> Store:
        """The store; and the first time, when no request is under way, what a crash left open is ended."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._locked is None:
            self._locked = Journal(self._path.parent)
        store = Store(self._path)
        try:
            if self.spent is None:
                self._recover(store, self._locked)
            elif self._batch and store.head[1] == self._tried:
                self._batch = []  # It had been committed, although the commit said otherwise.
        except BaseException:
            store.close()
            raise
        return store

    def _recover(self, store: Store, journal: Journal) -> None:
        rows, torn = journal.rows()
        ended = store.recover(rows)
        store.checkpoint()
        journal.clear_all()
        if torn:
            log.warning("%d lines of the egress journal could not be read", torn)
        if ended:
            log.warning("%d requests were under way when the gateway ended; they are charged", ended)
        self.journal, self.departed, self.spent = journal, store.departed, store.spent()

    def _tidy(self, store: Store) -> None:
        if time.monotonic() - self._tidied < TIDY_S:
            return
        while store.remove_before(self._clock() - self._keep_s):
            if self._queue or self._closing.is_set():
                return
        self._tidied = time.monotonic()

    def _fail(self, error: Exception) -> None:
        why = f"The audit is not available: {what_is_wrong(error)}."
        if why != self.why:
            log.error("%s Nothing leaves the site until then. (%s)", why, self._path)
        self.why = why
        if self._store:
            self._tried = self._store.tried
            self._close_store()

    def _close_store(self) -> None:
        if self._store:
            with contextlib.suppress(Exception):
                self._store.close()
        self._store = None
