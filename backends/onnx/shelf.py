"""The small models that may be asked for: where each lies, and what its manifest says as it lies there now."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from backends.errors import BadModelFile, ModelNotFound
from backends.onnx.manifest import MANIFEST, Manifest, read_manifest
from backends.onnx.protocol import Prepared
from backends.onnx.settings import OnnxSettings

LOOK_S = 0.1
"""How often a model's folder is looked at, at most: each request asks several times."""


@dataclass(slots=True)
class Entry:
    """What the gateway knows of one model.

    Attributes:
        stamp: of the file that describes it, when it was read; -1: it was not.
        looked: when that was last compared (s).
        problem: why it cannot be used; empty: nothing is known against it.
        tokens: of all that it has computed.
        in_memory_of: the pid of the process that was given memory for it; 0: none.
        kept: by request id, in the order they were counted: the process that keeps it, its id there, its figures.
    """

    settings: OnnxSettings
    stamp: int = -1
    looked: float = 0.0
    manifest: Manifest | None = None
    problem: str = ""
    running: int = 0
    tokens: int = 0
    in_memory_of: int = 0
    kept: dict[str, tuple[int, str, Prepared]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Describing:
    """The file of a model's folder that describes it, and how it is read. `read` raises `BadModelFile`."""

    file: str = MANIFEST
    read: Callable[[OnnxSettings], Manifest] = lambda settings: read_manifest(settings.folder)


class Shelf:
    """Models by name."""

    def __init__(self, changed: Callable[[OnnxSettings], None], describing: Describing | None = None) -> None:
        """`changed` is told of a model whose files, or whose place, are not those that may be in memory."""
        self._entries: dict[str, Entry] = {}
        self._changed = changed
        self._describing = describing or Describing()

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, model: str) -> Entry:
        """Raises `ModelNotFound`."""
        if entry := self._entries.get(model):
            return entry
        raise ModelNotFound(f"There is no small model {model!r}.", param="model")

    def add(self, settings: OnnxSettings) -> None:
        """A model that may be asked for. The last one of a name counts."""
        old = self._entries.get(settings.name)
        self._entries[settings.name] = Entry(settings)
        if old and old.settings != settings:
            self._changed(old.settings)

    def remove(self, settings: OnnxSettings) -> bool:
        """Whether it was there, and is not any more."""
        entry = self._entries.get(settings.name)
        if entry is None or entry.settings != settings:
            return False
        del self._entries[settings.name]
        return True

    def manifest(self, model: str) -> Manifest:
        """Read again when its file has changed. Raises `ModelNotFound`, or `BadModelFile` for one that is wrong."""
        entry, now = self[model], time.monotonic()
        if entry.manifest is not None and not entry.problem and now < entry.looked + LOOK_S:
            return entry.manifest
        stamp = _stamp(entry.settings.folder / self._describing.file)
        if stamp != entry.stamp or entry.manifest is None:
            try:
                entry.manifest = self._describing.read(entry.settings)
            except BadModelFile as error:
                entry.problem = f"{model} cannot be read. {error.message}"
                raise BadModelFile(entry.problem) from None
            if entry.stamp != -1:  # another version has come: what is in memory is not it
                self._replaced(model)
            entry.stamp, entry.problem = stamp, ""
        entry.looked = now
        return entry.manifest

    def base_folder(self, model: str) -> str:
        """Of the model that makes its embeddings: the one of that name, or what lies beside it; empty: none."""
        manifest = self.manifest(model)
        if not manifest.base:
            return ""
        entry = self._entries.get(manifest.base)
        if entry is None:
            return str(self[model].settings.folder.parent / manifest.base)
        with contextlib.suppress(BadModelFile):  # whoever loads it says so
            self.manifest(manifest.base)  # another version is not missed because only the head is asked for
        return str(entry.settings.folder)

    def base_of(self, model: str) -> Manifest | None:
        """The manifest of the model that makes its embeddings; None: it needs none, or it is not there."""
        folder = self.base_folder(model)
        if not folder:
            return None
        base = self.manifest(model).base
        try:
            return self.manifest(base) if base in self._entries else read_manifest(Path(folder))
        except BadModelFile:
            return None

    def _replaced(self, model: str) -> None:
        """What is in memory is not it any more, nor is what stands on it."""
        for entry in self._entries.values():
            if entry.settings.name == model or (entry.manifest and entry.manifest.base == model):
                self._changed(entry.settings)
                entry.in_memory_of = 0


def _stamp(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
