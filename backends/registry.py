"""Which kinds of backend there are. Each builder imports its engine only when it is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from backends.base import Backend
from backends.llama.settings import LlamaSettings


def build_llama(settings: LlamaSettings) -> Backend:
    """A local GGUF model, computed by llama.cpp in a process of its own."""
    from backends.llama.backend import LlamaBackend

    return LlamaBackend(settings)


BUILDERS: Mapping[str, Callable[[Any], Backend]] = {
    "llama": build_llama,
}


def build(kind: str, settings: object) -> Backend:
    """The backend of that kind. Nothing is loaded yet.

    Raises:
        KeyError: no such kind.
    """
    return BUILDERS[kind](settings)
