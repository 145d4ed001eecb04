"""What a request is like, told once for those rules and guards that ask, and in bounded time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from backends.types import GENERATES, Request
from gateway.pieces import Pieces
from gateway.schemas.guards import SignalSettings
from gateway.small_models import Run
from policies.signals import (
    JUDGED,
    MOST_JUDGED,
    MOST_PIECES,
    TOO_LONG,
    Texts,
    difficulty,
    language,
    sentences,
    texts_of,
    windows,
)

log = logging.getLogger("outstation.signals")

SIDES = ("_user", "_retrieved")
CUT_AT_ONCE = 32  # pieces of a large text that are cut before others have their turn

HARMLESS = frozenset({"benign", "safe", "clean", "none", "neutral", "ok", "normal"})
"""Labels of classifiers that name what is fine."""


class Told(NamedTuple):
    """Values by name, and the names of those that could not be told in time; with `TOO_LONG` among these there is more
    than is judged."""

    values: Mapping[str, float | str] = {}
    late: frozenset[str] = frozenset()


class Signals:
    """One generation's.

    Args:
        reads: names of the signals that rules and guards read, all others being left alone.
        models: the small model of each of `JUDGED`.
        timeout_s, piece_s: of one request, and of each of its pieces besides.
    """

    def __init__(
        self, reads: Iterable[str], models: Mapping[str, str], run: Run, timeout_s: float, piece_s: float = 0.0
    ) -> None:
        self._reads = frozenset(reads)
        self._timeout_s = timeout_s
        self._piece_s = piece_s
        self._told = {
            name: Pieces[float](_judge(run, models[name], name))
            for name in JUDGED
            if any(read.partition("_")[0] == name for read in self._reads)
        }

    async def of(self, request: Request, *, large: bool = False) -> Told:
        """Nothing of a request that asks no language model. While a `large` one is cut up others have their turns."""
        if request.kind not in GENERATES:
            return Told()
        texts = texts_of(request)
        values: dict[str, float | str] = {}
        last = texts.user[-1] if texts.user else ""
        if not self._reads.isdisjoint(("language", "language_confidence")):
            values["language"], values["language_confidence"] = language(last)
        if "difficulty" in self._reads:
            values["difficulty"] = difficulty(last)
        late: frozenset[str] = frozenset()
        for told in await asyncio.gather(*(self._judged(request.id, name, texts, large=large) for name in self._told)):
            values.update(told.values)
            late |= told.late
        return Told(values, late)

    async def _judged(self, request_id: str, name: str, texts: Texts, *, large: bool) -> Told:
        """One signal: of each side that somebody reads, and the larger of both."""
        unknown = frozenset({name, *(name + side for side in SIDES)})
        wanted = [side for side in SIDES if name in self._reads or name + side in self._reads]
        if texts.opaque:
            return Told({}, unknown)
        began = asyncio.get_running_loop().time()
        try:
            # How long it may take is known only once it is cut, which its own bounds keep short.
            sides = await _cut(texts, wanted, large=large)
            if sides is None:
                log.warning("%s: %s is not known: the text is too long", request_id, name)
                return Told({}, unknown | {TOO_LONG})
            pieces = [piece for side in wanted for piece in sides[side]]
            async with asyncio.timeout_at(began + self._timeout_s + self._piece_s * len(pieces)):
                scores = dict(zip(pieces, await self._told[name].of(pieces), strict=True))
        except Exception as error:  # noqa: BLE001 - whatever it is, the signal is not known
            # The type only: the text may quote what was judged.
            log.warning("%s: %s is not known: %s", request_id, name, type(error).__name__)
            return Told({}, unknown)
        values = {name: max(scores.values(), default=0.0)} if name in self._reads else {}
        values |= {name + side: max((scores[piece] for piece in sides[side]), default=0.0) for side in wanted}
        return Told(values)


def signals_of(settings: SignalSettings, reads: frozenset[str], run: Run) -> Signals | None:
    """As configured; None: nobody reads any."""
    models = {"injection": settings.injection, "toxicity": settings.toxicity}
    return Signals(reads, models, run, settings.timeout_ms / 1000, settings.piece_ms / 1000) if reads else None


async def _cut(texts: Texts, wanted: Sequence[str], *, large: bool) -> dict[str, list[str]] | None:
    """The pieces of each side that is wanted; None: there is more than is judged. No step of it takes long."""
    of = {"_user": texts.user, "_retrieved": texts.retrieved}
    if sum(len(text) for side in wanted for text in of[side]) > MOST_JUDGED:
        return None
    cut: dict[str, list[str]] = {side: [] for side in wanted}
    count = 0
    for side in wanted:
        for piece in _pieces(of[side], retrieved=side == "_retrieved"):
            cut[side].append(piece)
            count += 1
            if count > MOST_PIECES:
                return None
            if large and count % CUT_AT_ONCE == 0:
                await asyncio.sleep(0)
    return cut


def _pieces(texts: Sequence[str], *, retrieved: bool) -> Iterator[str]:
    for text in texts:
        for part in sentences(text) if retrieved else (text,):
            yield from windows(part)


def _judge(run: Run, model: str, name: str) -> Callable[[Sequence[str]], Awaitable[list[float]]]:
    """Asks the model how much each piece is what the signal is called."""

    async def judge(pieces: Sequence[str]) -> list[float]:
        request = Request("signals", model, "classification", prompts=tuple(pieces), options={"windows": True})
        results, _ = await run(model, request)
        return [_score(result["probabilities"], name) for result in results]

    return judge


def _score(probabilities: Mapping[str, float], name: str) -> float:
    """Of the label of that name; a model without one has labels for what is bad, and perhaps one for what is not."""
    if name in probabilities:
        return round(float(probabilities[name]), 4)
    return round(float(max(p for label, p in probabilities.items() if label.lower() not in HARMLESS)), 4)
