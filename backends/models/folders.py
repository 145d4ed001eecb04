"""Small models in the store: `<home>/models/NAME/`, a manifest with the files that it names. The manifest comes last:
a folder without one is an installation that did not finish, and is never served.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from backends.errors import BadModelFile
from backends.models.disk import sync, write
from backends.models.errors import StoreError
from backends.models.local import LocalModel, Origin, again
from backends.onnx.manifest import MANIFEST, Manifest, read_manifest

ORIGIN: Final = "origin.json"
"""Where the model came from; beside the manifest, and not needed to run it."""
_MOST_ORIGIN: Final = 1 << 16
_REFUSED: Final[Mapping[bytes, str]] = {
    b"PK\x03\x04": "a zip archive, such as torch writes: it may hold pickles, which run code",
    b"\x80\x02": "a pickle, which runs code when it is read",
    b"\x80\x03": "a pickle, which runs code when it is read",
    b"\x80\x04": "a pickle, which runs code when it is read",
    b"\x80\x05": "a pickle, which runs code when it is read",
    b"\x89HDF": "an HDF5 file, such as Keras writes: it may hold code",
}


def load(folder: Path, name: str) -> LocalModel:
    """The model in the folder. Raises `StoreError` if it is not whole; only sizes are compared."""
    if not (folder / MANIFEST).is_file():
        raise StoreError(f"{folder} has no {MANIFEST}: its installation did not finish. {again(name)}")
    try:
        manifest = read_manifest(folder)
        if manifest.name != name:
            raise BadModelFile(f"{folder / MANIFEST} is the manifest of {manifest.name!r}.")
        for file, known in manifest.files.items():
            check_size(folder / file, known.size)
        created = int((folder / MANIFEST).stat().st_mtime)
    except BadModelFile as error:
        raise StoreError(f"{error.message} {again(name)}") from None
    except OSError as error:
        raise StoreError(f"{folder} cannot be read: {error.strerror or error}. {again(name)}") from None
    return describe(folder, manifest, *_read_origin(folder, manifest, created))


def describe(folder: Path, manifest: Manifest, origin: Origin, created: int) -> LocalModel:
    """What is known of it."""
    return LocalModel(
        name=manifest.name,
        path=folder,
        sha256=manifest.files[manifest.graph].sha256,
        size=sum(file.size for file in manifest.files.values()),
        licence=manifest.licence,
        sampling={},
        created=created,
        source=origin.source,
        verified=origin.verified,
        quantization=origin.quantization,
        context_length=manifest.tokenizer.max_tokens if manifest.tokenizer else 0,
        role=manifest.task,
    )


def check_size(path: Path, size: int) -> None:
    """Raises `BadModelFile` if the file is not there with that size."""
    try:
        found = path.stat().st_size
    except OSError:
        raise BadModelFile(f"The file {path} is missing.") from None
    if found != size:
        raise BadModelFile(f"{path} has {found:,} bytes, but its manifest says {size:,}.")


def check_files(folder: Path, manifest: Manifest) -> None:
    """Refuses what could run code when it is read, and a graph that is not what it says, or not what the manifest says.

    Raises:
        BadModelFile: says which file, and why.
    """
    from backends.onnx.graph import check

    for name in manifest.files:
        with (folder / name).open("rb") as file:
            head = file.read(8)
        for magic, what in _REFUSED.items():
            if head.startswith(magic):
                raise BadModelFile(f"{name} is {what}. Only ONNX graphs are computed; export it to one.")
    check(folder, manifest)


def install(folder: Path, staged: Path, manifest: Manifest, origin: Origin, created: int) -> LocalModel:
    """Moves a folder of checked files to `folder`, on the same file system, in place of what is there.

    Raises:
        OSError: the disk's.
    """
    for path in staged.iterdir():
        if path.name not in manifest.files:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name in manifest.files:
        sync(staged / name)
    data = {"source": origin.source, "verified": origin.verified, "quantization": origin.quantization}
    write(staged / ORIGIN, json.dumps({**data, "pulled_at": created}, indent=2).encode() + b"\n")
    write(staged / MANIFEST, manifest.model_dump_json(indent=2, exclude_defaults=True).encode() + b"\n")
    sync(staged)
    remove(folder)
    staged.rename(folder)
    sync(folder.parent)
    return describe(folder, manifest, origin, created)


def remove(folder: Path) -> None:
    """Deletes the model. The manifest first: what is left of an interrupted removal is then never served."""
    if folder.is_symlink():  # what it leads to is somebody else's
        folder.unlink()
    elif folder.is_dir():
        (folder / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(folder)


def _read_origin(folder: Path, manifest: Manifest, created: int) -> tuple[Origin, int]:
    """(where it came from, when): a folder that was put there by hand says neither."""
    sha256 = manifest.files[manifest.graph].sha256
    try:
        with (folder / ORIGIN).open("rb") as file:
            data = json.loads(file.read(_MOST_ORIGIN))
        source, verified, quantization = str(data["source"]), data["verified"] is True, str(data["quantization"])
        return Origin(source, sha256, verified=verified, quantization=quantization), int(data["pulled_at"])
    except (OSError, ValueError, KeyError, TypeError):
        return Origin("put there by hand", sha256), created
