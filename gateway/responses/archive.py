"""What is kept of responses, for the event loop: one thread of its own does all that touches the disk."""

from __future__ import annotations

import logging
import time
from asyncio import get_running_loop
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from backends.errors import InvalidRequest, Unavailable
from gateway.audit_store import Trouble, what_is_wrong
from gateway.errors import RefusedError
from gateway.responses.conversations import MOST_BYTES, Addition, Conversation, Found, TooLongError
from gateway.responses.items import Item, new_id
from gateway.responses.store import Kept, MissingError, Store

MOST_RESPONSES: Final = 2_000
"""Of one conversation."""
TIDY_S: Final = 3600.0
AT_ONCE: Final = 20
"""Removed before their time: few, so that no more are than must be."""
DAY_S: Final = 86_400.0
RETRY_S: Final = 5.0

log = logging.getLogger("outstation.responses")

P = ParamSpec("P")
T = TypeVar("T")


class Archive:
    """The responses of one home. Opens nothing before something is kept, unless the file is there.

    Args:
        clock: Unix time (s).

    Attributes:
        keep_days: older ones are removed, once no younger one goes on from them.
        max_bytes: over it, younger ones are as well, the oldest first.
    """

    def __init__(
        self, path: Path, keep_days: int, max_bytes: int = 1 << 30, clock: Callable[[], float] = time.time
    ) -> None:
        self.keep_days = keep_days
        self.max_bytes = max_bytes
        self._path = path
        self._clock = clock
        self._thread: ThreadPoolExecutor | None = None
        self._store: Store | None = None
        self._tidied = float("-inf")

    async def add(self, kept: Kept) -> None:
        """Keeps it; on the disk when this returns. Raises `Unavailable`."""
        await self._do(Store.add, kept)

    async def get(self, id_: str, key: str) -> Kept:
        """The response of that key. Raises `RefusedError` (404), `Unavailable`."""
        found = await self._do(Store.get, id_, key) if self._there else None
        if found is None:
            raise not_found(id_)
        return found

    async def chain(self, id_: str, key: str) -> list[Kept]:
        """It and those before it, the oldest first. Raises `RefusedError` (404), `InvalidRequest`, `Unavailable`."""
        try:
            chain = await self._do(Store.chain, id_, key, MOST_RESPONSES) if self._there else []
        except TooLongError:
            raise too_long("previous_response_id") from None
        except MissingError as error:
            raise not_found(error.id, "previous_response_id", before=id_) from None
        if not chain:
            raise not_found(id_, "previous_response_id")
        if len(chain) > MOST_RESPONSES:
            message = f"The conversation has more than {MOST_RESPONSES} responses. Begin another one."
            raise InvalidRequest(message, param="previous_response_id")
        return chain

    async def item(self, id_: str, key: str) -> Found | None:
        """An item of any response or conversation of that key. Raises `Unavailable`."""
        return await self._do(Store.item, id_, key) if self._there else None

    async def delete(self, id_: str, key: str) -> None:
        """Raises `RefusedError` (404), `Unavailable`."""
        if not self._there or not await self._do(Store.delete, id_, key):
            raise not_found(id_)

    async def open(self) -> Sequence[str]:
        """Ids of those in the background that have not ended. Raises `Unavailable`."""
        return await self._do(Store.open) if self._there else ()

    async def begin(self, id_: str) -> Kept | None:
        """See `Store.begin`. Raises `Unavailable`."""
        return await self._do(Store.begin, id_)

    async def end(self, id_: str, body: Mapping[str, Any], answered: Mapping[str, Any]) -> bool:
        """See `Store.end`. Raises `Unavailable`."""
        return await self._do(Store.end, id_, body, answered, self._clock())

    async def begin_conversation(self, key: str, metadata: Mapping[str, str], addition: Addition) -> Conversation:
        """Another one, with its first items. On the disk when this returns. Raises `Unavailable`."""
        id_ = new_id("conv")
        made = Conversation(id_, key, addition.at, metadata, addition.declared, addition.local_only)
        await self._do(lambda store: store.conversations.create(made, addition.items))
        return made

    async def described(self, id_: str, key: str) -> Conversation:
        """The conversation of that key, without its items. Raises `RefusedError` (404), `Unavailable`."""
        found = await self._do(lambda store: store.conversations.get(id_, key)) if self._there else None
        if found is None:
            raise no_conversation(id_)
        return found

    async def conversation(self, id_: str, key: str, param: str | None = None) -> tuple[Conversation, list[Item]]:
        """The conversation of that key, its items the oldest first. `param`: the field of who goes on from it.

        Raises:
            RefusedError: (404) there is none.
            InvalidRequest: it is too long to go on from.
            Unavailable: it cannot be read.
        """
        going_on, found = param is not None, None
        try:
            if self._there:
                found = await self._do(lambda store: store.conversations.whole(id_, key, to_go_on=going_on))
        except TooLongError:
            raise too_long(param) from None
        if found is None:
            raise no_conversation(id_, param)
        return found

    async def describe(self, id_: str, key: str, metadata: Mapping[str, str]) -> None:
        """Gives a conversation other metadata. Raises `RefusedError` (404), `Unavailable`."""
        if not self._there or not await self._do(lambda store: store.conversations.describe(id_, key, metadata)):
            raise no_conversation(id_)

    async def extend(self, id_: str, key: str, addition: Addition) -> list[Item]:
        """Adds what was said to a conversation. Raises `RefusedError` (404), `Unavailable`."""
        kept = await self._do(lambda store: store.conversations.add(id_, key, addition)) if self._there else None
        if kept is None:
            raise no_conversation(id_)
        return kept

    async def extend_by_hand(self, id_: str, key: str, addition: Addition) -> list[Item]:
        """The same. Returns the items as they are kept. Raises `InvalidRequest` if it would get too long, besides."""
        try:
            kept = await self._do(lambda store: store.conversations.extend(id_, key, addition)) if self._there else None
        except TooLongError:
            raise too_long("items") from None
        if kept is None:
            raise no_conversation(id_)
        return kept

    async def delete_conversation(self, id_: str, key: str) -> None:
        """Raises `RefusedError` (404), `Unavailable`."""
        if not self._there or not await self._do(lambda store: store.conversations.delete(id_, key)):
            raise no_conversation(id_)

    async def delete_item(self, id_: str, key: str, item: str) -> Conversation:
        """Returns the conversation. Raises `RefusedError` (404), `Unavailable`."""
        found = await self._do(lambda store: store.conversations.remove(id_, key, item)) if self._there else None
        if found is None:
            raise no_item(id_, item)
        return found

    def close(self) -> None:
        """Waits for what is being written."""
        if self._thread:
            self._thread.submit(self._shut)
            self._thread.shutdown()
            self._thread = None

    @property
    def _there(self) -> bool:
        return self._store is not None or self._path.exists()

    async def _do(self, action: Callable[Concatenate[Store, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "responses")
        return await get_running_loop().run_in_executor(
            self._thread, lambda: self._done(lambda store: action(store, *args, **kwargs))
        )

    def _done(self, action: Callable[[Store], T]) -> T:
        """In the thread."""
        import apsw

        try:
            self._store = self._store or Store(self._path)
            self._tidy(self._store)
            return action(self._store)
        except (apsw.Error, OSError, Trouble) as error:
            log.error("responses cannot be kept or read: %s (%s)", what_is_wrong(error), self._path)
            self._shut()
            message = f"The kept responses are not available: {what_is_wrong(error)}."
            raise Unavailable(message, code="store_unavailable", retry_after=RETRY_S) from None

    def _tidy(self, store: Store) -> None:
        """A little of it with each call, until it is done for the next hour."""
        if time.monotonic() - self._tidied < TIDY_S:
            return
        removed = store.remove_before(self._clock() - self.keep_days * DAY_S)
        if not removed and store.size > self.max_bytes:
            removed = store.remove_before(self._clock(), AT_ONCE)
        if not removed:
            self._tidied = time.monotonic()

    def _shut(self) -> None:
        store, self._store = self._store, None
        if store:
            store.close()


def too_long(param: str | None) -> InvalidRequest:
    """400."""
    message = f"More than {MOST_BYTES >> 20} MB come together in that conversation. Begin another one."
    return InvalidRequest(message, param=param)


def no_conversation(id_: str, param: str | None = None) -> RefusedError:
    """404; another key's looks the same as none."""
    error = RefusedError(404, f"There is no conversation {id_[:80]!r} here.", code="conversation_not_found")
    error.param = param
    return error


def no_item(conversation: str, item: str) -> RefusedError:
    """404."""
    message = f"There is no item {item[:80]!r} in a conversation {conversation[:80]!r} here."
    return RefusedError(404, message, code="item_not_found")


def not_found(id_: str, param: str | None = None, before: str | None = None) -> RefusedError:
    """404; another key's looks the same as none."""
    which = f", which {before[:80]} goes on from," if before and before != id_ else ""
    error = RefusedError(404, f"There is no response {id_[:80]!r}{which} here.", code="response_not_found")
    error.param = param
    return error
