"""An answer from the site's documents: they are searched first, then the dispatcher answers with what was found.

What was found is packed into what the model in front has room for; what the answer says is checked against it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import orjson

from backends.errors import InvalidRequest
from backends.types import GENERATES, Chunk, Event, Request, Usage
from gateway.documents.asked import Search
from gateway.documents.documents import Documents
from gateway.documents.packing import Packing
from gateway.documents.prompt import MOST_QUESTION_CHARS, instructions, question_of, with_sources
from gateway.outcome import Outcome
from policies.base import Route
from rag.context import Fitted, Source, source
from rag.retrieve import Retrieved, Wanted
from rag.store.errors import NotThere

if TYPE_CHECKING:
    from gateway.dispatch import Dispatcher
    from rag.citations import Checked

PATIENCE: Final = 5.0
"""A model takes seconds to answer: not to be refused what the documents say is worth a part of one."""
WORTH: Final = 0.15
"""Of the best passage's score: what has less costs prompt tokens and leads a small model astray."""
ITSELF: Final = Route("local/documents", "documents", "local", 0, frozenset(), GENERATES)
"""Who answers when the documents do not."""


@dataclass(slots=True)
class Found:
    """What an answer is made from.

    Attributes:
        question: that was searched for; empty: nothing was.
        packed: the sources that the model was given, under their numbers, and those that had no room.
        texts: of each choice, in the pieces in which it has come.
    """

    question: str
    retrieved: Retrieved = field(default_factory=Retrieved)
    packed: Fitted = field(default_factory=lambda: Fitted((), 0))
    texts: dict[int, list[str]] = field(default_factory=dict)
    _checked: dict[str, Checked] = field(default_factory=dict)

    @property
    def answered(self) -> bool:
        """Whether the documents say something that may be told."""
        return self.retrieved.answered and bool(self.retrieved.results)

    def text(self, choice: int) -> str:
        """What a choice has said."""
        return "".join(self.texts.get(choice, ()))

    async def check(self, text: str) -> Checked:
        """Which of an answer's words are the documents'. In a thread: a long answer would hold up all others."""
        from rag.citations import checked

        if text not in self._checked:
            self._checked[text] = await asyncio.to_thread(checked, text, self.packed.sources)
        return self._checked[text]

    def checked(self, text: str) -> Checked:
        """The same, of what was checked before; else nothing is known of it."""
        from rag.citations import Checked

        return self._checked.get(text, Checked((), ()))


class Grounded:
    """`Dispatching` of one request.

    Args:
        param: what the request calls the vector stores.
        only: nothing but the documents can answer it: no function, no form. Then the documents' silence is the answer.
    """

    def __init__(self, dispatcher: Dispatcher, documents: Documents, search: Search, param: str, *, only: bool) -> None:
        self._dispatcher = dispatcher
        self._documents = documents
        self._search = search
        self._param = param
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
            outcome.told()
            for event in self._nothing(request):
                outcome.saw(event, lambda gap: None)
                yield event
            return
        texts = self.found.texts
        async with aclosing(self._dispatcher.answer(request, outcome)) as events:
            async for event in events:
                if isinstance(event, Chunk):
                    texts.setdefault(event.index, []).append(event.text)
                    if event.finish_reason and self.found.question:
                        await self.found.check(self.found.text(event.index))
                yield event

    async def prepared(self, request: Request, outcome: Outcome) -> Request:
        """The request with what was found for it."""
        found = self.found = Found(question_of(request))
        if not found.question:
            return request
        retrieved = found.retrieved = await self._searched(found.question)
        request = outcome.request = replace(request, declared=request.declared | retrieved.data_classes)
        outcome.reasons.append(_reason(found))
        if len(found.question) >= MOST_QUESTION_CHARS:
            outcome.reasons.append(f"searched for the question's last {MOST_QUESTION_CHARS} characters")
        if self._silent:
            return request
        settings = self._documents.settings
        silence = settings.not_found_text if settings.not_found == "say" else ""
        told = instructions(request, silence, found=found.answered)
        if found.answered:
            packing = Packing(self._dispatcher.planner, settings.context_tokens, outcome)
            request, found.packed = await packing.packed(request, told, _sources(retrieved))
            outcome.reasons += _packed_reasons(found.packed)
        else:
            request = with_sources(request, told, ())
        # What is told besides the body that came is searched as well, and counts as it does.
        outcome.received = max(outcome.received, len(orjson.dumps(request.raw)))
        outcome.request = request
        return request

    async def _searched(self, question: str) -> Retrieved:
        search = self._search
        limit = search.limit or self._documents.settings.results
        wanted = Wanted(
            search.stores, [question], search.filters, limit, search.rerank, search.threshold, search.words, PATIENCE
        )
        try:
            return await self._documents.search(wanted)
        except (InvalidRequest, NotThere) as error:
            error.param = self._param
            raise

    @property
    def _silent(self) -> bool:
        says_so = self._only and self._documents.settings.not_found == "say"
        return says_so and bool(self.found.question) and not self.found.answered

    def _nothing(self, request: Request) -> Sequence[Event]:
        """The documents do not say."""
        text = self._documents.settings.not_found_text
        return [*(Chunk(n, text, finish_reason="stop") for n in range(request.choices)), Usage(0, 0)]


def _sources(retrieved: Retrieved) -> list[Source]:
    """What may be shown to a model, numbered as it is listed to the client."""
    least = WORTH * retrieved.results[0].score
    return [
        source(n, one.passage, one.file.name)
        for n, one in enumerate(retrieved.results, 1)
        if n == 1 or one.score >= least
    ]


def _reason(found: Found) -> str:
    results = found.retrieved.results
    files = len({one.file.file_id for one in results})
    said = "" if found.answered else ", which do not say"
    what = f"{_some(len(results), 'passage')} of {_some(files, 'file')}"
    return f"documents: {what}{said} ({found.retrieved.confidence:.2f})"


def _packed_reasons(packed: Fitted) -> list[str]:
    shortened = ["the first passage is shortened"] if packed.shortened else []
    return shortened + ([f"no room for {_some(len(packed.left_out), 'passage')}"] if packed.left_out else [])


def _some(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


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
            "score": round(one.score, 4),
            "path": one.scores.path,
            "given": number in given,
        }
        for number, one in enumerate(found.retrieved.results, 1)
    ]
