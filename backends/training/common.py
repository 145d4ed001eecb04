"""What training and optimising share: their error, their progress, and packages that only they need."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from backends.errors import BackendError

Progress = Callable[[str, int, int], None]
"""Told (what is being done, how much of it is done, of how much) every now and then."""


class TrainingError(BackendError):
    """What was given cannot be learned from, exported or installed; the message says what to do."""

    code = "training_error"


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
