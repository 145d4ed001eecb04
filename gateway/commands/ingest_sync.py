"""Carries a plan out against a running gateway, and follows what it reads in. Safe to be killed anywhere.

A file is sent, then put into the store, then waited for, and only then its predecessor goes: whatever happens in
between, the next run sees what is missing. A file that was sent and is in no store yet is found again by its name.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import click

from gateway.commands.client import Connection, Refused
from gateway.commands.ingest_folder import LONGEST_PATH, Listing, Reader, Seen, open_file
from gateway.commands.ingest_objects import (
    Folder,
    Pending,
    Report,
    Show,
    error_of,
    page_of,
    progress_of,
    remote_of,
    waiting_for,
    what_of,
)
from gateway.commands.ingest_plan import Plan, Remote, Upload, make_plan

STALL_S: Final = 900.0
"""Without any sign of work a run ends; the gateway goes on by itself if it can."""
_WINDOW: Final = 4
"""After so many that are under way the rest is not asked for: the gateway reads them in their order."""
_LOOK_S: Final = 1.0
_PURPOSE: Final = "assistants"
_TOO_LARGE: Final = 413
_OF_THE_FILE: Final = (400, _TOO_LARGE, 415, 422)
"""The gateway's answers that speak of the file, not of itself."""


class Sync:
    """One folder and one vector store. Its methods raise `Refused` and `Unreachable`.

    Attributes:
        pending: files that are waited for, by id.
        again: something was found otherwise than planned: another round is needed.
    """

    def __init__(
        self,
        link: Connection,
        store_id: str,
        folder: Folder,
        show: Show,
        reader: Reader,
        *,
        keep: bool = False,
        report: Report | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._link = link
        self._store = store_id
        self._files = f"/v1/vector_stores/{store_id}/files"
        self._folder = folder
        self._show = show
        self._reader = reader
        self._keep = keep
        self._clock = clock
        self._moved = self._looked = clock()
        self._orphans: dict[tuple[str, str], list[str]] | None = None
        self._stores: list[str] = []
        self._too_large: tuple[int, str] | None = None
        self._refused: dict[str, tuple[Seen, tuple[str, str]]] = {}
        self._done = self._total = 0
        self.pending: dict[str, Pending] = {}
        self.again = False
        self.report = report or Report()

    def plan(self, listing: Listing, *, retry: bool) -> Plan:
        """What there is to do."""
        remote = [remote_of(one) for one in self._link.every(self._files, limit=100, order="asc")]
        return make_plan(listing.sha256, remote, self._folder.root, held=listing.held, keep=self._keep, retry=retry)

    def carry_out(self, plan: Plan, listing: Listing) -> None:
        """Does it all, but does not wait until what was sent is read in: `follow` does."""
        self.again = False
        self._stores = []
        report, counts = Report(self.report.counts), self.report.counts
        self.report = report  # what failed before is found again, or is mended
        counts["unchanged"], counts["kept"] = plan.unchanged, plan.kept
        for path in listing.too_long:
            report.failures[path] = "path_too_long", f"Its path has more than {LONGEST_PATH} characters."
        self._explain(plan)
        self.pending = {wait.file.file_id: waiting_for(wait) for wait in plan.waits}
        self._done, self._total = 0, len(plan.uploads) + len(plan.waits)
        self._moved = self._clock()
        for rename in plan.renames:
            self._change(rename.file, rename.path)
        for remote in plan.removes:
            self._remove(remote, counted=remote.path not in listing.sha256)
        for wait in plan.waits:
            if wait.again:
                self._put(wait.file.file_id, wait.file.path, wait.file.sha256)
        for upload in plan.uploads:
            self._send(upload, listing.seen[upload.path])
            if self._clock() - self._looked > _LOOK_S:
                self.follow()
        if self._orphans is not None:
            self._orphans = {}  # from now on each file that is sent is known

    def _explain(self, plan: Plan) -> None:
        """The sentences of files that failed before: the list has them too, but a plan knows only codes."""
        for remote in plan.failed:
            one = self._link.get(f"{self._files}/{remote.file_id}")
            self.report.failures[remote.path] = error_of(one)

    def _change(self, remote: Remote, path: str) -> None:
        one = self._link.get(f"{self._files}/{remote.file_id}")
        attributes = {**(one.get("attributes") or {}), **self._attributes(path, remote.sha256)}
        self._link.post(f"{self._files}/{remote.file_id}", {"attributes": attributes})
        self.report.counts["renamed"] += 1
        self._show.done(path, f"renamed, was {remote.path}")

    def _attributes(self, path: str, sha256: str) -> dict[str, str]:
        return {"root": self._folder.root, "path": path, "sha256": sha256}

    def _send(self, upload: Upload, seen: Seen) -> None:
        path, verb = upload.path, "changed" if upload.replaces else "added"
        if self._refused_before(path, seen):
            return
        self._tell(path, "is sent")
        try:
            file_id, sha256 = self._adopted(upload) or self._uploaded(path, seen)
        except Refused as error:
            if error.status not in _OF_THE_FILE:
                raise
            self._refused[path] = seen, (error.code or "refused", error.message)
            if error.status == _TOO_LARGE:
                self._too_large = seen.size, error.message
            self._fail(path, *self._refused[path][1])
            return
        except OSError as error:
            self._fail(path, "unreadable", f"It cannot be read: {error.strerror or error}.")
            return
        if sha256 != upload.sha256:  # it was written to since it was looked at
            self._link.delete(f"/v1/files/{file_id}")
            self._reader.forget(path)
            self.again = True
            self._done += 1
            return
        self._put(file_id, path, sha256)
        self.pending[file_id] = Pending(path, verb, upload.replaces)

    def _refused_before(self, path: str, seen: Seen) -> bool:
        """It, or a smaller one than it that was too large: not sent again, nor told again."""
        before, refused = self._refused.get(path, (None, ("", "")))
        if before == seen:
            self._done += 1
            self.report.failures[path] = refused
        elif self._too_large and seen.size >= self._too_large[0]:
            self._refused[path] = seen, ("body_too_large", self._too_large[1])
            self._fail(path, *self._refused[path][1])
        else:
            return False
        return True

    def _uploaded(self, path: str, seen: Seen) -> tuple[str, str]:
        with open_file(seen) as content:
            sent = self._link.upload("/v1/files", self._folder.file_name(path), content, {"purpose": _PURPOSE})
        return sent["id"], sent["outstation"]["sha256"]

    def _put(self, file_id: str, path: str, sha256: str) -> None:
        self._link.post(self._files, {"file_id": file_id, "attributes": self._attributes(path, sha256)})

    def _adopted(self, upload: Upload) -> tuple[str, str] | None:
        """The file that an earlier run sent, and did not live to put into the store."""
        if self._orphans is None:
            self._orphans = {}
            for one in self._link.every("/v1/files", purpose=_PURPOSE):
                sha256 = (one.get("outstation") or {}).get("sha256", "")
                self._orphans.setdefault((one["filename"], sha256), []).append(one["id"])
        same = self._orphans.pop((self._folder.file_name(upload.path), upload.sha256), [])
        alone = next((file_id for file_id in same if not any(self._having(file_id))), None)
        return (alone, upload.sha256) if alone else None

    def _having(self, file_id: str) -> Iterator[str]:
        """The vector stores that have a file."""
        self._stores = self._stores or [one["id"] for one in self._link.every("/v1/vector_stores", limit=100)]
        for store in self._stores:
            try:
                self._link.get(f"/v1/vector_stores/{store}/files/{file_id}")
            except Refused as error:
                if error.status != 404:
                    raise
            else:
                yield store

    def _remove(self, remote: Remote, *, counted: bool) -> None:
        """At once from the store and from the files: nothing can be left between. What others have stays theirs."""
        if any(store != self._store for store in self._having(remote.file_id)):
            self._link.delete(f"{self._files}/{remote.file_id}")
        else:
            self._link.delete(f"/v1/files/{remote.file_id}")
        if counted:
            self.report.counts["removed"] += 1
            self._show.done(remote.path, "removed")

    def follow(self) -> bool:
        """Looks how far the gateway is. Whether something has come to its end."""
        self._looked = self._clock()
        settled, working, under_way = False, "", 0
        for file_id, waited in list(self.pending.items()):
            if under_way == _WINDOW:
                break
            try:
                one = self._link.get(f"{self._files}/{file_id}")
            except Refused as error:
                if error.status != 404:
                    raise
                del self.pending[file_id]  # somebody has taken it out
                self.again = settled = True
                continue
            said = (one["status"], progress_of(one))
            if said != waited.said:
                waited.said, self._moved = said, self._clock()
            if one["status"] == "in_progress":
                working, under_way = working or page_of(waited.path, one), under_way + 1
                continue
            del self.pending[file_id]
            settled = True
            self._settled(waited, one)
        self._tell("", working)
        if self.pending and self._clock() - self._moved > STALL_S:
            raise click.ClickException(
                f"The gateway has not gone on for {STALL_S / 60:.0f} minutes; {len(self.pending)} files wait to be "
                "read. Its log says why; the same command goes on from here."
            )
        return settled

    def _settled(self, waited: Pending, one: Mapping[str, Any]) -> None:
        if one["status"] == "completed":
            self._done += 1
            self.report.counts[waited.verb] += 1
            self._show.done(waited.path, waited.verb + what_of(one))
        else:
            self._fail(waited.path, *error_of(one))
        if remote_of(one).settled:
            for old in waited.replaces:
                self._remove(old, counted=False)

    def _fail(self, path: str, code: str, why: str) -> None:
        self._done += 1
        self.report.failures[path] = (code, why)
        self._show.done(path, f"failed. {why}")

    def _tell(self, path: str, text: str) -> None:
        self._show.now(self._done, self._total, len(self.report.failures), f"{path} {text}".strip())
