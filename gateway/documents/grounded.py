"""An answer from the site's documents: they are searched first, then the dispatcher answers with what was found.

What was found is packed into what the model in front has room for; what the answer says is checked against it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import orjson

from backends.errors import BackendError
from backends.types import GENERATES, Chunk, Event, Request, Usage
from gateway.documents.asked import Search
from gateway.documents.documents import Documents
from gateway.documents.prompt import question_of, with_sources
from gateway.outcome import Outcome
from gateway.said import said_of
from policies.base import Route
from rag.citations import Checked, checked
from rag.context import INSTRUCTIONS, Fitted, Source, block, context, fitted, source
from rag.retrieve import Retrieved, Wanted

if TYPE_CHECKING:
    from gateway.dispatch import Dispatcher

ANSWER_TOKENS: Final = 512
"""Of the room, for an answer without a limit of its own; a quarter of a small model's."""
BYTES_A_TOKEN: Final = 3
"""Where nobody can count: prose has four."""
WORTH: Final = 0.15
"""Of the best passage's score: what has less costs prompt tokens and leads a small model astray."""
_TIGHTER: Final = 0.85
_TRIES: Final = 4
ITSELF: Final = Route("local/documents", "documents", "local", 0, frozenset(), GENERATES)
"""Who answers when the documents do not."""


@dataclass(slots=True)
class Found:
    """What an answer is made from.

    Attributes:
        question: that was searched for; empty: nothing was.
        sources: those that the model was given, under their numbers; `packed` says what had no room.
        texts: of each choice, as far as it has come.
    """

    question: str
    retrieved: Retrieved = field(default_factory=Retrieved)
    packed: Fitted = field(default_factory=lambda: Fitted((), 0))
    texts: dict[int, str] = field(default_factory=dict)

    def checked(self, text: str) -> Checked:
        """Which of an answer's words are the documents'."""
        return checked(text, self.packed.sources)


class Grounded:
    """`Dispatching` of one request.

    Args:
        only: nothing but the documents can answer it: no function, no form. Then the documents' silence is the answer.
    """

    def __init__(self, dispatcher: Dispatcher, documents: Documents, search: Search, *, only: bool) -> None:
        self._dispatcher = dispatcher
        self._documents = documents
        self._search = search
        self._only = only
        self.found = Found("")

    def bound_s(self, request: Request) -> float:
        return self._dispatcher.bound_s(request)

    async def answer(self, request: Request, outcome: Outcome) -> AsyncGenerator[Event, None]:
        """The dispatcher's events.

        Raises:
            BackendError: as the dispatcher; and where a vector store cannot be searched.
        """
        request = await self.prepared(request, outcome)
        if self._silent:
            outcome.begin(ITSELF)
            outcome.attempts -= 1
            for event in self._nothing(request):
                outcome.told()
                outcome.saw(event, lambda gap: None)
                yield event
            return
        async with aclosing(self._dispatcher.answer(request, outcome)) as events:
            async for event in events:
                if isinstance(event, Chunk):
                    texts = self.found.texts
                    texts[event.index] = texts.get(event.index, "") + said_of(event).text
                yield event

    async def prepared(self, request: Request, outcome: Outcome) -> Request:
        """The request with what was found for it."""
        self.found = Found(question_of(request))
        if not self.found.question:
            return request
        search, settings = self._search, self._documents.settings
        limit = search.limit or settings.results
        retrieved = self.found.retrieved = await self._documents.search(
            Wanted(
                search.stores,
                [self.found.question],
                search.filters,
                limit,
                search.rerank,
                search.threshold,
                search.words,
            )
        )
        request = replace(request, declared=request.declared | retrieved.data_classes)
        outcome.reasons.append(_reason(retrieved))
        outcome.request = request
        if self._silent or not retrieved.results:
            return request
        least = WORTH * retrieved.results[0].scores.score
        sources = [
            source(n, one.passage, one.file.name)
            for n, one in enumerate(retrieved.results, 1)
            if n == 1 or one.scores.score >= least
        ]
        request = await self._packed(request, sources, outcome)
        # What is told besides the body that came is searched as well, and counts as it does.
        outcome.received = max(outcome.received, len(orjson.dumps(request.raw)))
        outcome.request = request
        return request

    @property
    def _silent(self) -> bool:
        found = self.found
        says_so = self._only and self._documents.settings.not_found == "say"
        return says_so and bool(found.question) and not found.retrieved.answered

    def _nothing(self, request: Request) -> Sequence[Event]:
        """The documents do not say."""
        text = self._documents.settings.not_found_text
        return [*(Chunk(n, text, finish_reason="stop") for n in range(request.choices)), Usage(0, 0)]

    async def _packed(self, request: Request, sources: Sequence[Source], outcome: Outcome) -> Request:
        """With as many sources as the model has room for that would be asked now."""
        bare = with_sources(request, INSTRUCTIONS, ())
        front = await self._front(bare, outcome)
        most = self._documents.settings.context_tokens
        room, ratio = most, 1 / BYTES_A_TOKEN
        if front.location == "local":
            text = context(sources)
            alone = replace(bare, kind="completion", prompts=(text,), messages=())
            ratio = await self._count(front, alone) / max(1, len(text.encode()))
        if front.context_length:
            room = min(most, _room(bare, front, await self._count(front, bare)))
        for _ in range(_TRIES):
            packed = fitted(sources, room, lambda text: math.ceil(len(text.encode()) * ratio))
            grounded = with_sources(request, INSTRUCTIONS, [block(one) for one in packed.sources])
            if not front.context_length or _room(grounded, front, await self._count(front, grounded)) >= 0:
                break
            room = int(room * _TIGHTER)
        self.found.packed = packed
        if packed.left_out or packed.shortened:
            outcome.reasons.append(
                f"{len(packed.left_out)} passages had no room, {len(packed.shortened)} not all of it"
            )
        return grounded

    async def _count(self, front: Route, request: Request) -> int:
        """Tokens of a prompt; a guess where nobody here can count, or nobody can now: dispatch will find out."""
        if front.location == "local":
            with contextlib.suppress(BackendError):
                return await self._dispatcher.planner.count(front, request)
        return len(orjson.dumps(request.prompts or request.raw)) // BYTES_A_TOKEN

    async def _front(self, request: Request, outcome: Outcome) -> Route:
        """Who would be asked now."""
        trial = Outcome(outcome.id, key=outcome.key, received=outcome.received, started=outcome.started)
        try:
            decided = await self._dispatcher.planner.decide(request, trial)
        except BackendError:
            outcome.decided = trial.decided
            outcome.reasons += trial.reasons
            raise
        return decided.plan.routes[0]


def _room(request: Request, front: Route, taken: int) -> int:
    """Tokens that are left beside the prompt and the answer."""
    answer = request.sampling.max_tokens or min(ANSWER_TOKENS, front.context_length // 4)
    return front.context_length - taken - answer


def _reason(retrieved: Retrieved) -> str:
    files = len({one.file.file_id for one in retrieved.results})
    said = "" if retrieved.answered else ", which do not say"
    return f"documents: {len(retrieved.results)} passages of {files} files{said} ({retrieved.confidence:.2f})"


def results_object(found: Found) -> list[dict[str, Any]]:
    """What was found, for a client."""
    given = {one.number for one in found.packed.sources}
    return [
        {
            "number": number,
            "file_id": one.file.file_id,
            "filename": one.file.name,
            "vector_store_id": one.file.store_id,
            "page": one.page,
            "start": one.passage.start,
            "end": one.passage.end,
            "headings": list(one.headings),
            "score": round(one.scores.score, 4),
            "path": one.scores.path,
            "given": number in given,
        }
        for number, one in enumerate(found.retrieved.results, 1)
    ]
