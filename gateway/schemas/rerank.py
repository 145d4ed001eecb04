"""`POST /v1/rerank`, as Jina and Cohere have it: what comes in."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag

from gateway.schemas.generation import Named
from gateway.schemas.parse import Many, Wire

MOST_DOCUMENTS = 2048
Text = Annotated[str, Field(min_length=1)]


class Document(Wire):
    """A document with its own fields; only `text` is read."""

    text: Text


def _document_tag(value: Any) -> str:
    return "<text>" if isinstance(value, str) else "<document>"


AnyDocument = Annotated[
    Annotated[Text, Tag("<text>")] | Annotated[Document, Tag("<document>")], Discriminator(_document_tag)
]


class RerankRequest(Named):
    """Documents that are to be ordered by what they have to say about a query."""

    query: Text
    documents: Many[AnyDocument] = Field(
        min_length=1, max_length=MOST_DOCUMENTS, description="Texts, or objects with a `text`; none empty."
    )
    top_n: int | None = Field(default=None, ge=1, description="Only so many, the best ones.")
    return_documents: bool | None = Field(default=None, description="The answer repeats the documents.")
    truncate: bool | None = Field(
        default=None, description="Cuts documents that are longer than the model takes, in place of an error."
    )
