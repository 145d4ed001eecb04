"""What brings a vector store in step with a folder. Pure: two listings in, actions out.

A file of the folder is known by its path and its content. A file of the store is the folder's own if its attributes say
so (`root`, `path`); whatever else is in the store is not looked at.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Final

_RANK: Final = {"completed": 0, "in_progress": 1, "failed": 2}


@dataclass(frozen=True, slots=True)
class Remote:
    """A file of the store.

    Attributes:
        root, path: which folder's, and where in it; empty if nothing says so.
        status: in_progress, completed, failed or cancelled.
        created: Unix time (s) at which it came into the store.
        error: the code of its last error.
    """

    file_id: str
    root: str
    path: str
    sha256: str
    status: str
    created: float = 0.0
    error: str = ""

    @property
    def settled(self) -> bool:
        """Nothing more will come of it. An error of the gateway's own says nothing about the file."""
        return self.status == "completed" or (self.status == "failed" and self.error != "server_error")

    @property
    def rank(self) -> tuple[int, float, str]:
        """The lowest of several with the same content is the one to keep."""
        return _RANK.get(self.status, 3), self.created, self.file_id


@dataclass(frozen=True, slots=True)
class Upload:
    """Send the file at `path`. `replaces`: what may go as soon as the new one is settled."""

    path: str
    sha256: str
    replaces: tuple[Remote, ...] = ()


@dataclass(frozen=True, slots=True)
class Rename:
    """The same content is at `path` now."""

    file: Remote
    path: str


@dataclass(frozen=True, slots=True)
class Wait:
    """It is there and not settled yet. `again`: it has to be begun anew."""

    file: Remote
    replaces: tuple[Remote, ...] = ()
    again: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """To be carried out in this order.

    Attributes:
        renames: only attributes change.
        removes: nothing that a search could still need. `vanished` of them have no file any more, the others were
            replaced or are doubles.
        waits: files that are on their way already.
        uploads: by path.
        failed: the content is the folder's, and could not be read.
        unchanged: how many are in step.
        kept: how many have vanished and stay.
    """

    renames: tuple[Rename, ...] = ()
    removes: tuple[Remote, ...] = ()
    waits: tuple[Wait, ...] = ()
    uploads: tuple[Upload, ...] = ()
    failed: tuple[Remote, ...] = ()
    vanished: int = 0
    unchanged: int = 0
    kept: int = 0

    @property
    def empty(self) -> bool:
        """Nothing to do but to wait."""
        waits = any(wait.again for wait in self.waits)
        return not (self.renames or self.removes or self.uploads or waits)


@dataclass(slots=True)
class _Draft:
    renames: list[Rename] = field(default_factory=list)
    removes: list[Remote] = field(default_factory=list)
    waits: list[Wait] = field(default_factory=list)
    uploads: list[Upload] = field(default_factory=list)
    failed: list[Remote] = field(default_factory=list)
    vanished: int = 0
    unchanged: int = 0
    kept: int = 0


def make_plan(
    local: Mapping[str, str],
    remote: Iterable[Remote],
    root: str,
    *,
    held: Collection[str] = (),
    keep: bool = False,
    retry: bool = False,
) -> Plan:
    """The actions after which `remote` holds what `local` does.

    Args:
        local: SHA-256 (hex) by path.
        remote: everything that is in the store.
        root: whose files are ours.
        held: paths and folders that cannot be read now: what the store has of them stays as it is.
        keep: files that have vanished stay.
        retry: what failed through no fault of its own is begun anew.
    """
    mine = sorted((r for r in remote if r.root == root and r.path and not _is_held(r.path, held)), key=lambda r: r.rank)
    draft = _Draft()
    exact, spare = _exact(local, mine)
    _rename(local, exact, spare, draft)
    stale = defaultdict(list)
    for file in spare.values():
        if file.path in local and file.status == "completed" and file.sha256 != local[file.path]:
            stale[file.path].append(file)
        elif file.path not in local and keep:
            draft.kept += 1
        else:
            draft.vanished += file.path not in local
            draft.removes.append(file)
    renamed = {rename.path: replace(rename.file, path=rename.path) for rename in draft.renames}
    for path in sorted(local):
        if path in exact:
            draft.unchanged += exact[path].status == "completed"
            _settle(exact[path], stale[path], draft, retry=retry)
        elif path in renamed:
            _settle(renamed[path], stale[path], draft, retry=retry)
        else:
            draft.uploads.append(Upload(path, local[path], tuple(stale[path])))
    return Plan(
        tuple(draft.renames),
        tuple(draft.removes),
        tuple(draft.waits),
        tuple(draft.uploads),
        tuple(draft.failed),
        draft.vanished,
        draft.unchanged,
        draft.kept,
    )


def _exact(local: Mapping[str, str], mine: Sequence[Remote]) -> tuple[dict[str, Remote], dict[str, Remote]]:
    """The best file of each path with the right content; and all others by their id."""
    exact: dict[str, Remote] = {}
    spare: dict[str, Remote] = {}
    for file in mine:
        if local.get(file.path) == file.sha256 and file.path not in exact:
            exact[file.path] = file
        else:
            spare[file.file_id] = file
    return exact, spare


def _rename(local: Mapping[str, str], exact: Mapping[str, Remote], spare: dict[str, Remote], draft: _Draft) -> None:
    """Takes from `spare` what other paths need. What a file is read as hangs on its suffix: that has to be the same."""
    have = defaultdict(list)
    for file in reversed(spare.values()):  # the best at the end
        have[file.sha256, _suffix(file.path)].append(file)
    for path in sorted(local.keys() - exact.keys()):
        if files := have[local[path], _suffix(path)]:
            file = files.pop()
            del spare[file.file_id]
            draft.renames.append(Rename(file, path))


def _settle(file: Remote, stale: Sequence[Remote], draft: _Draft, *, retry: bool) -> None:
    """A path whose content is in the store: what it replaced goes once it is settled."""
    if file.settled:
        draft.removes += stale
    if file.status == "completed":
        return
    if file.status == "in_progress":
        draft.waits.append(Wait(file, tuple(stale)))
    elif retry and not file.settled:
        draft.waits.append(Wait(file, tuple(stale), again=True))
    else:
        draft.failed.append(file)


def _suffix(path: str) -> str:
    return PurePosixPath(path).suffix.casefold()


def _is_held(path: str, held: Collection[str]) -> bool:
    if not held:
        return False
    return path in held or any(str(parent) in held for parent in PurePosixPath(path).parents)
