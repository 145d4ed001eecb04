"""What training and optimising share: their error, their progress, and packages that only they need."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from backends.errors import BackendError
from backends.models.errors import NotInStore
from backends.models.local import check_name
from backends.models.store import Store

Progress = Callable[[str, int, int], None]
"""Told (what is being done, how much of it is done, of how much) every now and then."""


class TrainingError(BackendError):
    """What was given cannot be learned from, exported or installed; the message says what to do."""

    code = "training_error"


TRAINED = "trained on this box"
EXPORTED = "exported from "
"""How the origin of a model begins that was made here."""


def check_place(name: str, store: Store, *, force: bool) -> None:
    """Whether a model may be installed under that name: a free one, or one whose model was made here.

    Args:
        force: any other may be replaced as well, and a damaged one.

    Raises:
        TrainingError: it would replace a model that was not made here.
        StoreError: what is there is damaged, or the name cannot be one.
    """
    check_name(name)
    if force:
        return
    try:
        there = store.get(name)
    except NotInStore:
        return
    if not there.source.startswith((TRAINED, EXPORTED)):
        raise TrainingError(
            f"{name} is another model on this box, which was not made here ({there.source}). "
            "Choose another --name, remove it with `outstation rm`, or replace it with --force."
        )


def no_progress(phase: str, done: int, total: int) -> None:
    """For callers who do not show any."""


def need(module: str, extra: str) -> Any:
    """A package that only an extra of ours brings.

    Untyped, since it is often not there, and type checks must come out the same with it and without.

    Raises:
        TrainingError: it is not installed; with the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or module.partition(".")[0] != error.name.partition(".")[0]:
            raise
        raise TrainingError(
            f"This needs the package {module.partition('.')[0]}, which is not installed. "
            f"Install it with `pip install 'outstation[{extra}]'`."
        ) from None
