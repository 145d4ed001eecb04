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

from backends.models.errors import StoreError
from backends.models.store import SamplingDefaults, check_name
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


Source = HubSource | IndexSource | FileSource


@dataclass(frozen=True, slots=True)
class Entry:
    """One known model.

    Attributes:
        role: what it is for; `llm` so far.
        size: bytes of the file.
        sampling: the defaults recommended by its authors, by the names of `backends.types.Sampling`.
        sources: tried in this order.
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
        raise StoreError(f"The catalogue has no model {name!r}. {hint} A URL or the path of a GGUF file works as well.")


def load_catalogue() -> Catalogue:
    """The catalogue that ships with the product."""
    return parse_catalogue(resources.files("backends.models").joinpath("catalogue.toml").read_text("utf-8"))


def parse_catalogue(text: str) -> Catalogue:
    """Raises `StoreError` that names the entry at fault."""
    try:
        tables = tomllib.loads(text)["model"]
        entries = tuple(_entry(table) for table in tables)
    except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
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


def _entry(table: Mapping[str, Any]) -> Entry:
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
