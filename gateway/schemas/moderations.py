"""`POST /v1/moderations`: what comes in, and OpenAI's categories."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from gateway.schemas.generation import Asked
from gateway.schemas.parse import Many, Wire

CATEGORIES = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/intent",
    "self-harm/instructions",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)
MOST_INPUTS = 2048
MOST_PARTS = 64
Text = Annotated[str, Field(min_length=1)]


class TextInput(Wire):
    """A part of an input; only texts can be judged here."""

    type: Literal["text"]
    text: Text

    @model_validator(mode="before")
    @classmethod
    def _no_picture(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("type") == "image_url":
            raise ValueError("pictures cannot be judged here, only texts")
        return given


def _shape(value: Any) -> str:
    """Which of the three shapes; the first element decides, the rest must follow it."""
    if not isinstance(value, list):
        return "<text>"
    return "<parts>" if value and isinstance(value[0], dict) else "<texts>"


Inputs = Annotated[
    Annotated[Text, Tag("<text>")]
    | Annotated[Many[Text], Field(min_length=1, max_length=MOST_INPUTS), Tag("<texts>")]
    | Annotated[Many[TextInput], Field(min_length=1, max_length=MOST_PARTS), Tag("<parts>")],
    Discriminator(_shape),
]


class ModerationRequest(Asked):
    """Texts that are to be judged."""

    model: str | None = Field(default=None, min_length=1, max_length=300, description="Left out: the box's own.")
    input: Inputs = Field(description="A text, a list of texts, or the parts of one input: `{type: text, text}`.")
