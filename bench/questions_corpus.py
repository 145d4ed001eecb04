"""The questions, and the documents that they are asked of: three Debian packages, fetched by apt, not carried here."""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
PACKAGES = {"nut-doc": "nut-doc/html", "frr-doc": "frr/html", "hplip-doc": "hplip-doc"}
# The FAQ is there twice, page by page as well; lists of contents hold no answer.
_LEFT_OUT = re.compile(r"^FAQ/|(^|/)(index|genindex|search|copying)\.html$")
_QUOTES = str.maketrans({"’": "'", "“": '"', "”": '"'})


@dataclass(frozen=True, slots=True)
class Question:
    """One question.

    Attributes:
        known_by: words that only answering passages have; none: the documents do not answer it.
        held: of the half that nothing was chosen by.
        near: not answered, but near to the documents' matter.
    """

    text: str
    known_by: tuple[str, ...] = ()
    held: bool = False
    near: bool = False


def questions() -> list[Question]:
    """Those with an answer."""
    rows = (line.split("\t") for line in _lines("questions.tsv"))
    return [Question(text, tuple(map(plain, known.split("|"))), _held(text)) for text, known in rows]


def absent() -> list[Question]:
    """Those without."""
    text = (HERE / "data" / "questions_absent.txt").read_text()
    _, _, rest = text.partition("# near\n")
    near, _, far = rest.partition("# far\n")
    return [Question(line, held=_held(line), near=part is near) for part in (near, far) for line in part.splitlines()]


def plain(text: str) -> str:
    """Without what does not matter: case, blanks, curly quotes."""
    return " ".join(text.translate(_QUOTES).lower().split())


def answering(asked: Sequence[Question], pieces: Mapping[int, str]) -> list[frozenset[int]]:
    """Of each question, the ids of the pieces that answer it."""
    texts = {id_: plain(text) for id_, text in pieces.items()}
    return [frozenset(id_ for id_, text in texts.items() if any(k in text for k in one.known_by)) for one in asked]


def pages(cache: Path) -> Mapping[str, Path]:
    """The documents' files by name, fetched where they are not yet. Raises RuntimeError without apt."""
    cache.mkdir(parents=True, exist_ok=True)
    found: dict[str, Path] = {}
    for package, folder in PACKAGES.items():
        root = _unpacked(package, cache) / "usr/share/doc" / folder
        for path in sorted(root.rglob("*.html")):
            name = path.relative_to(root).as_posix()
            if not _LEFT_OUT.search(name):
                found[f"{package}/{name}"] = path
    return found


def _unpacked(package: str, cache: Path) -> Path:
    root = cache / package
    if not root.exists():
        try:
            if not list(cache.glob(f"{package}_*.deb")):
                subprocess.run(["apt-get", "download", package], cwd=cache, check=True, capture_output=True)
            (archive,) = cache.glob(f"{package}_*.deb")
            subprocess.run(["dpkg-deb", "-x", archive, root], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError, ValueError) as error:
            raise RuntimeError(f"{package} cannot be had by apt-get download: {error}") from error
    return root


def _lines(name: str) -> list[str]:
    lines = (HERE / "data" / name).read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def _held(text: str) -> bool:
    return hashlib.sha256(text.encode()).digest()[-1] % 2 == 1
