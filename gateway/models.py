"""From the configuration and the store to backends."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from backends.base import Backend
from backends.errors import BackendError
from backends.llama.settings import LlamaSettings
from backends.models.store import LLM, LocalModel, Store
from backends.registry import build_llama
from backends.types import GENERATES, Kind, Sampling
from gateway.config import Config, ConfigError, place_of
from gateway.pool import Pool
from gateway.schemas.model import ModelSettings
from gateway.small_models import small_backend, small_backends
from gateway.state import AUTO
from gateway.torch_models import torch_backends

Kinds = Mapping[str, frozenset[Kind]]
"""What models do, by name."""


def build_backends(config: Config, pool: Pool) -> list[Backend]:
    """A backend for each `[[models]]`, with none for each language model in the store; and for each small model in the
    store. Loads nothing.

    Raises:
        ConfigError: a model that is configured and not there.
    """
    store = Store(config.home)
    found = store.list()
    if config.models:
        large = [_pooled(_configured(model, store, config), pool) for model in config.models]
    else:
        names = _large(found)
        default = default_model(config, names)
        large = [_pooled(_unconfigured(local, default, config), pool) for local in found if local.name in names]
    small = small_backends(found, config, pool, [backend.name for backend in large])
    return [*large, *small, *torch_backends(config, pool, [backend.name for backend in (*large, *small)])]


def find_pulled(config: Config, pool: Pool, name: str) -> Backend | None:
    """A backend for a model that came into the store since the start; none for a language model where `[[models]]` says
    what is served."""
    store = Store(config.home)
    try:
        local = store.get(name)
    except BackendError:
        return None
    if local.role != LLM:
        return small_backend(local, config, pool)
    if config.models:
        return None
    # As the next start would have it, so that a reload finds the same settings and keeps its process.
    return _pooled(_unconfigured(local, default_model(config, _large(store.list())), config), pool)


def _large(found: Sequence[LocalModel]) -> list[str]:
    return [local.name for local in found if local.role == LLM]


def _unconfigured(local: LocalModel, default: str, config: Config) -> LlamaSettings:
    return llama_settings(ModelSettings(name=local.name, load=_load(local.name, default)), local, config)


def _pooled(settings: LlamaSettings, pool: Pool) -> Backend:
    return pool.get(settings, lambda: [build_llama(settings, pool.memory)])[0]


def default_model(config: Config, names: Sequence[str]) -> str:
    """The model that `auto` prefers: as configured; the built-in default gives way if it is not on the box."""
    wanted = config.routing.default
    if wanted in names or "default" in config.routing.model_fields_set or not names:
        return wanted
    return names[0]


def check_names(config: Config, served: Kinds, remote: Kinds = MappingProxyType({})) -> None:
    """Refuses a default or an alias that leads nowhere. On a box without models, any may still come.

    Args:
        served, remote: what is served here, and by providers, with what it does.

    Raises:
        ConfigError: names it, and what there is.
    """
    default = config.routing.default
    if default in remote:
        raise ConfigError(
            f"{place_of(config, 'routing', 'default')}: {default!r} is a provider's model. The default is one on the "
            f"box; to go to providers first, set `routing.locality` and the models' `quality`."
        )
    if "default" in config.routing.model_fields_set:
        _must_be_there(default, generating(served), place_of(config, "routing", "default"))
    for alias, target in config.aliases.items():
        if target != AUTO and target not in remote:
            place = place_of(config, "aliases", alias)
            _must_be_there(target.removeprefix("local/"), list(served), place, [*served, *remote, AUTO])
    for kind, name in config.small_models.defaults.items():
        if kind in config.small_models.model_fields_set and served:
            _must_do(name, kind, {**served, **remote}, place_of(config, "small_models", kind))


def generating(served: Kinds) -> list[str]:
    """The names of those that generate text."""
    return [name for name, kinds in served.items() if kinds & GENERATES]


def _must_do(name: str, kind: Kind, served: Kinds, place: str) -> None:
    able = [other for other, kinds in served.items() if kind in kinds]
    if name in able:
        return
    if name in served:
        raise ConfigError(f"{place}: {name!r} is not made for that (it does {', '.join(sorted(served[name]))}).")
    raise ConfigError(f"{place}: there is no model {name!r} here{did_you_mean(name, able)}")


def _must_be_there(name: str, names: Sequence[str], place: str, known: Sequence[str] = ()) -> None:
    if name in names or not (names or "/" in name):
        return
    raise ConfigError(f"{place}: there is no model {name!r} here{did_you_mean(name, known or names)}")


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """The end of a sentence about a name that is not there: all that are, and the likeliest one."""
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f", only {', '.join(known)}.{hint}" if known else "."


def model_aliases(config: Config) -> dict[str, str]:
    """Alias to model, from `[aliases]` and each model's own list."""
    own = {alias: model.name for model in config.models for alias in model.aliases}
    return {**config.aliases, **own}


def llama_settings(model: ModelSettings, local: LocalModel, config: Config) -> LlamaSettings:
    """One model's settings, complete: the operator's, then the catalogue's recommendations, then defaults."""
    limits = config.limits
    own = {key: value for key, value in model.sampling.model_dump().items() if value is not None}
    known = {key: value for key, value in local.sampling.items() if key in Sampling.__dataclass_fields__}
    defaults = LlamaSettings(name=model.name, path=local.path)
    return LlamaSettings(
        name=model.name,
        path=local.path,
        sha256=local.sha256 or None,
        created=local.created,
        context_length=model.context_length,
        kv_cells=model.kv_cells,
        max_sequences=model.max_sequences,
        threads=model.threads,
        step_budget_s=model.step_budget_ms / 1000 if model.step_budget_ms else defaults.step_budget_s,
        prefix_cache_mb=model.prefix_cache_mb,
        keep_alive_s=model.keep_alive_s,
        load_at_start=model.load == "start",
        sampling=Sampling(**{**known, **own}),
        queue_length=limits.queue_length,
        queue_timeout_s=limits.queue_timeout_s,
        load_timeout_s=limits.load_timeout_s,
        first_token_timeout_s=limits.first_token_timeout_s,
    )


def _load(name: str, default: str) -> Literal["start", "first_use"]:
    return "start" if name == default else "first_use"


def _configured(model: ModelSettings, store: Store, config: Config) -> LlamaSettings:
    return llama_settings(model, _file(model, config) if model.file else _stored(model.name, store, config), config)


def _stored(name: str, store: Store, config: Config) -> LocalModel:
    try:
        return store.get(name)
    except BackendError as error:
        raise ConfigError(f"{config.source}: the model {name!r}: {error.message}") from None


def _file(model: ModelSettings, config: Config) -> LocalModel:
    path = Path(model.file or "").expanduser()
    if not path.is_absolute() and config.source:
        path = config.source.parent / path
    if not path.is_file():
        raise ConfigError(f"{config.source}: the model {model.name!r}: there is no file {path}.")
    status = path.stat()
    return LocalModel(model.name, path, "", status.st_size, "", {}, int(status.st_mtime))
