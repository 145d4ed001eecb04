"""The schema of `outstation.toml`. docs/configuration.md is tested against it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

DEFAULT_MODEL = "smollm2-135m-instruct"

ModelName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=100)]
AliasName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$", max_length=200)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Table(BaseModel):
    """A table of the file: no unknown keys, no conversions, never changed once read."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class ServerSettings(Table):
    """Where the gateway listens and whom it lets in."""

    host: str = Field(
        default="127.0.0.1", min_length=1, description="Address to listen on; all but loopback need a key."
    )
    port: int = Field(default=8484, ge=0, le=65535, description="TCP port; 0 lets the system choose one.")
    allowed_hosts: tuple[str, ...] = Field(
        default=(),
        strict=False,
        description="Further names that a request's `Host` header may carry, without port, besides `localhost`, "
        "loopback addresses and `host`. `*.example.org` allows its subdomains, `*` everything (and DNS rebinding).",
    )
    allowed_origins: tuple[str, ...] = Field(
        default=(),
        strict=False,
        description="Origins (`https://kiosk.example.org`) of web pages elsewhere whose requests are accepted. "
        "No CORS header is ever sent.",
    )
    max_body_bytes: Count = Field(default=10 * 1024 * 1024, description="Larger request bodies are refused with 413.")
    body_timeout_s: Positive = Field(default=60.0, description="Longest wait for a request's body; then 408.")
    drain_timeout_s: float = Field(default=10.0, ge=0, description="Seconds that running requests get on SIGTERM.")


class KeySettings(Table):
    """An API key. Give exactly one of `sha256`, `env`, `file`."""

    name: str = Field(min_length=1, max_length=64, description="Who holds the key; appears in the access log.")
    sha256: str | None = Field(
        default=None,
        pattern=r"^[0-9a-f]{64}$",
        description="Its SHA-256 in hex: `printf %s KEY` piped to `sha256sum` prints it.",
    )
    env: str | None = Field(default=None, min_length=1, description="Environment variable that holds the key.")
    file: str | None = Field(
        default=None, min_length=1, description="File that holds the key; surrounding white space is ignored."
    )

    @model_validator(mode="after")
    def _one_source(self) -> KeySettings:
        if sum(source is not None for source in (self.sha256, self.env, self.file)) != 1:
            raise ValueError("give exactly one of `sha256`, `env` and `file`")
        return self


class LimitSettings(Table):
    """Bounds: on what a request may ask for, and on every wait."""

    queue_length: Count = Field(default=64, description="Requests waiting for one model; the next one gets 429.")
    queue_timeout_s: Positive = Field(default=30.0, description="Longest wait for admission; then 503.")
    load_timeout_s: Positive = Field(default=120.0, description="Longest load of a model; then 503.")
    first_token_timeout_s: Positive = Field(default=120.0, description="From admission to the first token; then 503.")
    total_timeout_s: Positive = Field(default=600.0, description="Longest request, from arrival to the last token.")
    max_choices: Count = Field(default=8, description="Largest `n`.")
    max_prompts: Count = Field(default=32, description="Most prompts in one `/v1/completions` request.")


class RoutingSettings(Table):
    """How a model is chosen."""

    default: str = Field(
        default=DEFAULT_MODEL,
        min_length=1,
        description="The model that `auto` prefers. If it is left out and absent: the first that is served.",
    )


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


class LoggingSettings(Table):
    """What is logged, to standard error. Never a prompt or a completion."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="`info`: one line a request."
    )
    format: Literal["text", "json"] = Field(default="text", description="`json` is one object a line.")


class FileConfig(Table):
    """The whole file."""

    server: ServerSettings = Field(default_factory=ServerSettings)
    keys: tuple[KeySettings, ...] = Field(default=(), strict=False)
    limits: LimitSettings = Field(default_factory=LimitSettings)
    routing: RoutingSettings = Field(default_factory=RoutingSettings)
    aliases: dict[AliasName, AliasName] = Field(
        default_factory=dict, description='Other names for models: `"gpt-4o-mini" = "auto"`.'
    )
    models: tuple[ModelSettings, ...] = Field(default=(), strict=False)
    logging: LoggingSettings = Field(default_factory=LoggingSettings)

    @model_validator(mode="after")
    def _names_once(self) -> FileConfig:
        names = [model.name for model in self.models]
        names += [alias for model in self.models for alias in model.aliases] + list(self.aliases) + ["auto"]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"the model name or alias {twice[0]!r} is given twice (`auto` is built in)")
        return self


class AccessKey(Table):
    """A key, resolved: only its digest stays in memory."""

    name: str
    digest: bytes


class Config(FileConfig):
    """The file's settings, with what was found around it.

    Attributes:
        source: the file that was read; None: defaults only.
        home: where state lives.
        access: the resolved keys; empty: no authentication.
    """

    source: Path | None = None
    home: Path
    access: tuple[AccessKey, ...] = ()
