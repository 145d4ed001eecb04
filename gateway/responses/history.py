"""The conversation that a response goes on from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from backends.errors import InvalidRequest
from gateway.responses.archive import Archive
from gateway.responses.items import Item, kept_of
from gateway.responses.store import ENDED


@dataclass(frozen=True, slots=True)
class History:
    """All that was said before.

    Attributes:
        place: the field of the request that brought it.
        declared: data classes that any request before declared; what was told once must not leave later.
        local_only: one of them had to stay on the box.
    """

    items: tuple[Item, ...] = ()
    place: Literal["previous_response_id", "conversation"] = "previous_response_id"
    declared: frozenset[str] = frozenset()
    local_only: bool = False

    def told_with(self, own: Resolved) -> History:
        """The same, for a request whose own items were said before, too."""
        return replace(self, declared=self.declared | own.declared, local_only=self.local_only or own.local_only)


async def history_of(archive: Archive, previous: str | None, conversation: str | None, key: str) -> History:
    """The whole conversation, the oldest first. Instructions are no part of it.

    Raises:
        RefusedError: (404) there is no such response or conversation of that key.
        InvalidRequest: the response has not ended, or is part of a conversation.
        Unavailable: what is kept cannot be read.
    """
    if conversation is not None:
        found, said = await archive.conversation(conversation, key, "conversation")
        return History(tuple(said), "conversation", found.declared, found.local_only)
    if previous is None:
        return History()
    chain = await archive.chain(previous, key)
    last = chain[-1]
    if last.status not in ENDED:
        message = f"The response {previous} is `{last.status}`: wait for its end before going on from it."
        raise InvalidRequest(message, param="previous_response_id")
    if within := next((kept.conversation for kept in chain if kept.conversation), None):
        message = f"What came before that response is in the conversation {within}: go on with `conversation`."
        raise InvalidRequest(message, param="previous_response_id")
    items = [item for kept in chain for item in (*kept.input, *kept_of(kept.body))]
    declared = frozenset[str]().union(*(kept.declared for kept in chain))
    return History(tuple(items), "previous_response_id", declared, any(kept.local_only for kept in chain))


class Resolved(NamedTuple):
    """Items, none of them a reference; `declared` and `local_only` as of a `History`, of those that were."""

    items: list[Item]
    declared: frozenset[str]
    local_only: bool


async def resolved(items: Sequence[Item], archive: Archive, key: str, field: str) -> Resolved:
    """Items of that field of the request, with the items themselves in place of references to them.

    Raises:
        InvalidRequest: there is no such item of that key.
        Unavailable: what is kept cannot be read.
    """
    whole: list[Item] = []
    declared, local_only = frozenset[str](), False
    for at, item in enumerate(items):
        if item["type"] != "item_reference":
            whole.append(item)
            continue
        found = await archive.item(item["id"], key)
        if found is None:
            where = f"{field}[{at}].id"
            message = f"`{where}`: there is no item {item['id'][:80]!r} in any response that is kept."
            raise InvalidRequest(message, param=where)
        whole.append(found.item)
        declared, local_only = declared | found.declared, local_only or found.local_only
    return Resolved(whole, declared, local_only)
