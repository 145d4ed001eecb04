"""`POST /v1/embeddings`: what comes in."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from gateway.schemas.completions import Tokens, prompt_shape
from gateway.schemas.generation import Named
from gateway.schemas.parse import Many

MOST_INPUTS = 2048
"""As OpenAI documents for this endpoint."""
Text = Annotated[str, Field(min_length=1)]
Inputs = Annotated[
    Annotated[Text, Tag("<text>")]
    | Annotated[Many[Text], Field(min_length=1, max_length=MOST_INPUTS), Tag("<texts>")]
    | Annotated[Tokens, Tag("<tokens>")]
    | Annotated[Many[Tokens], Field(min_length=1, max_length=MOST_INPUTS), Tag("<token lists>")],
    Discriminator(prompt_shape),
]


class EmbeddingsRequest(Named):
    """Texts whose vectors are wanted. Fields that are not listed reach a provider untouched."""

    input: Inputs = Field(description=f"A text, token ids, or a list of either: at most {MOST_INPUTS}, none empty.")
    encoding_format: Literal["float", "base64"] | None = Field(
        default=None, description="base64 is of little-endian float32; left out: floats."
    )
    dimensions: int | None = Field(
        default=None, ge=1, le=65_536, description="So many of the vector's first numbers, normalised again."
    )
    truncate: bool | None = Field(
        default=None, description="Cuts inputs that are longer than the model takes, in place of an error."
    )
    input_type: Literal["query", "document", "passage", "search_query", "search_document"] | None = Field(
        default=None,
        description="What the texts are in a search: `query` or `document` (or their other names). The model's own "
        "prefix for it is put before them.",
    )
