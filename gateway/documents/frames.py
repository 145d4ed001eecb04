"""What a client is told of the documents behind an answer: `outstation` in a chat, annotations in a response."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import orjson

from backends.types import Chunk, Usage
from gateway.documents.grounded import Found, Grounded, results_object
from gateway.responses.items import new_id
from gateway.sse import ChatFrames, Folded, Head

if TYPE_CHECKING:
    from rag.citations import Checked, Citation

_END = b"}\n\n"


class GroundedChatFrames(ChatFrames):
    """A chat's, whose last chunk of each choice and whose body also say what the answer was made from."""

    def __init__(self, head: Head, grounded: Grounded) -> None:
        super().__init__(head)
        self._grounded = grounded

    def chunk(self, chunk: Chunk) -> bytes:
        frames = super().chunk(chunk)
        found = self._grounded.found
        if not chunk.finish_reason or not found.question:
            return frames
        told = orjson.dumps(chat_object(found, {chunk.index: found.text(chunk.index)}))
        return frames.removesuffix(_END) + b',"outstation":' + told + _END

    def body(self, folded: Sequence[Folded], usage: Usage) -> bytes:
        body = super().body(folded, usage)
        found = self._grounded.found
        if not found.question:
            return body
        told = chat_object(found, {index: choice.text for index, choice in enumerate(folded)})
        return body.removesuffix(b"}") + b',"outstation":' + orjson.dumps(told) + b"}"


def chat_object(found: Found, texts: dict[int, str]) -> dict[str, Any]:
    """What was found, and which words of each choice are quotes of it."""
    checks = {index: found.checked(text) for index, text in texts.items()}
    return {
        "documents": documents_object(found),
        "citations": [
            {"choice": index, **_citation(one)} for index, checked in checks.items() for one in checked.citations
        ],
        "unsupported": [
            {"choice": index, **one} for index, checked in checks.items() for one in unsupported_objects(checked)
        ],
    }


def documents_object(found: Found) -> dict[str, Any]:
    """What was searched for, and found."""
    return {
        "question": found.question,
        "answered": found.retrieved.answered,
        "confidence": round(found.retrieved.confidence, 4),
        "results": results_object(found),
    }


def _citation(one: Citation) -> dict[str, Any]:
    return {"index": one.index, "file_id": one.source.file_id, "filename": one.source.filename, **_place(one)}


def _place(one: Citation) -> dict[str, Any]:
    return {
        "number": one.source.number,
        "page": one.page,
        "start": one.start,
        "end": one.end,
        "quote": one.quote,
        "marked": one.marked,
    }


def annotations_of(checked: Checked) -> list[dict[str, Any]]:
    """OpenAI's, with the place under `outstation`."""
    return [
        {
            "type": "file_citation",
            "file_id": one.source.file_id,
            "filename": one.source.filename,
            "index": one.index,
            "outstation": _place(one),
        }
        for one in checked.citations
    ]


def unsupported_objects(checked: Checked) -> list[dict[str, Any]]:
    """Markers behind which there are no words of the document that they name."""
    return [{"number": one.number, "start": one.start, "end": one.end} for one in checked.unsupported]


class Sources:
    """The documents of one response: `grounded` has what was found, once it has begun to answer.

    Args:
        results: whether the client wants all that was found.
    """

    def __init__(self, grounded: Grounded, *, results: bool) -> None:
        self._grounded = grounded
        self._results = results

    def call(self) -> dict[str, Any] | None:
        """The item that says what was searched for; None: nothing was."""
        found = self._grounded.found
        return search_call(found, new_id("fs"), results=self._results) if found.question else None

    async def annotations(self, text: str) -> list[dict[str, Any]]:
        """Of a message's text."""
        return annotations_of(await self._grounded.found.check(text))


def search_call(found: Found, id_: str, *, results: bool) -> dict[str, Any]:
    """The item of a response that says what was searched for."""
    shown = [
        {
            "file_id": one.file.file_id,
            "filename": one.file.name,
            "score": round(one.score, 4),
            "attributes": dict(one.file.attributes),
            "text": one.passage.text,
            "outstation": more,
        }
        for one, more in zip(found.retrieved.results, results_object(found), strict=True)
    ]
    return {
        "id": id_,
        "type": "file_search_call",
        "status": "completed",
        "queries": [found.question],
        "results": shown if results else None,
        "outstation": {
            "answered": found.retrieved.answered,
            "confidence": round(found.retrieved.confidence, 4),
        },
    }
