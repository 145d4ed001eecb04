"""How one small model, and the process of them all, is run. Filled by the gateway from its configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class OnnxHostSettings:
    """Of the process that runs them all.

    Attributes:
        threads: of one run; 0: a quarter of the cores, at least one and at most four.
        providers: onnxruntime's execution providers, the first one that is there for an operator does it.
        batch_tokens: at most so many tokens (padding included) in one run, so that nobody waits long for others.
        run_timeout_s: a run that takes longer is ended; after twice that the process.
        wait_timeout_s: the next result may take so long, with what is computed before it; never less than a run may.
        keep_alive_s: the process ends after so many idle seconds; negative: never.
    """

    threads: int = 0
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    batch_tokens: int = 2048
    keep_alive_s: float = -1.0
    load_timeout_s: float = 60.0
    run_timeout_s: float = 30.0
    wait_timeout_s: float = 0.0
    queue_length: int = 256


@dataclass(frozen=True, slots=True)
class OnnxSettings:
    """Of one model. `folder` holds its `manifest.json`.

    Attributes:
        created: Unix time (s) at which it came to the box.
        load_at_start: it is loaded and warmed up before it is asked for.
    """

    name: str
    folder: Path
    created: int = 0
    load_at_start: bool = False
