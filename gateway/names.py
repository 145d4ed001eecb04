"""Finds the names of persons in a request, by a small local model and in bounded time."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

from backends.types import Request
from gateway.schemas.settings import PrivacySettings
from gateway.small_models import Run
from policies.names import Found, literals, spans_of, texts_of, windows

log = logging.getLogger("outstation.names")

AT_ONCE = 16  # windows of one call: the event loop is not held up by what is made of them
REMEMBERED = 4096  # windows; a conversation brings its beginning with every turn

Finder = Callable[[Sequence[str]], Awaitable[list[list[Found]]]]
"""What a model finds in each of some texts, the pieces of which it is not sure included."""


class Names:
    """One generation's search for names.

    What a text held is remembered by the text's digest, as places: no text and no name is kept.

    Args:
        timeout_s: of one request, however long it is.
    """

    def __init__(self, find: Finder, timeout_s: float) -> None:
        self._find = find
        self._timeout_s = timeout_s
        self._known: OrderedDict[bytes, Sequence[tuple[int, int]]] = OrderedDict()

    async def of(self, request_id: str, raw: Mapping[str, Any], *, large: bool = False) -> tuple[str, ...] | None:
        """The names in a body, and the words that they consist of; None: nothing is known, it failed or took too
        long. A `large` one is made ready beside the event loop."""
        try:
            async with asyncio.timeout(self._timeout_s):
                pieces = await asyncio.to_thread(_pieces, raw) if large else _pieces(raw)
                spans = await self._spans(pieces)
        except Exception as error:  # noqa: BLE001 - whatever it is, it means: do not send
            # The type only: the text may quote what was searched.
            log.error("%s: the search for names failed: %s", request_id, type(error).__name__)
            return None
        return tuple(literals(piece[start:end] for piece, found in spans for start, end in found))

    async def _spans(self, pieces: Sequence[str]) -> list[tuple[str, Sequence[tuple[int, int]]]]:
        by_digest = {
            blake2b(piece.encode("utf-8", "surrogatepass"), digest_size=16).digest(): piece for piece in pieces
        }
        found: dict[bytes, Sequence[tuple[int, int]]] = {}
        for digest in by_digest:
            if digest in self._known:
                self._known.move_to_end(digest)
                found[digest] = self._known[digest]
        new = [digest for digest in by_digest if digest not in found]
        for start in range(0, len(new), AT_ONCE):
            some = new[start : start + AT_ONCE]
            answers = await self._find([by_digest[digest] for digest in some])
            for digest, answer in zip(some, answers, strict=True):
                found[digest] = self._known[digest] = tuple(spans_of(by_digest[digest], answer))
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return [(by_digest[digest], spans) for digest, spans in found.items()]


def _pieces(raw: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(piece for text in texts_of(raw) for piece in windows(text)))


def names_of(settings: PrivacySettings, run: Run) -> Names | None:
    """The search as configured; None: names are not looked for."""
    return Names(model_finder(run, settings.names), settings.names_timeout_ms / 1000) if settings.names else None


def model_finder(run: Run, model: str) -> Finder:
    """Finds with that small model."""

    async def find(texts: Sequence[str]) -> list[list[Found]]:
        request = Request("names", model, "classification", prompts=tuple(texts), options={"tokens": True})
        results, _ = await run(model, request)
        return [[(start, end, label, p) for start, end, label, p in result["spans"]] for result in results]

    return find
