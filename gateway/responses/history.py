"""The conversation that a response goes on from."""

from __future__ import annotations

from dataclasses import dataclass

from backends.errors import InvalidRequest
from gateway.responses.archive import Archive
from gateway.responses.items import Item, kept_of
from gateway.responses.store import ENDED


@dataclass(frozen=True, slots=True)
class History:
    """All that was said before.

    Attributes:
        declared: data classes that any request before declared; what was told once must not leave later.
        local_only: one of them had to stay on the box.
    """

    items: tuple[Item, ...] = ()
    declared: frozenset[str] = frozenset()
    local_only: bool = False


async def history_of(archive: Archive, previous: str | None, key: str) -> History:
    """The whole conversation, the oldest first. Instructions are no part of it.

    Raises:
        RefusedError: (404) there is no such response of that key.
        InvalidRequest: it has not ended.
        Unavailable: what is kept cannot be read.
    """
    if previous is None:
        return History()
    chain = await archive.chain(previous, key)
    last = chain[-1]
    if last.status not in ENDED:
        message = f"The response {previous} is `{last.status}`: wait for its end before going on from it."
        raise InvalidRequest(message, param="previous_response_id")
    items = [item for kept in chain for item in (*kept.input, *kept_of(kept.body))]
    declared = frozenset[str]().union(*(kept.declared for kept in chain))
    return History(tuple(items), declared, any(kept.local_only for kept in chain))
