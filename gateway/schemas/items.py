"""The items of `/v1/responses` and `/v1/conversations`: what comes in."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from gateway.schemas.chat import RefusalPart
from gateway.schemas.parse import Many, Wire
from gateway.schemas.unions import TEXT_OR_LIST, by_type

ITEM_TYPES = ("message", "function_call", "function_call_output", "reasoning", "item_reference", "file_search_call")
PART_TYPES = ("input_text", "output_text", "text", "refusal", "input_image", "input_audio", "input_file")


class TextPart(Wire):
    type: Literal["input_text", "output_text", "text"]
    text: str


class ImagePart(Wire):
    type: Literal["input_image"]
    image_url: str
    detail: Literal["low", "high", "auto", "original"] | None = None


class AudioPart(Wire):
    type: Literal["input_audio"]
    input_audio: dict[str, Any]


class FilePart(Wire):
    type: Literal["input_file"]
    file_data: str
    filename: str | None = None


class UnknownPart(Wire):
    """Only refuses: its `type` is none of those above."""

    type: Literal["input_text", "output_text", "refusal", "input_image", "input_audio", "input_file"]


Part = Annotated[
    Annotated[TextPart, Tag("<text>")]
    | Annotated[RefusalPart, Tag("<refusal>")]
    | Annotated[ImagePart, Tag("<input_image>")]
    | Annotated[AudioPart, Tag("<input_audio>")]
    | Annotated[FilePart, Tag("<input_file>")]
    | Annotated[UnknownPart, Tag("<unknown>")],
    by_type(*PART_TYPES, same={"input_text": "text", "output_text": "text"}),
]
Content = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[Many[Part], Tag("<list>")],
    TEXT_OR_LIST,
]


class MessageItem(Wire):
    """One turn. `type` may be left out."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Content


class CallItem(Wire):
    """A call that the model made."""

    type: Literal["function_call"]
    call_id: str = Field(min_length=1, max_length=200)
    name: str = Field(min_length=1, max_length=200)
    arguments: str
    status: Literal["in_progress", "completed", "incomplete"] | None = None


class OutputItem(Wire):
    """What a call gave."""

    type: Literal["function_call_output"]
    call_id: str = Field(min_length=1, max_length=200)
    output: Content


class Thought(Wire):
    type: Literal["reasoning_text"]
    text: str


class ReasoningItem(Wire):
    """What a model thought earlier. Local models whose template has a place for it are shown it, in `content`."""

    type: Literal["reasoning"]
    content: Many[Thought] | None = None


class SearchItem(Wire):
    """What was searched for earlier. What it found is not told again: every answer has a search of its own."""

    type: Literal["file_search_call"]


class ReferenceItem(Wire):
    """An item of a response that is kept, by its id."""

    type: Literal["item_reference"] = "item_reference"
    id: str = Field(min_length=1, max_length=200)


def _item_tag(value: Any) -> str:
    if not isinstance(value, dict):
        return "<message>"
    kind = value.get("type")
    if kind is None:
        return "<item_reference>" if "id" in value and "role" not in value else "<message>"
    return f"<{kind}>" if kind in ITEM_TYPES else "<message>"


Item = Annotated[
    Annotated[MessageItem, Tag("<message>")]
    | Annotated[CallItem, Tag("<function_call>")]
    | Annotated[OutputItem, Tag("<function_call_output>")]
    | Annotated[ReasoningItem, Tag("<reasoning>")]
    | Annotated[SearchItem, Tag("<file_search_call>")]
    | Annotated[ReferenceItem, Tag("<item_reference>")],
    Discriminator(_item_tag),
]
