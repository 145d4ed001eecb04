"""The schema of `outstation.toml`. docs/configuration.md is tested against it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from backends.types import Locality
from gateway.schemas.documents_settings import DocumentSettings
from gateway.schemas.escalation import EscalationSettings
from gateway.schemas.guards import GuardSettings, OnTimeout, SignalSettings
from gateway.schemas.model import ModelSettings
from gateway.schemas.provider import ProviderSettings
from gateway.schemas.small_models import SmallModelSettings
from gateway.schemas.table import (
    AliasName,
    ClassName,
    Count,
    DataAction,
    PlacedError,
    Positive,
    Price,
    Table,
)

OnInvalid = Literal["repair", "escalate", "fail"]
DEFAULT_MODEL = "smollm2-135m-instruct"


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
    data_classes: tuple[ClassName, ...] = Field(
        default=(), strict=False, description="Data classes that all its requests have, besides what is found in them."
    )
    documents: Literal["manage", "read", "none"] = Field(
        default="manage", description="Whether it may change the site's documents, search them only, or neither."
    )
    budget_day: Price | None = Field(default=None, description="US dollars that it may spend in a day.")
    budget_month: Price | None = Field(default=None, description="US dollars that it may spend in a month.")

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
    memory_mb: Count | None = Field(
        default=None,
        description="Memory (MiB) that all models on the box may take together; what does not fit is not loaded.",
    )


class RoutingSettings(Table):
    """How a model is chosen."""

    default: str = Field(
        default=DEFAULT_MODEL,
        min_length=1,
        description="The model that `auto` prefers. If it is left out and absent: the first that is served.",
    )
    locality: Locality = Field(
        default="prefer_local", description="Where requests that do not say otherwise are answered."
    )
    order: tuple[Literal["quality", "latency", "cost"], ...] = Field(
        default=("quality", "cost", "latency"),
        strict=False,
        description="By what remote routes are ordered, the first that tells two apart deciding.",
    )
    on_invalid: OnInvalid = Field(
        default="repair",
        description="After an answer that is not of the form asked for: `repair` asks the same provider once more, and "
        "then whoever enforces the form; `escalate` the other way round; `fail` nobody.",
    )
    first_token_objective_s: Positive = Field(
        default=10.0, description="A local answer that would begin later goes to a provider, where one is allowed."
    )
    total_objective_s: Positive = Field(
        default=120.0, description="The same for its end; a request's own deadline counts if it is shorter."
    )
    max_parameters_b: Positive | None = Field(
        default=None, description="Largest local model in billions of parameters; a larger one is not run here."
    )
    offline: bool = Field(default=False, description="The switch: true lets nothing leave the site.")


class PrivacySettings(Table):
    """What is looked for in each request that might leave the site."""

    default: DataAction = Field(
        default="deny",
        description="For a data class that a provider's `data` does not name: `allow`, `redact` or `deny`.",
    )
    custom: dict[ClassName, str] = Field(
        default_factory=dict, description='Data classes of your own, as regular expressions: `badge = "B-[0-9]{6}"`.'
    )
    names: str = Field(
        default="",
        max_length=100,
        description="A small local model that finds names of persons (`rampart`): the class `name`. Empty: none.",
    )
    names_timeout_ms: Positive = Field(
        default=500.0, description="Longest search for names; after it, providers that may not see any are not asked."
    )


class BudgetSettings(Table):
    """Money that may be spent at providers, in US dollars; left out: no limit. Days and months are UTC's."""

    site_day: Price | None = Field(default=None, description="By all requests of a day.")
    site_month: Price | None = Field(default=None, description="By all requests of a month.")
    key_day: Price | None = Field(default=None, description="By each key in a day, if the key has no limit of its own.")
    key_month: Price | None = Field(default=None, description="By each key in a month, likewise.")


class RuleSettings(Table):
    """One of your own rules. The first one whose `when` is true decides; the others are not looked at."""

    name: str = Field(min_length=1, max_length=64, description="Appears in reasons and in the audit.")
    when: str = Field(
        min_length=1,
        max_length=4000,
        description="A CEL expression over `request`, `signals`, `site` and `key`: `'health' in request.data_classes`.",
    )
    locality: Literal["only_local", "only_remote"] | None = Field(default=None, description="Keeps those routes only.")
    routes: tuple[str, ...] = Field(
        default=(), strict=False, description="Keeps these routes only (`local/NAME`, `PROVIDER/MODEL`), in this order."
    )
    deny: str | None = Field(default=None, min_length=1, description="Refuses the request with this message.")
    on_timeout: OnTimeout = Field(
        default="hold",
        description="While a signal that it depends on is not known: `hold`, as if `when` were true, or `skip`.",
    )

    @model_validator(mode="after")
    def _one_action(self) -> RuleSettings:
        if sum((self.locality is not None, bool(self.routes), self.deny is not None)) != 1:
            raise ValueError("give exactly one of `locality`, `routes` and `deny`")
        return self


class AuditSettings(Table):
    """The record of every decision. Never a text."""

    keep_days: int = Field(default=90, ge=1, description="Older rows are removed; the chain of hashes goes on.")


class ResponseSettings(Table):
    """What is kept of `/v1/responses`: the texts of requests and answers, on the box, in `responses.db`."""

    store: bool = Field(
        default=True, description="`false`: nothing is, whatever requests say, and nothing runs in the background."
    )
    keep_days: int = Field(
        default=30, ge=1, description="Older responses are removed, unless a younger one goes on from them."
    )
    max_mb: Count = Field(
        default=1024, description="Size (MiB) over which the oldest are removed before their time, once an hour."
    )


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
    small_models: SmallModelSettings = Field(default_factory=SmallModelSettings)
    providers: tuple[ProviderSettings, ...] = Field(default=(), strict=False)
    privacy: PrivacySettings = Field(default_factory=PrivacySettings)
    budget: BudgetSettings = Field(default_factory=BudgetSettings)
    rules: tuple[RuleSettings, ...] = Field(default=(), strict=False)
    signals: SignalSettings = Field(default_factory=SignalSettings)
    guards: tuple[GuardSettings, ...] = Field(default=(), strict=False)
    escalations: tuple[EscalationSettings, ...] = Field(default=(), strict=False)
    audit: AuditSettings = Field(default_factory=AuditSettings)
    responses: ResponseSettings = Field(default_factory=ResponseSettings)
    documents: DocumentSettings = Field(default_factory=DocumentSettings)
    logging: LoggingSettings = Field(default_factory=LoggingSettings)

    @model_validator(mode="after")
    def _names_once(self) -> FileConfig:
        for table in ("keys", "providers", "rules"):
            names: set[str] = set()
            for index, row in enumerate(getattr(self, table)):
                if row.name in names:
                    raise PlacedError(f"the name {row.name!r} is given twice", table, index, "name")
                names.add(row.name)
        served: set[str] = {"auto"}
        for name, place in self._served():
            if name in served:
                raise PlacedError(f"the model name or alias {name!r} is given twice (`auto` is built in)", *place)
            served.add(name)
        return self

    def _served(self) -> Iterator[tuple[str, tuple[int | str, ...]]]:
        """Every name that a client may ask for, and where it is given."""
        for index, model in enumerate(self.models):
            yield model.name, ("models", index, "name")
            yield f"local/{model.name}", ("models", index, "name")
            for alias in model.aliases:
                yield alias, ("models", index, "aliases")
        for index, provider in enumerate(self.providers):
            for number, remote in enumerate(provider.models):
                yield f"{provider.name}/{remote.name}", ("providers", index, "models", number, "name")
                for alias in remote.aliases:
                    yield alias, ("providers", index, "models", number, "aliases")
        for alias in self.aliases:
            yield alias, ("aliases", alias)


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
        document_key: what the documents are encrypted with; empty: they are not.
    """

    source: Path | None = None
    home: Path
    access: tuple[AccessKey, ...] = ()
    document_key: str = Field(default="", repr=False)
