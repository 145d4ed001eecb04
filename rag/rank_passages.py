"""From ranked pieces to what is shown: neighbours in one passage, and whether the documents say anything. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from rag.rank import MOST_LOGIT, Candidate, Scale, Settings, reranked
from rag.rank_words import Coverage

MOST_MERGED: Final = 4
"""Pieces in a passage: one that goes on and on would leave no room for others."""
_LOOKED_AT: Final = 3
"""Of the best pieces, for the question's words."""


@dataclass(frozen=True, slots=True)
class Passage:
    """Neighbouring pieces of a file, as one.

    Attributes:
        text: from `start` to `end` of the file; blanks between pieces are line ends here.
        pieces: in the file's order. best: of the pieces.
    """

    file: str
    start: int
    end: int
    text: str
    pieces: tuple[Candidate, ...]
    best: Candidate


@dataclass(frozen=True, slots=True)
class Floor:
    """When the documents do not say. A logistic regression: weights of the best cosine (on the default
    embedder's scale), of how much of the question's
    words stands in the three best pieces, and of the reranker's best logit, where it was asked.

    Of one half of bench/questions.py, with bge-small-en-v1.5 and ms-marco-minilm-l-12-v2.

    Attributes:
        looked: after a second look (rag/rank_looks.py), of the coverage and of the best part's logit: the vector of a
            chunk of many matters says nothing then.
        least: confidence from which there is an answer.
    """

    plain: tuple[float, float, float] = (-17.5, 22.8, 5.2)
    reranked: tuple[float, float, float, float] = (-8.7, 12.5, 2.2, 0.31)
    looked: tuple[float, float, float] = (-0.39, 2.22, 0.35)
    least: float = 0.5

    def confidence(self, found: Sequence[float]) -> float:
        """0 to 1, of what `evidence` found."""
        return _logistic(self.plain if len(found) == len(self.plain) - 1 else self.reranked, found)

    def after_look(self, covered: float, logit: float) -> float:
        """0 to 1."""
        return _logistic(self.looked, (covered, logit))


def _logistic(weights: Sequence[float], values: Sequence[float]) -> float:
    bias, *rest = weights
    logit = bias + sum(weight * value for weight, value in zip(rest, values, strict=True))
    return 1 / (1 + math.exp(-max(-500.0, min(500.0, logit))))


@dataclass(frozen=True, slots=True)
class Answer:
    """What a search brings.

    Attributes:
        passages: the best first; also where the documents do not say: the caller may want to show them.
        confidence: 0 to 1: that the documents answer the question. See `Floor`.
        answered: the confidence reaches the floor.
    """

    passages: tuple[Passage, ...]
    confidence: float
    answered: bool


def answer(
    question: str,
    candidates: Sequence[Candidate],
    limit: int,
    *,
    logits: Mapping[int, float] | None = None,
    settings: Settings | None = None,
    floor: Floor | None = None,
) -> Answer:
    """What is shown for a question.

    Args:
        candidates: what `distinct` kept of the pool; all, since how rare a word is, is seen among them.
        limit: passages at most.
        logits: of the reranker, by a candidate's id.
    """
    ranked = reranked(candidates, logits or {}, settings)
    floor = floor or Floor()
    sure = floor.confidence(evidence(question, ranked, (settings or Settings()).scale)) if ranked else 0.0
    return Answer(passages(ranked, limit), sure, sure >= floor.least)


def looked_again(
    question: str, said: Answer, ranked: Sequence[Candidate], logits: Sequence[float], floor: Floor | None = None
) -> Answer:
    """The same answer, with what a second look at parts of its best pieces gave.

    Args:
        logits: of the parts.
    """
    floor = floor or Floor()
    best = max([*logits, *(one.scores.rerank for one in ranked if one.scores.rerank is not None)], default=-MOST_LOGIT)
    covered = Coverage(question, map(_words, ranked)).of(map(_words, ranked[:_LOOKED_AT]))
    sure = max(said.confidence, floor.after_look(covered, max(-MOST_LOGIT, min(MOST_LOGIT, best))))
    return replace(said, confidence=sure, answered=sure >= floor.least)


def evidence(question: str, ranked: Sequence[Candidate], scale: Scale) -> list[float]:
    """What speaks for an answer, as `Floor` weighs it: the cosine, the coverage and, if there is one, the logit."""
    covered = Coverage(question, map(_words, ranked)).of(map(_words, ranked[:_LOOKED_AT]))
    cosine = max((one.scores.cosine for one in ranked if one.scores.cosine is not None), default=scale.mean)
    rerank = max((one.scores.rerank for one in ranked if one.scores.rerank is not None), default=None)
    found = [scale.standard(cosine), covered]
    return found if rerank is None else [*found, max(-MOST_LOGIT, min(MOST_LOGIT, rerank))]


def _words(candidate: Candidate) -> str:
    """Its text and what it stands under."""
    return " ".join([*candidate.chunk.headings, candidate.chunk.text])


def passages(candidates: Sequence[Candidate], limit: int) -> tuple[Passage, ...]:
    """The best `limit`, with neighbours in a file merged into one, which stands where its best piece stood."""
    groups: list[list[Candidate]] = []
    for one in candidates:
        near = [group for group in groups if _adjacent(group, one)]
        if sum(map(len, near)) + 1 > MOST_MERGED:
            near = [group for group in near[:1] if len(group) < MOST_MERGED]
        if not near and len(groups) == limit:
            break
        if not near:
            groups.append([one])
            continue
        near[0] += [one, *(other for group in near[1:] for other in group)]
        groups = [group for group in groups if not any(group is other for other in near[1:])]
    return tuple(_joined(group) for group in groups)


def _adjacent(group: Sequence[Candidate], one: Candidate) -> bool:
    return any(other.file == one.file and abs(other.place - one.place) == 1 for other in group)


def _joined(group: Sequence[Candidate]) -> Passage:
    """`group`: the best of them first."""
    pieces = tuple(sorted(group, key=lambda one: one.place))
    start, end, text = pieces[0].chunk.start, pieces[0].chunk.start, ""
    for piece in pieces:
        chunk = piece.chunk
        # Pieces may overlap; between two there are only blanks, whose number is kept: places in the passage are
        # places in the file.
        text += "\n" * (chunk.start - end) + chunk.text[max(0, end - chunk.start) :]
        end = max(end, chunk.end)
    return Passage(pieces[0].file, start, end, text, pieces, group[0])
