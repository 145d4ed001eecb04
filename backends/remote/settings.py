"""A provider's settings, complete; made from the configuration by the composition root."""

from __future__ import annotations

from dataclasses import dataclass, field

from backends.types import GENERATES, Kind


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """A model as its provider serves it. What it costs is its route's: a new price is no reason for new connections.

    Attributes:
        id: its name there.
        context_length: tokens of prompt and completion together.
        kinds: what it is asked for.
    """

    id: str
    context_length: int
    capabilities: frozenset[str] = frozenset()
    kinds: frozenset[Kind] = GENERATES


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """One provider. Times are in seconds.

    Attributes:
        base_urls: equal endpoints, the first preferred.
        key: its API key; shown nowhere.
    """

    name: str
    base_urls: tuple[str, ...]
    models: tuple[RemoteModel, ...]
    key: str = field(default="", repr=False)
    connect_timeout_s: float = 3.0
    first_token_timeout_s: float = 30.0
    idle_timeout_s: float = 30.0
    total_timeout_s: float = 300.0
