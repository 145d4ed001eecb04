"""Which pieces answer a question, best first. Pure: what was found comes as arguments, a reranker's scores too.

    fuse, the best `pool` → distinct → close → (a reranker scores each `pair_text`) → rank_passages.answer

Two paths find pieces: vectors know what is meant, words know part numbers and options. Their scores are added, not
their ranks: a rank does not say that the second is nearly as good as the first, or far worse. On bench/questions.py
the sum finds more than either path, and more than reciprocal-rank fusion.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Final, Literal, Protocol

from rag.rank_words import Fingerprint, window
from rag.types import Chunk

POOL: Final = 30
"""Pieces that are read and compared, for up to 15 results: what stands behind them hardly ever comes among the ten."""
PAIR_WORDS: Final = 96
"""About 128 tokens: a pair costs 21 ms on one core then, and three times as much at 400 tokens."""
MOST_LOGIT: Final = 8.0
"""Beyond it a logit says no more."""
_EVEN_SCORE, _SCORE_SCALE = 0.94, 0.048
_LEAST_COSINES: Final = 200
_LEAST_SPREAD: Final = 0.01


@dataclass(frozen=True, slots=True)
class Scale:
    """Of an embedder's cosines: what is near for one is far for another. The default is bge-small-en-v1.5's, and the
    scale on which everything here is added.

    Attributes:
        mean, spread: of the cosines between random passages of technical documents; the spread is their standard
            deviation.
    """

    mean: float = 0.587
    spread: float = 0.077

    def standard(self, cosine: float) -> float:
        """The cosine as the default embedder would have it."""
        return _STANDARD.mean + (cosine - self.mean) * _STANDARD.spread / self.spread


_STANDARD: Final = Scale()
SCALES: Final[Mapping[str, Scale]] = {"bge-small-en-v1.5": _STANDARD, "all-minilm-l6-v2": Scale(0.158, 0.161)}


def scale(embedder: str, cosines: Sequence[float] = ()) -> Scale:
    """Of an embedder by its name, or else as it is seen in a store.

    Args:
        cosines: between random pieces of many files. From fewer than 200, or from one manual only, nothing can be
            said of an embedder: the default's scale is taken.
    """
    if embedder in SCALES or len(cosines) < _LEAST_COSINES:
        return SCALES.get(embedder, _STANDARD)
    return Scale(fmean(cosines), max(_LEAST_SPREAD, stdev(cosines)))


@dataclass(frozen=True, slots=True)
class Settings:
    """How a store is searched. The defaults were chosen on one half of bench/questions.py with bge-small-en-v1.5. All
    in its cosines.

    Attributes:
        words: what the best piece by words gets; the others in proportion to their BM25.
        rerank: for a unit of the reranker's logit.
        close: behind the best: a reranker is asked about those only.
        most_pairs: for the reranker.
        scale: of the store's embedder.
    """

    words: float = 0.2
    rerank: float = 0.04
    close: float = 0.1
    most_pairs: int = 6
    scale: Scale = _STANDARD


class Hit(Protocol):
    """What a path found."""

    @property
    def id(self) -> int:
        """Of the piece."""
        ...

    @property
    def score(self) -> float:
        """Higher is better."""
        ...


@dataclass(frozen=True, slots=True)
class Scores:
    """All that is known of how well a piece fits.

    Attributes:
        cosine: with the question, by the store's embedder; None: not among the best by vector.
        words: BM25 or its like, as the store gave it; None: not among the best by words.
        fused: the sum, in cosines of the default embedder. rerank: the reranker's logit; None: it was not asked.
        final: what pieces are ordered by, in the same.
    """

    cosine: float | None
    words: float | None
    fused: float
    rerank: float | None
    final: float

    @property
    def path(self) -> Literal["vectors", "words", "both"]:
        """Which found it."""
        if self.cosine is None:
            return "words"
        return "vectors" if self.words is None else "both"

    @property
    def score(self) -> float:
        """0 to 1, in the order of `final`: about how often such a piece held the answer."""
        return 1 / (1 + math.exp(min(500.0, (_EVEN_SCORE - self.final) / _SCORE_SCALE)))


@dataclass(frozen=True, slots=True)
class Ranked:
    """A piece's id, and how well it fits."""

    id: int
    scores: Scores


@dataclass(frozen=True, slots=True)
class Candidate:
    """A piece that was found.

    Attributes:
        file: whatever tells files apart. place: among the file's pieces, from 0.
        same: ids of pieces that say the same and were left out for it.
    """

    id: int
    file: str
    place: int
    chunk: Chunk
    scores: Scores
    same: tuple[int, ...] = ()


def fuse(vectors: Sequence[Hit], words: Sequence[Hit], settings: Settings | None = None) -> list[Ranked]:
    """All that either path found, the best first.

    What only the words found is given the lowest cosine that was found: it has no higher one. What only the vectors
    found gets nothing for words.
    """
    settings = settings or Settings()
    cosines = {hit.id: hit.score for hit in vectors}
    matches = {hit.id: hit.score for hit in words}
    lowest = min(cosines.values(), default=settings.scale.mean)
    most = max(matches.values(), default=0.0)
    found = []
    for id_ in dict.fromkeys([*cosines, *matches]):
        share = max(0.0, matches.get(id_, 0.0)) / most if most > 0 else 0.0
        fused = settings.scale.standard(cosines.get(id_, lowest)) + settings.words * share
        found.append(Ranked(id_, Scores(cosines.get(id_), matches.get(id_), fused, None, fused)))
    return sorted(found, key=lambda one: (-one.scores.final, one.id))


def pool(limit: int) -> int:
    """How many of the fused pieces are worth reading for so many results."""
    return max(POOL, 2 * limit)


def distinct(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Without those that say the same as a better one, which keeps their ids. Same means nearly every word in the same
    order, and no other number: the pages of two models are not the same.
    """
    kept: list[Candidate] = []
    prints: list[Fingerprint] = []
    for one in candidates:
        print_ = Fingerprint(one.chunk.text)
        at = next((n for n, other in enumerate(prints) if print_.same(other)), None)
        if at is None:
            kept.append(one)
            prints.append(print_)
        else:
            kept[at] = replace(kept[at], same=(*kept[at].same, one.id))
    return kept


def close(
    candidates: Sequence[Candidate], settings: Settings | None = None, most: int | None = None
) -> list[Candidate]:
    """Those about which a reranker is worth asking; none, where the best is far ahead.

    Args:
        most: pairs for which there is time: see `pairs_within`.
    """
    settings = settings or Settings()
    most = settings.most_pairs if most is None else min(most, settings.most_pairs)
    if not candidates:
        return []
    least = candidates[0].scores.final - settings.close
    near = [one for one in candidates[:most] if one.scores.final >= least]
    return near if len(near) > 1 else []


def pairs_within(seconds: float, each: float) -> int:
    """How many pairs a reranker can score in so much time, at so much for each."""
    if seconds <= 0:
        return 0
    return int(seconds / each) if each > 0 else Settings().most_pairs


def pair_text(question: str, candidate: Candidate) -> str:
    """What a reranker reads of a piece: its heading, and the part of it that has most of the question's words."""
    part = window(candidate.chunk.text, question, PAIR_WORDS)
    return f"{candidate.chunk.headings[-1]}: {part}" if candidate.chunk.headings else part


def reranked(
    candidates: Sequence[Candidate], logits: Mapping[int, float], settings: Settings | None = None
) -> list[Candidate]:
    """In their new order, the best first. Those of which there is no logit count as the worst of those that have one:
    they were further behind.
    """
    settings = settings or Settings()
    if not logits:
        return list(candidates)
    bounded = {id_: max(-MOST_LOGIT, min(MOST_LOGIT, logit)) for id_, logit in logits.items()}
    worst = min(bounded.values())
    changed = [
        replace(
            one,
            scores=replace(
                one.scores,
                rerank=logits.get(one.id),
                final=one.scores.fused + settings.rerank * bounded.get(one.id, worst),
            ),
        )
        for one in candidates
    ]
    return sorted(changed, key=lambda one: (-one.scores.final, one.id))
