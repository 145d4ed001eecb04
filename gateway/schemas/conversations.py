"""`/v1/conversations`: what comes in."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gateway.schemas.generation import Asked
from gateway.schemas.items import Item
from gateway.schemas.parse import FewPieces, Many
from gateway.schemas.responses_api import Label, Note

MOST_AT_ONCE = 20
"""As OpenAI documents."""

Items = Annotated[Many[Item], Field(max_length=MOST_AT_ONCE), FewPieces]
Notes = Annotated[dict[Label, Note], Field(max_length=16)]


class ConversationRequest(Asked):
    """A new conversation. `outstation` and its headers say of its items what they say of a request."""

    items: Items | None = None
    metadata: Notes | None = None


class ConversationUpdate(Asked):
    """Other metadata, in place of what there is."""

    metadata: Notes = Field()


class ConversationItems(Asked):
    """Items for the end of a conversation."""

    items: Items = Field(min_length=1)
