"""A folder as `outstation ingest` sees it: which files it has, what they contain, and which are still being written."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Final

import click

LONGEST_PATH: Final = 512  # characters of an attribute's value
# What browsers, office programs and copying tools name what they have not finished; and what systems leave about.
_UNFINISHED: Final = (".tmp", ".part", ".partial", ".crdownload", ".download", ".opdownload", ".filepart", "~")
_CLUTTER: Final = frozenset({"thumbs.db", "desktop.ini"})


@dataclass(frozen=True, slots=True)
class Seen:
    """A file as it looks from outside: whatever is written into it changes this.

    Attributes:
        real: where to open it; no link.
        size: in bytes.
    """

    real: str
    size: int
    mtime_ns: int
    inode: int


@dataclass(slots=True)
class Look:
    """What one walk through the folder found.

    Attributes:
        files: by their path in the folder, with `/`.
        held: paths and folders that are there and could not be looked at.
        skipped: how many of which kind were passed over.
        too_long: paths that no attribute can hold.
    """

    files: dict[str, Seen] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    skipped: Counter[str] = field(default_factory=Counter)
    too_long: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Listing:
    """What is to be brought in step.

    Attributes:
        sha256: in hex, by path.
        seen: of the same files.
        held: what must stay as it is in the store: unreadable, or still being written.
        skipped: how many of which kind were passed over.
        too_long: paths that no attribute can hold.
    """

    sha256: Mapping[str, str]
    seen: Mapping[str, Seen]
    held: frozenset[str] = frozenset()
    skipped: Mapping[str, int] = field(default_factory=dict)
    too_long: tuple[str, ...] = ()


def look(folder: Path) -> Look:
    """All files, by name in each folder. Raises `click.ClickException` where the folder itself cannot be read."""
    found = Look()
    inside = os.path.join(os.path.realpath(folder), "")  # noqa: PTH118 (a Path drops the last slash)
    try:
        entries = _entries(folder)
    except OSError as error:
        raise click.ClickException(f"The folder {folder} cannot be read: {error.strerror}.") from error
    waiting = [("", entry) for entry in reversed(entries)]
    while waiting:
        prefix, entry = waiting.pop()
        path = prefix + entry.name
        if kind := _passed_over(entry, inside):
            found.skipped[kind] += 1
            continue
        try:
            if entry.is_dir(follow_symlinks=False):
                waiting += [(path + "/", inner) for inner in reversed(_entries(Path(entry.path)))]
            else:
                _see(entry, path, found)
        except OSError:
            found.held.add(path)
            found.skipped["unreadable"] += 1
    return found


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _passed_over(entry: os.DirEntry[str], inside: str) -> str:
    """Why it is none of the folder's documents; empty: it may be one."""
    name = entry.name.lower()
    if name.startswith("."):
        return "hidden"
    if name.startswith("~$") or name.endswith(_UNFINISHED) or name in _CLUTTER:
        return "temporary"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "without a readable name"
    if any(ord(char) < 32 or ord(char) == 127 for char in name):  # it could forge a line of what is told
        return "without a readable name"
    if entry.is_symlink():
        real = os.path.realpath(entry.path)
        # A folder inside is met by its own name, and may hold this link.
        if not real.startswith(inside) or not Path(real).is_file():
            return "link"
    return ""


def _see(entry: os.DirEntry[str], path: str, found: Look) -> None:
    facts = entry.stat()
    if not stat.S_ISREG(facts.st_mode):
        found.skipped["special"] += 1
    elif len(path) > LONGEST_PATH:
        found.too_long.append(path)
    else:
        real = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
        found.files[path] = Seen(real, facts.st_size, facts.st_mtime_ns, facts.st_ino)


def open_file(seen: Seen) -> BufferedReader:
    """The file itself: not what a link or a pipe that took its place since would give. Raises `OSError`."""
    descriptor = os.open(seen.real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    file = os.fdopen(descriptor, "rb")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        file.close()
        raise OSError("no file any more")
    return file


class Reader:
    """Reads what has changed since it read it last."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Seen, str]] = {}

    def read(self, found: Look, waiting: frozenset[str] = frozenset()) -> Listing:
        """The hashes of all files but those that are `waiting`."""
        known, held, skipped = {}, found.held | waiting, found.skipped.copy()
        for path, seen in found.files.items():
            if path in waiting:
                continue
            before = self._known.get(path)
            try:
                known[path] = before if before and before[0] == seen else (seen, _sha256(seen))
            except OSError:
                held.add(path)
                skipped["unreadable"] += 1
        self._known = known
        return Listing(
            {path: sha256 for path, (_, sha256) in known.items()},
            {path: seen for path, (seen, _) in known.items()},
            frozenset(held),
            skipped,
            tuple(found.too_long),
        )

    def forget(self, path: str) -> None:
        """It turned out to contain something else."""
        self._known.pop(path, None)


def _sha256(seen: Seen) -> str:
    with open_file(seen) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Stillness:
    """Which files have not changed from one look to the next."""

    def __init__(self) -> None:
        self._before: Mapping[str, Seen] = {}

    def moving(self, found: Look) -> frozenset[str]:
        """Those that are new, changed or gone since the last call: somebody may be writing or moving them."""
        # Some network shares number a file anew at each look: size and time alone say that it is still.
        before, self._before = self._before, found.files
        paths = before.keys() | found.files.keys()
        return frozenset(path for path in paths if _still(found.files.get(path)) != _still(before.get(path)))


def _still(seen: Seen | None) -> tuple[int, int] | None:
    return (seen.size, seen.mtime_ns) if seen else None


def lock(folder: Path) -> int | None:
    """Keeps a second `ingest` off this folder until the descriptor is closed, or the process ends in whatever way.

    None where the file system has no locks. Raises `click.ClickException` if another one is at work.
    """
    import fcntl

    descriptor = None
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise click.ClickException(f"Another `outstation ingest` is at work on {folder}.") from None
    return descriptor
