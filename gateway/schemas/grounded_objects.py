"""What a chat's answer says of the documents that it was made from, under `outstation`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class _Said(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class FoundPassage(_Said):
    number: int = Field(description="By which the answer names it, as in `[1]`.")
    file_id: str
    filename: str
    vector_store_id: str
    page: int | None = Field(description="On which it begins.")
    start: int = Field(description="In characters of the file's text, as `end`.")
    end: int
    headings: list[str]
    score: float = Field(description="0 to 1.")
    path: Literal["vectors", "words", "both"] = Field(description="What found it.")
    given: bool = Field(description="Whether the model was given it, or a part of it.")


class FoundDocuments(_Said):
    question: str = Field(description="What was searched for.")
    answered: bool = Field(description="Whether the documents say something.")
    confidence: float
    results: list[FoundPassage]


class QuoteObject(_Said):
    """Words of the answer that are the documents' own: `quote` is the file's text from `start` to `end`."""

    choice: int
    index: int = Field(description="Behind which character of the answer it stands.")
    file_id: str
    filename: str
    number: int
    page: int | None
    start: int
    end: int
    quote: str
    marked: bool = Field(description="Whether the answer names the source itself.")


class UnsupportedMarker(_Said):
    """A source that is named, and that no words behind it are of."""

    choice: int
    number: int
    start: int = Field(description="In characters of the answer, as `end`.")
    end: int


class GroundedObject(_Said):
    documents: FoundDocuments
    citations: list[QuoteObject]
    unsupported: list[UnsupportedMarker]
