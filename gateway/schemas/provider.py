"""The schema of `[[providers]]` in `outstation.toml`."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, field_validator, model_validator

from gateway.schemas.table import AliasName, ClassName, DataAction, ModelName, Positive, Price, Table

BaseURLs = Annotated[
    tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value), Field(strict=False)
]
DataRules = dict[ClassName, DataAction]
Capability = Literal[
    "vision",
    "audio",
    "files",
    "tools",
    "structured_output",
    "audio_output",
    "web_search",
    "logprobs",
    "continuation",
]


class ProviderModelSettings(Table):
    """A model of a provider. It is served as `PROVIDER/NAME`."""

    name: str = Field(min_length=1, max_length=200, description="Its id at the provider.")
    context_length: int = Field(ge=1, description="Tokens of prompt and completion together.")
    input_price: Price = Field(description="US dollars per million prompt tokens; 0 for a free one.")
    output_price: Price = Field(description="US dollars per million completion tokens.")
    cached_price: Price | None = Field(
        default=None, description="US dollars per million prompt tokens from its cache. Default: `input_price`."
    )
    kinds: tuple[Literal["chat", "completion", "embedding"], ...] = Field(
        default=("chat", "completion"),
        min_length=1,
        strict=False,
        description='What it is asked for; `["embedding"]` for a model that makes embeddings.',
    )
    capabilities: tuple[Capability, ...] = Field(
        default=("logprobs",), strict=False, description="What it can do beyond text."
    )
    enforces: tuple[Literal["structured_output", "tools"], ...] = Field(
        default=(),
        strict=False,
        description="Of these, what its provider holds answers to by itself; what it only promises is validated here.",
    )
    quality: float = Field(default=0.0, description="Your rank for it among remote models; higher is better.")
    aliases: tuple[AliasName, ...] = Field(default=(), strict=False, description="Further names for this model.")


def _near(host: str) -> bool:
    """Whether a host is this box or on the site's network, by its address or the ending of its name."""
    if "." not in host and ":" not in host:
        return True
    if host.endswith((".local", ".lan", ".internal", ".home.arpa", ".localhost")):
        return True
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return False


class ProviderSettings(Table):
    """A remote inference provider: any base URL that speaks OpenAI's API."""

    name: ModelName = Field(description="The part before the slash in its models' names.")
    base_url: BaseURLs = Field(description="`https://…/v1`; or a list of equal endpoints, the first preferred.")
    insecure: bool = Field(default=False, description="Allows `http://` to a host beyond the site's own network.")
    key_env: str | None = Field(default=None, min_length=1, description="Environment variable that holds its API key.")
    key_file: str | None = Field(
        default=None, min_length=1, description="File that holds its API key, relative to this one."
    )
    data: DataRules = Field(
        default_factory=dict,
        description="What each data class may do here: `allow`, `redact` or `deny`; `default` is for all others.",
    )
    connect_timeout_s: Positive = Field(default=3.0, description="Longest wait for a connection.")
    first_token_timeout_s: Positive = Field(default=30.0, description="From sending to the first byte of the answer.")
    idle_timeout_s: Positive = Field(default=30.0, description="Longest silence in a stream.")
    total_timeout_s: Positive = Field(default=300.0, description="Longest answer.")
    models: tuple[ProviderModelSettings, ...] = Field(min_length=1, strict=False, description="See below.")

    @field_validator("name")
    @classmethod
    def _not_local(cls, name: str) -> str:
        if name in ("local", "auto"):
            raise ValueError(f"{name!r} is built in: give the provider another name")
        return name

    @field_validator("base_url")
    @classmethod
    def _urls(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for url in urls:
            parts = urlsplit(url)
            if "@" in url:  # not repeated: it may be a password
                raise ValueError("a base URL holds no password: put the key where `key_env` or `key_file` says")
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
                raise ValueError(f"{url!r} is no base URL: `https://host/v1`, without a query")
        if not urls:
            raise ValueError("name at least one URL")
        return tuple(url.rstrip("/") for url in urls)

    @model_validator(mode="after")
    def _one_key(self) -> ProviderSettings:
        if self.key_env and self.key_file:
            raise ValueError("give at most one of `key_env` and `key_file`")
        for url in self.base_url:
            if url.startswith("http://") and not self.insecure and not _near(urlsplit(url).hostname or ""):
                raise ValueError(
                    f"{url!r} would send the key and every prompt in clear: use https, or `insecure = true`"
                )
        names = [model.name for model in self.models]
        if len(set(names)) < len(names):
            raise ValueError(f"the provider {self.name!r} has a model twice")
        return self
