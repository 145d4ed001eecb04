"""What the operator may decide about one local LLM; plain data, made by the composition root."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from backends.types import Sampling


@dataclass(frozen=True, slots=True)
class LlamaSettings:
    """Settings of one model. Times in seconds, sizes in tokens (a KV cell holds one token).

    Attributes:
        context_length: of one sequence; None: the model's own, at most 8,192.
        kv_cells: shared by all sequences and kept prefixes; None: max(context_length, 8,192).
        threads: compute threads; None: measured, and adapted to what else the box does.
        step_budget_s: a step that carries other sequences' tokens takes about this long at most.
        prefix_cache_mb: ordinary memory (MiB) for prefixes that left the KV cache; 0: they stay in it.
        keep_alive_s: idle time after which the model is unloaded; negative: never.
        load_at_start: load when the gateway starts instead of on the first request.
        sampling: the model's defaults, for fields that a request leaves out.
    """

    name: str
    path: Path
    sha256: str | None = None
    created: int = 0
    context_length: int | None = None
    kv_cells: int | None = None
    max_sequences: int = 16
    threads: int | None = None
    step_budget_s: float = 0.095
    prefix_cache_mb: int = 512
    keep_alive_s: float = 1800.0
    load_at_start: bool = False
    sampling: Sampling = field(default_factory=Sampling)
    queue_length: int = 64
    queue_timeout_s: float = 30.0
    load_timeout_s: float = 120.0
    first_token_timeout_s: float = 120.0
