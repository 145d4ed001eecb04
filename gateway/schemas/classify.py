"""`POST /v1/classify`: what comes in."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from gateway.schemas.generation import Asked
from gateway.schemas.parse import FieldError, Many, Wire

MOST_MODELS = 8
MOST_INPUTS = 2048
MOST_IMAGES = 16
MOST_FEATURES = 65_536
LABELS_SHOWN = 10
Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(min_length=1, max_length=300)]
What = Literal["raw", "features", "prediction"]


def _features_tag(value: Any) -> str:
    return "<by name>" if isinstance(value, dict) else "<list>"


class Given(Wire):
    """What is no text: a picture, or a vector of numbers."""

    image: str | None = Field(default=None, description="`data:image/png;base64,…`: PNG, JPEG, WebP or GIF.")
    features: (
        Annotated[
            Annotated[Many[float], Field(min_length=1, max_length=MOST_FEATURES), Tag("<list>")]
            | Annotated[dict[str, float], Field(min_length=1, max_length=MOST_FEATURES), Tag("<by name>")],
            Discriminator(_features_tag),
        ]
        | None
    ) = Field(default=None, description="In the model's own order, or by the model's names for them.")

    @model_validator(mode="after")
    def _one(self) -> Given:
        if (self.image is None) == (self.features is None):
            raise ValueError("give one of `image` and `features`")
        return self


def _shape(value: Any) -> str:
    """Which of the four shapes; the first element decides, the rest must follow it."""
    if isinstance(value, list):
        return "<objects>" if value and isinstance(value[0], dict) else "<texts>"
    return "<object>" if isinstance(value, dict) else "<text>"


Inputs = Annotated[
    Annotated[Text, Tag("<text>")]
    | Annotated[Many[Text], Field(min_length=1, max_length=MOST_INPUTS), Tag("<texts>")]
    | Annotated[Given, Tag("<object>")]
    | Annotated[Many[Given], Field(min_length=1, max_length=MOST_INPUTS), Tag("<objects>")],
    Discriminator(_shape),
]


class Escalate(Wire):
    """What happens to an input of which the model is not sure. Left out: what the operator laid down."""

    model_config = ConfigDict(extra="forbid")

    to: Name | None = Field(default=None, description="A larger classifier, a language model, or `auto`.")
    below: float | None = Field(
        default=None, ge=0, le=1, description="The confidence below which the model counts as not sure."
    )
    what: What | None = Field(
        default=None,
        description="What a language model is shown: the input (`raw`), the feature vector, or only the prediction. "
        "Never more than the operator allows.",
    )


def _escalate_tag(value: Any) -> str:
    return "<switch>" if isinstance(value, bool) else "<how>"


class ClassifyRequest(Asked):
    """Inputs to be sorted by one model or several."""

    model: Name | None = Field(default=None, description="A classifier. Either this or `models`.")
    models: Many[Name] | None = Field(
        default=None, min_length=1, max_length=MOST_MODELS, description="Several: each judges every input."
    )
    input: Inputs = Field(
        description=f"A text, `{{image}}` or `{{features}}`, or a list of one of these: at most {MOST_INPUTS}, "
        f"{MOST_IMAGES} of images."
    )
    top_k: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description=f"Labels in the answer, the likeliest first; {LABELS_SHOWN} if left out.",
    )
    threshold: float | None = Field(default=None, ge=0, le=1, description="Leaves less likely labels out.")
    truncate: bool | None = Field(
        default=None, description="Cuts texts that are longer than the model takes, in place of an error."
    )
    stream: bool | None = Field(default=None, description="Only `false`: the answer comes as a whole.")
    escalate: (
        Annotated[
            Annotated[bool, Tag("<switch>")] | Annotated[Escalate, Tag("<how>")],
            Discriminator(_escalate_tag),
        ]
        | None
    ) = Field(default=None, description="Who is asked when the model is not sure; `false`: nobody, `true`: `auto`.")

    @field_validator("input")
    @classmethod
    def _few_images(cls, given: Any) -> Any:
        if isinstance(given, list):
            images = sum(isinstance(one, Given) and one.image is not None for one in given)
            if images > MOST_IMAGES:
                raise ValueError(f"at most {MOST_IMAGES} images, got {images}")
        return given

    @field_validator("stream")
    @classmethod
    def _whole(cls, given: bool | None) -> bool | None:
        if given:
            raise ValueError("a classification has no stream; leave it out")
        return given

    @model_validator(mode="after")
    def _one_way(self) -> ClassifyRequest:
        if (self.model is None) == (self.models is None):
            raise FieldError("model", "give one of `model` and `models`")
        if self.models and len(set(self.models)) < len(self.models):
            raise FieldError("models", "the same model is named twice")
        return self

    @property
    def names(self) -> list[str]:
        """The models, in their order."""
        return [self.model] if self.model is not None else list(self.models or ())
