"""From `[small_models]` and the store to backends of embedders, rerankers and classifiers, which share one process."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from typing import cast

from backends.base import Backend
from backends.errors import ModelNotFound
from backends.models.store import LLM, LocalModel
from backends.onnx.settings import OnnxHostSettings, OnnxSettings
from backends.registry import build_onnx, build_onnx_host
from backends.types import Chunk, Request, Result
from gateway.config import Config
from gateway.pool import Pool
from gateway.schemas.small_models import RUNTIME_NAMES

log = logging.getLogger("outstation.site")

Run = Callable[[str, Request], Awaitable[tuple[list[Result], int]]]
"""Runs a request on a small model, by its name: a result for each prompt, and how many tokens they had."""


def small_backends(found: Sequence[LocalModel], config: Config, pool: Pool, taken: Sequence[str]) -> list[Backend]:
    """A backend for each small model in the store. Loads nothing.

    Args:
        taken: names that the configuration has given to language models.
    """
    backends: list[Backend] = []
    for local in found:
        if local.role == LLM:
            continue
        if local.name in taken:
            log.warning("the small model %s is not served: [[models]] has another of that name", local.name)
            continue
        backends.append(small_backend(local, config, pool))
    return backends


def small_backend(local: LocalModel, config: Config, pool: Pool) -> Backend:
    """Of one model. As the next start would have it, so that a reload finds the same settings and keeps it loaded."""
    of_host = host_settings(config)
    settings = OnnxSettings(
        name=local.name,
        folder=local.path,
        created=local.created,
        load_at_start=local.name in {*config.small_models.defaults.values(), *_judges(config)},
    )
    host = pool.shared(of_host, lambda: build_onnx_host(of_host, pool.memory))
    return pool.get((of_host, settings), lambda: [build_onnx(settings, host)])[0]


def _judges(config: Config) -> set[str]:
    """Those that requests are judged by before they are routed: they have no time to load then."""
    names = {guard.signal for guard in config.guards}
    names |= {name for name in ("injection", "toxicity") if any(f"signals.{name}" in r.when for r in config.rules)}
    by_signal = {"injection": config.signals.injection, "toxicity": config.signals.toxicity}
    return {model for name, model in by_signal.items() if name in names} | {config.privacy.names} - {""}


def tell_missing(config: Config, there: Collection[str]) -> None:
    """Logs which of those that judge requests are not on the box."""
    for name in sorted(_judges(config) - {*there}):
        log.warning("%s is to judge requests and is not here: `outstation pull %s`, then restart", name, name)


def host_settings(config: Config) -> OnnxHostSettings:
    """Of the process that computes them."""
    small, limits = config.small_models, config.limits
    return OnnxHostSettings(
        threads=small.threads,
        providers=tuple(RUNTIME_NAMES[name] for name in small.execution_providers),
        batch_tokens=small.batch_tokens,
        keep_alive_s=small.keep_alive_s,
        load_timeout_s=limits.load_timeout_s,
        run_timeout_s=small.run_timeout_s,
        wait_timeout_s=limits.first_token_timeout_s,
        queue_length=max(limits.queue_length, OnnxHostSettings().queue_length),
    )


def runner(backends: Mapping[str, Backend]) -> Run:
    """Runs requests on the small models among `backends`, for what the gateway itself wants to know of a request.

    What it returns raises `ModelNotFound` for a model that is not served here, and whatever its backend does.
    """

    async def run(model: str, request: Request) -> tuple[list[Result], int]:
        backend = backends.get(model)
        if backend is None:
            raise ModelNotFound(f"There is no model {model!r} here. `outstation pull {model}` may fetch it.")
        results: dict[int, Result] = {}
        tokens = 0
        async with aclosing(backend.generate(request)) as events:
            async for event in events:
                if isinstance(event, Chunk):
                    results[event.index] = cast("Result", event.wire or {})
                else:
                    tokens = event.prompt_tokens
        return [results[index] for index in range(len(request.prompts))], tokens

    return run
