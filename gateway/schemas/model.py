"""The schema of `[[models]]` in `outstation.toml`: the box's own."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from gateway.schemas.table import AliasName, ModelName, Table


class SamplingSettings(Table):
    """Sampling defaults of a model, for fields that a request leaves out. Left out here: the catalogue's."""

    temperature: float | None = Field(default=None, ge=0, le=2, description="0 is greedy.")
    top_p: float | None = Field(default=None, gt=0, le=1, description="Nucleus sampling.")
    top_k: int | None = Field(default=None, ge=0, description="0 keeps all tokens.")
    min_p: float | None = Field(
        default=None, ge=0, le=1, description="Keeps tokens at least that likely, relative to the best."
    )
    presence_penalty: float | None = Field(default=None, ge=-2, le=2, description="OpenAI's.")
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2, description="OpenAI's.")
    repeat_penalty: float | None = Field(
        default=None, gt=0, le=10, description="Weakens tokens already seen; 1 is off."
    )
    max_tokens: int | None = Field(default=None, ge=1, description="For requests without a limit.")


class ModelSettings(Table):
    """A local LLM. With no `[[models]]` at all, every model in the store is served with these defaults."""

    name: ModelName = Field(description="Its name on the wire, and in the store unless `file` is given.")
    file: str | None = Field(
        default=None, min_length=1, description="A GGUF file, relative to this one. Default: the store's."
    )
    load: Literal["first_use", "start"] = Field(
        default="first_use", description="When to load it. With no `[[models]]`, the default model loads at `start`."
    )
    keep_alive_s: float = Field(
        default=1800.0, ge=-1, description="Idle seconds until it is unloaded; 0: at once, -1: never."
    )
    context_length: int | None = Field(
        default=None, ge=64, description="Prompt and completion. Default: the model's, at most 8192."
    )
    kv_cells: int | None = Field(
        default=None, ge=64, description="KV cache cells shared by all sequences, one a token. Default: at least 8192."
    )
    max_sequences: int = Field(default=16, ge=1, le=256, description="Sequences computed together.")
    threads: int | None = Field(
        default=None, ge=1, le=1024, description="Compute threads. Default: measured and adapted."
    )
    step_budget_ms: float | None = Field(
        default=None,
        gt=0,
        le=10_000,
        description="How long prefill may hold up other sequences' tokens. Default: the engine's.",
    )
    prefix_cache_mb: int = Field(
        default=512, ge=0, le=1 << 20, description="Memory (MiB) for prefixes that left the KV cache; 0: none."
    )
    aliases: tuple[AliasName, ...] = Field(default=(), strict=False, description="Further names for this model.")
    sampling: SamplingSettings = Field(default_factory=SamplingSettings, description="See `[models.sampling]`.")

    @field_validator("keep_alive_s")
    @classmethod
    def _no_fraction_below_zero(cls, value: float) -> float:
        if -1 < value < 0:
            raise ValueError("below 0 only -1 (never unload) has a meaning")
        return value
