"""`POST /v1/completions`: what comes in."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, model_validator

from gateway.schemas.generation import Generation
from gateway.schemas.parse import FieldError, Many

Token = Annotated[int, Field(ge=0, lt=2**31)]
Tokens = Annotated[Many[Token], Field(min_length=1)]


def prompt_shape(value: Any) -> str:
    """Which of the four shapes; the first element decides, the rest must follow it."""
    if not isinstance(value, list):
        return "<text>"
    first = value[0] if value else None
    if isinstance(first, list):
        return "<token lists>"
    return "<tokens>" if isinstance(first, int) else "<texts>"


Prompts = Annotated[
    Annotated[str, Tag("<text>")]
    | Annotated[Many[str], Field(min_length=1), Tag("<texts>")]
    | Annotated[Tokens, Tag("<tokens>")]
    | Annotated[Many[Tokens], Field(min_length=1), Tag("<token lists>")],
    Discriminator(prompt_shape),
]


class CompletionRequest(Generation):
    """Raw prompts, without a chat template. Each prompt yields `n` choices, in order."""

    prompt: Prompts = Field(description="A text, token ids, or a list of either.")
    logprobs: int | None = Field(
        default=None, ge=0, le=20, description="Log-probabilities, with this many alternatives."
    )
    echo: bool | None = Field(default=None, description="Not supported: only `false`.")
    suffix: str | None = Field(default=None, description="Not supported: only `null` or empty.")
    best_of: int | None = Field(default=None, ge=1, description="Only as many as `n`.")

    @model_validator(mode="after")
    def _supported(self) -> CompletionRequest:
        if self.echo:
            raise FieldError("echo", "it is not supported: prepend the prompt yourself")
        if self.suffix:
            raise FieldError("suffix", "it is not supported: this endpoint only completes")
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise FieldError("best_of", "it is not supported: ask for `n` choices and choose among them")
        return self
