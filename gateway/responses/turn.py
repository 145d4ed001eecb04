"""One response on its way: what the dispatcher yields feeds its draft, is kept at the end, and is framed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import orjson

from backends.base import Backend
from backends.errors import BackendError
from backends.types import Chunk, Event, Request, Sampling, Usage
from gateway.documents.frames import Sources
from gateway.outcome import Outcome
from gateway.responses.draft import Draft
from gateway.routes.answer import Dispatching
from gateway.sse import Folded
from gateway.voices import named_event

Keep = Callable[[Mapping[str, Any], Outcome], Awaitable[bool]]
"""Keeps a response that has ended; False: it could not be kept."""


class Turn:
    """`Dispatching` and `Frames` of one response.

    Args:
        backends: to tell what holds where a request says nothing.
        keep: None: it is not to be kept.
        in_own_words: an error about the chat as one about the request.
        framed: somebody reads the events.
        sources: the documents that it is answered from.
    """

    def __init__(
        self,
        dispatcher: Dispatching,
        draft: Draft,
        backends: Mapping[str, Backend],
        keep: Keep | None,
        in_own_words: Callable[[BackendError], BackendError] = lambda error: error,
        *,
        framed: bool = False,
        sources: Sources | None = None,
    ) -> None:
        self._dispatcher = dispatcher
        self._draft = draft
        self._backends = backends
        self._keep = keep
        self._in_own_words = in_own_words
        self._framed = framed
        self._sources = sources
        self._frames: list[bytes] = []
        self._text_item, self._text_frame = "", b""

    def bound_s(self, request: Request) -> float:
        return self._dispatcher.bound_s(request)

    async def answer(self, request: Request, outcome: Outcome) -> AsyncGenerator[Event, None]:
        """The dispatcher's events; the usage, once the response is kept."""
        begun = False
        async with aclosing(self._dispatcher.answer(request, outcome)) as events:
            async for event in events:
                if not begun:
                    begun = True
                    self._begin(outcome)
                if isinstance(event, Usage):
                    await self._end(event, outcome)
                else:
                    self._piece(event)
                yield event

    def _begin(self, outcome: Outcome) -> None:
        route = outcome.route
        assert route is not None
        defaults = defaults_of(self._backends.get(route.model))
        self._say(self._draft.begin(route.model, defaults, enforced=route.location == "local"))
        if self._sources and (call := self._sources.call()):
            self._say(self._draft.searched(call))

    def _piece(self, chunk: Chunk) -> None:
        more = None if chunk.comment else self._draft.more(chunk)
        if more is None:
            self._say(self._draft.feed(chunk), chunk.comment)
        elif self._framed:
            id_, place, number = more
            if id_ != self._text_item:
                self._text_item, self._text_frame = id_, _text_frame(id_, place)
            self._frames.append(
                b'%b%b,"sequence_number":%d}\n\n' % (self._text_frame, orjson.dumps(chunk.text), number)
            )

    async def _end(self, usage: Usage, outcome: Outcome) -> None:
        if self._sources and (text := self._draft.saying):
            self._say(self._draft.cite(await self._sources.annotations(text)))
        self._say(self._draft.end(usage))
        if self._keep and not await self._keep(self._draft.object(), outcome):
            self._draft.forgotten()
        self._say([self._draft.last()])

    def _say(self, events: Iterable[Mapping[str, Any]], comment: str = "") -> None:
        if not self._framed:
            return
        if comment:
            self._frames.append(b": " + comment.encode("ascii", "replace") + b"\n\n")
        self._frames += [named_event(event["type"].encode(), orjson.dumps(event)) for event in events]

    def _taken(self) -> bytes:
        frames, self._frames = b"".join(self._frames), []
        return frames

    def opening(self) -> bytes:
        return b""

    def chunk(self, chunk: Chunk) -> bytes:
        return self._taken()

    def closing(self, usage: Usage) -> bytes:
        return self._taken()

    def body(self, folded: Sequence[Folded], usage: Usage) -> bytes:
        return orjson.dumps(self._draft.object())

    def last_words(self, error: BackendError) -> bytes:
        """What ends a stream that failed. It is not kept: nobody can go on from it."""
        self._draft.forgotten()
        self._say(self._draft.fail(self._in_own_words(error)))
        return self._taken()


def _text_frame(item_id: str, place: int) -> bytes:
    """Of a message's deltas, all that is the same in each, up to the text."""
    kind = "response.output_text.delta"
    fields = {"type": kind, "item_id": item_id, "output_index": place, "content_index": 0, "logprobs": []}
    return named_event(kind.encode(), orjson.dumps(fields)[:-1] + b',"delta":').removesuffix(b"\n\n")


def defaults_of(backend: Backend | None) -> Sampling:
    """A local model's own; a provider's are not known here, and are taken to be as OpenAI's."""
    found = getattr(getattr(backend, "settings", None), "sampling", None)
    return found if isinstance(found, Sampling) else Sampling()
