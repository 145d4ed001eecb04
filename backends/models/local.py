"""What a model on this box is, by whichever layout it lies there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from backends.models.errors import StoreError

SamplingDefaults = Mapping[str, float | int]
"""Names of `backends.types.Sampling` fields with the values that the model's authors recommend."""

LLM: Final = "llm"

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model whose files are whole and on this box.

    Attributes:
        path: its GGUF file, or the folder of a small model.
        sha256: of the file, or of a small model's graph; lower-case hexadecimal, computed when it was added.
        size: bytes of all its files.
        sampling: defaults recommended by its authors, by the names of `backends.types.Sampling`.
        created: Unix time (s) at which it was added.
        source: where it came from, for people.
        verified: the hash was compared with one known beforehand, not just computed.
        context_length: tokens; of a small model, that it takes at once. 0: it takes no text.
        role: `llm`, or the task of a small model.
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
    role: str = LLM


@dataclass(frozen=True, slots=True)
class Origin:
    """What is known about a model from elsewhere than its files: where it came from and how to use it."""

    source: str
    sha256: str
    licence: str = ""
    sampling: SamplingDefaults = field(default_factory=dict)
    verified: bool = False
    quantization: str = ""


def is_name(name: str) -> bool:
    """Whether it can name a model."""
    return bool(_NAME.fullmatch(name)) and not name.endswith((".gguf", ".json", ".part")) and name != "auto"


def check_name(name: str) -> str:
    """The name itself. Raises `StoreError` if it cannot name a model (it becomes a file's name)."""
    if name == "auto":
        raise StoreError("'auto' is the name by which the gateway chooses a model itself; choose another.")
    if not is_name(name):
        raise StoreError(
            f"{name[:80]!r} cannot name a model: use lower-case letters, digits, '.', '_' and '-', "
            "beginning with a letter or digit, and no ending such as .gguf."
        )
    return name


def again(name: str) -> str:
    """What to do about a model that is damaged."""
    return f"Fetch it again with `outstation pull {name}`, or delete it with `outstation rm {name}`."
