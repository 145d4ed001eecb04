"""What a pull reports while it runs, and what a single source raises when it cannot give the file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from backends.models.store import LocalModel

Phase = Literal["downloading", "unpacking", "copying", "checking"]


@dataclass(frozen=True, slots=True)
class Trying:
    """A source is being tried."""

    source: str


@dataclass(frozen=True, slots=True)
class Progress:
    """Bytes done of `total` (None: not known) in this phase. `label` says of what, where there are several."""

    phase: Phase
    done: int
    total: int | None
    label: str = ""


@dataclass(frozen=True, slots=True)
class SourceFailed:
    """A source was given up; the next one follows, if there is one."""

    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class Installed:
    """The model is in the store. `fetched` is False if it already was."""

    model: LocalModel
    fetched: bool


Event = Trying | Progress | SourceFailed | Installed


class SourceError(Exception):
    """This source cannot give the file; its text is the reason, a finished sentence."""
