"""A reranker's opinion of what was found, as far as there is time for it.

An order by both paths is good enough to answer with: whatever goes wrong here is no reason to fail.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from backends.errors import BackendError
from rag.rank import Candidate, Settings, close, pair_text, pairs_within
from rag.rank_looks import looks
from rag.rank_passages import Answer, looked_again

FIRST_PAIR_S: Final = 0.025
"""What a pair is taken to cost until some were measured."""
_FORGETS: Final = 0.2

Rerank = Callable[[str, Sequence[str]], Awaitable[Sequence[float]]]
"""A logit for each text, given the question; none: there is no reranker. Raises `BackendError`s."""

log = logging.getLogger("outstation.documents")


@dataclass(slots=True)
class Pace:
    """What a pair costs the reranker of late (s)."""

    pair_s: float = FIRST_PAIR_S

    def saw(self, pairs: int, seconds: float) -> None:
        """So many took so long."""
        self.pair_s += _FORGETS * (seconds / pairs - self.pair_s)


class Reranking:
    """Of one question.

    Args:
        seconds: that it may take in all; 0: nothing is asked.
    """

    def __init__(self, rerank: Rerank, seconds: float, pace: Pace) -> None:
        self._rerank = rerank
        self._seconds = seconds
        self._pace = pace
        self._until = time.monotonic() + seconds

    async def of_close(self, question: str, candidates: Sequence[Candidate], settings: Settings) -> Mapping[int, float]:
        """The logits of the close ones, or at least of the best, to tell whether it answers; none: there is no time, or
        no reranker."""
        most = self._pairs()
        near = close(candidates, settings, most) or candidates[: min(1, most)]
        logits = await self._logits(question, [pair_text(question, one) for one in near])
        return dict(zip((one.id for one in near), logits, strict=False))

    async def look_again(self, question: str, said: Answer, ranked: Sequence[Candidate]) -> Answer:
        """Before it is said that the documents do not answer. See `rag/rank_looks.py`."""
        logits = await self._logits(question, looks(question, ranked, self._pairs()))
        return looked_again(question, said, ranked, logits) if logits else said

    def _pairs(self) -> int:
        return pairs_within(self._until - time.monotonic(), self._pace.pair_s)

    async def _logits(self, question: str, texts: Sequence[str]) -> Sequence[float]:
        """Of each; none: nobody can say."""
        if not texts:
            return ()
        begun = time.monotonic()
        try:
            async with asyncio.timeout(2 * self._seconds):
                logits = await self._rerank(question, texts)
        except (TimeoutError, BackendError) as error:
            self._pace.saw(len(texts), time.monotonic() - begun)
            log.warning("a search goes without its reranker: %s", getattr(error, "code", type(error).__name__))
            return ()
        if logits:
            self._pace.saw(len(texts), time.monotonic() - begun)
        return logits
