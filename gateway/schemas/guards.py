"""Tables of `outstation.toml` about what a request is like: signals and guards."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gateway.schemas.table import Positive, Table

OnTimeout = Literal["hold", "skip"]


class SignalSettings(Table):
    """What rules and guards may ask of a request's text. Only what one of them reads is looked for."""

    timeout_ms: Positive = Field(
        default=100.0, description="Longest wait for them; after it, `on_timeout` of those who read them decides."
    )
    piece_ms: Annotated[float, Field(ge=0)] = Field(
        default=10.0, description="Added to that wait for each piece of text that is judged."
    )
    injection: str = Field(
        default="injection-guard", min_length=1, max_length=100, description="The small model that gives `injection`."
    )
    toxicity: str = Field(
        default="toxic-bilstm", min_length=1, max_length=100, description="The small model that gives `toxicity`."
    )


class GuardSettings(Table):
    """Something that is done where a signal is too high."""

    signal: Literal["injection", "toxicity", "difficulty"] = Field(description="What is looked at.")
    above: Annotated[float, Field(ge=0, lt=1)] = Field(description="It holds where the signal is more than this.")
    action: Literal["flag", "block", "route"] = Field(
        description="`flag`: say so in the reason and the audit. `block`: 400. `route`: keep some routes only."
    )
    locality: Literal["only_local", "only_remote"] | None = Field(
        default=None, description="Of `route`: keeps those routes."
    )
    routes: tuple[str, ...] = Field(
        default=(), strict=False, description="Of `route`: keeps these (`local/NAME`, `PROVIDER/MODEL`), in this order."
    )
    on_timeout: OnTimeout = Field(
        default="hold", description="While the signal is not known: `hold`, as if it were too high, or `skip`."
    )
    retrieved: bool = Field(
        default=True, description="Whether tools' results and retrieved parts are judged as well as the user's words."
    )
    retrieved_above: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        default=None, description="In place of `above`, for these; left out: 0.99, or `above` if that is more."
    )

    @model_validator(mode="after")
    def _what_route_keeps(self) -> GuardSettings:
        given = (self.locality is not None) + bool(self.routes)
        if self.action == "route" and given != 1:
            raise ValueError("`route` needs exactly one of `locality` and `routes`")
        if self.action != "route" and given:
            raise ValueError(f"`{self.action}` takes neither `locality` nor `routes`")
        return self
