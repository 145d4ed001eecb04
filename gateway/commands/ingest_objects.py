"""What `outstation ingest` knows of files while it works, and how it reads what the gateway says of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from gateway.commands.ingest_folder import LONGEST_PATH
from gateway.commands.ingest_plan import Remote, Wait


@dataclass(frozen=True, slots=True)
class Folder:
    """Whose files they are.

    Attributes:
        root: stands in each file's attributes.
        name: what file names begin with.
    """

    root: str
    name: str

    def file_name(self, path: str) -> str:
        """What a citation shows; with the folder in front, no other client names a file so by chance."""
        name = f"{self.name}/{path}"
        return name if len(name) <= LONGEST_PATH else path


@dataclass(slots=True)
class Pending:
    """A file that the gateway is to read in. `said`: its status and progress when it was last looked at."""

    path: str
    verb: str
    replaces: tuple[Remote, ...] = ()
    said: tuple[Any, ...] = ()


class Show(Protocol):
    """Where it is told what happens."""

    def done(self, path: str, text: str) -> None:
        """Something has come to its end."""

    def now(self, done: int, total: int, failed: int, text: str) -> None:
        """How far it is: files, and what is under way."""

    def say(self, text: str) -> None:
        """A sentence about the whole."""


@dataclass(slots=True)
class Report:
    """What came of it. `failures`: code and sentence by path."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: dict[str, tuple[str, str]] = field(default_factory=dict)


def waiting_for(wait: Wait) -> Pending:
    """A file that is on its way already."""
    return Pending(wait.file.path, "changed" if wait.replaces else "added", wait.replaces)


def remote_of(one: Mapping[str, Any]) -> Remote:
    """A file of the store, for the plan."""
    attributes, own = one.get("attributes") or {}, one.get("outstation") or {}
    error = one.get("last_error") or {}
    return Remote(
        one["id"],
        str(attributes.get("root", "")),
        str(attributes.get("path", "")),
        str(own.get("sha256") or attributes.get("sha256", "")),
        one["status"],
        float(one.get("created_at", 0)),
        str(error.get("code", "")),
    )


def error_of(one: Mapping[str, Any]) -> tuple[str, str]:
    """Code and sentence of what failed."""
    error = one.get("last_error") or {}
    return str(error.get("code") or one["status"]), str(error.get("message") or f"It was {one['status']}.")


def progress_of(one: Mapping[str, Any]) -> Any:
    """How far it is, as the gateway says it; None: it does not."""
    return (one.get("outstation") or {}).get("progress")


def page_of(path: str, one: Mapping[str, Any]) -> str:
    """The same for people."""
    progress = progress_of(one)
    if not isinstance(progress, dict) or not progress.get("pages"):
        return f"{path} is read" if progress else f"{path} waits"
    return f"{path} page {progress.get('page', 0)}/{progress['pages']}"


def what_of(one: Mapping[str, Any]) -> str:
    """What came of a file."""
    own = one.get("outstation") or {}
    pieces = f", {own['pieces']} pieces" if own.get("pieces") else ""
    return pieces + "".join(f". {note}" for note in own.get("notes") or ())
