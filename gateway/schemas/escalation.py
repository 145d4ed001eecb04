"""The schema of `[[escalations]]` in `outstation.toml`."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from gateway.schemas.classify import What
from gateway.schemas.table import ModelName, Table

Names = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=300)], ...],
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
    Field(strict=False, min_length=1),
]


class EscalationSettings(Table):
    """Who is asked when a classifier is not sure."""

    model: ModelName = Field(description="The classifier.")
    to: Names = Field(
        default=("auto",),
        description="Who is asked then, in this order until one is sure: larger classifiers, language models, `auto`.",
    )
    below: float | None = Field(
        default=None, ge=0, le=1, description="Confidence below which it counts as not sure; left out: its manifest's."
    )
    what: What = Field(
        default="raw",
        description="The most that a language model is shown: the input (`raw`), a feature vector (`features`), or "
        "only labels and probabilities (`prediction`).",
    )
