"""From `small_models.sentence_transformers` to backends: embedders on torch, each in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from backends.base import Backend
from backends.registry import build_sentence_transformers
from gateway.config import Config, ConfigError, place_of
from gateway.pool import Pool
from gateway.small_models import host_settings

LEAST_LOAD_S = 120.0
"""Importing torch alone takes many seconds on a small box."""


def torch_backends(config: Config, pool: Pool, taken: Sequence[str]) -> list[Backend]:
    """A backend for each folder that the configuration names. Loads nothing, and imports no torch.

    Args:
        taken: names that other models have.

    Raises:
        ConfigError: a folder that is not there, or a name that is taken.
    """
    return [
        _backend(name, place, config, pool, taken) for name, place in config.small_models.sentence_transformers.items()
    ]


def _backend(name: str, place: str, config: Config, pool: Pool, taken: Sequence[str]) -> Backend:
    from backends.onnx.settings import OnnxSettings
    from backends.sentence_transformers import SentenceTransformersSettings

    where = f"{place_of(config, 'small_models', 'sentence_transformers')}: {name}"
    folder = Path(place).expanduser()
    if not folder.is_absolute() and config.source:
        folder = config.source.parent / folder
    if not folder.is_dir():
        raise ConfigError(f"{where}: there is no folder {folder}.")
    if name in taken:
        raise ConfigError(f"{where}: another model here has this name.")
    process = host_settings(config)
    settings = SentenceTransformersSettings(
        OnnxSettings(name, folder, int(folder.stat().st_mtime), name in config.small_models.defaults.values()),
        replace(process, providers=(), load_timeout_s=max(process.load_timeout_s, LEAST_LOAD_S)),
    )
    return pool.get(settings, lambda: [build_sentence_transformers(settings, pool.memory)])[0]
