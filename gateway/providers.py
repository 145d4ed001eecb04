"""From `[[providers]]` to backends: keys are read here, and go no further than the header that carries them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from pathlib import Path

from backends.base import Backend
from backends.registry import build_openai
from backends.remote.settings import ProviderSettings, RemoteModel
from gateway.config import Config, ConfigError, place_of
from gateway.egress import Boundary
from gateway.policies import policies_of
from gateway.pool import Pool
from gateway.schemas import provider as schema
from gateway.validation.keywords import bounded_validator
from policies.base import Price, Route


def provider_settings(config: Config, environ: Mapping[str, str] = os.environ) -> tuple[ProviderSettings, ...]:
    """Every provider of the file, its key read.

    Raises:
        ConfigError: a key that is not where the file says.
    """
    return tuple(_provider(row, _key(index, row, config, environ)) for index, row in enumerate(config.providers))


def build_remote(config: Config, pool: Pool, boundary: Boundary) -> list[tuple[Route, Backend]]:
    """A route and its backend for each model of each provider. Each send has to pass the boundary.

    Raises:
        ConfigError: a key that is not where the file says.
    """
    built = []
    for row, settings in zip(config.providers, provider_settings(config), strict=True):
        backends = pool.get(settings, partial(build_openai, settings, boundary.depart, lambda: boundary.passable))
        built += [(_route(row, model), b) for model, b in zip(row.models, backends, strict=True)]
    return built


def warm_up(config: Config) -> None:
    """Imports what the configuration needs and compiles its policies once, so that neither takes time later. Blocks.

    Raises:
        ConfigError: a rule or a pattern that does not compile, a data class that looks misspelt.
    """
    policies_of(config)
    if config.providers:
        import_module("backends.openai_http")
        import_module("backends.remote.transport")
        if any(_promises(model) for provider in config.providers for model in provider.models):
            bounded_validator()


def _promises(model: schema.ProviderModelSettings) -> bool:
    """Whether answers of the model may have to be validated here."""
    return bool({"structured_output", "tools"} & set(model.capabilities) - set(model.enforces))


def _capabilities(model: schema.ProviderModelSettings) -> frozenset[str]:
    """Providers that take tools may take them in the older form as well; no model on the box does."""
    return frozenset(model.capabilities) | (frozenset({"functions"}) if "tools" in model.capabilities else frozenset())


def remote_routes(config: Config) -> list[Route]:
    """The routes alone; needs no key."""
    return [_route(row, model) for row in config.providers for model in row.models]


def _route(row: schema.ProviderSettings, model: schema.ProviderModelSettings) -> Route:
    cached = model.input_price if model.cached_price is None else model.cached_price
    price = Price(model.input_price, model.output_price, cached)
    name = f"{row.name}/{model.name}"
    return Route(
        name,
        name,
        "remote",
        model.context_length,
        _capabilities(model),
        frozenset(model.kinds),
        provider=row.name,
        price=price if any((price.input, price.output, price.cached)) else None,
        quality=model.quality,
        enforces=frozenset(model.enforces),
    )


def provider_aliases(config: Config) -> dict[str, str]:
    """Alias to `provider/model`."""
    return {
        alias: f"{row.name}/{model.name}" for row in config.providers for model in row.models for alias in model.aliases
    }


def _provider(row: schema.ProviderSettings, key: str) -> ProviderSettings:
    return ProviderSettings(
        name=row.name,
        base_urls=tuple(row.base_url),
        models=tuple(_model(model) for model in row.models),
        key=key,
        connect_timeout_s=row.connect_timeout_s,
        first_token_timeout_s=row.first_token_timeout_s,
        idle_timeout_s=row.idle_timeout_s,
        total_timeout_s=row.total_timeout_s,
    )


def _model(row: schema.ProviderModelSettings) -> RemoteModel:
    return RemoteModel(
        id=row.name,
        context_length=row.context_length,
        capabilities=_capabilities(row),
        kinds=frozenset(row.kinds),
    )


def _key(index: int, row: schema.ProviderSettings, config: Config, environ: Mapping[str, str]) -> str:
    if row.key_env:
        key, place, origin = environ.get(row.key_env, "").strip(), "key_env", f"the environment variable {row.key_env}"
    elif row.key_file:
        path = Path(row.key_file).expanduser()
        path = path if path.is_absolute() or config.source is None else config.source.parent / path
        place, origin = "key_file", f"the file {path}"
        try:
            key = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            where = place_of(config, "providers", index, place)
            raise ConfigError(
                f"{where}: the key of the provider {row.name!r} cannot be read from {path}: {reason}. Put it there."
            ) from None
    else:
        return ""
    if not key or not key.isascii() or any(c.isspace() for c in key):
        where = place_of(config, "providers", index, place)
        wrong = f"{origin} holds nothing" if not key else f"what {origin} holds is no key"
        raise ConfigError(f"{where}: {wrong}. Put the key of the provider {row.name!r} there.")
    return key
