"""Finds the names of persons in a request, by a small local model and in bounded time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from backends.types import Request
from gateway.pieces import Pieces
from gateway.schemas.settings import PrivacySettings
from gateway.small_models import Run
from policies.names import Found, literals, spans_of, texts_of, windows

log = logging.getLogger("outstation.names")

Finder = Callable[[Sequence[str]], Awaitable[list[list[Found]]]]
"""What a model finds in each of some texts, the pieces of which it is not sure included."""


class Names:
    """One generation's search for names.

    Where names stood in a piece of text is remembered; no text and no name is.

    Args:
        timeout_s: of one request, however long it is.
    """

    def __init__(self, find: Finder, timeout_s: float) -> None:
        self._find = find
        self._timeout_s = timeout_s
        self._told = Pieces[Sequence[tuple[int, int]]](self._asked)

    async def of(
        self, request_id: str, raw: Mapping[str, Any], *, trusted: frozenset[str] = frozenset(), large: bool = False
    ) -> tuple[str, ...] | None:
        """The names in a body, and the words that they consist of; None: nothing is known, it failed or took too long.

        Args:
            trusted: texts of it that the gateway wrote itself, which are not searched.
            large: it is made ready beside the event loop.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                pieces = await asyncio.to_thread(_pieces, raw, trusted) if large else _pieces(raw, trusted)
                spans = await self._told.of(pieces)
        except Exception as error:  # noqa: BLE001 - whatever it is, it means: do not send
            # The type only: the text may quote what was searched.
            log.error("%s: the search for names failed: %s", request_id, type(error).__name__)
            return None
        return tuple(
            literals(piece[start:end] for piece, found in zip(pieces, spans, strict=True) for start, end in found)
        )

    async def _asked(self, pieces: Sequence[str]) -> list[Sequence[tuple[int, int]]]:
        answers = await self._find(pieces)
        return [tuple(spans_of(piece, answer)) for piece, answer in zip(pieces, answers, strict=True)]


def _pieces(raw: Mapping[str, Any], trusted: frozenset[str]) -> list[str]:
    return list(dict.fromkeys(piece for text in texts_of(raw, trusted) for piece in windows(text)))


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
