"""The ways to rank that are compared: each gives the numbers of the pieces for a question, the best first."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from bench.questions_corpus import Question
from bench.questions_index import Hit, Index
from bench.questions_models import Reranker, Vectors
from rag.rank import Candidate, Settings, close, distinct, fuse, pair_text, pool, reranked
from rag.rank_passages import Answer, answer, evidence

SHOWN = 10
_RRF = 60


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, and what each path found for it."""

    question: Question
    vectors: Sequence[Hit]
    words: Sequence[Hit]


@dataclass(slots=True)
class Bench:
    """All that a way may use.

    Attributes:
        pairs, ranking: of each question that a way was asked: pairs that were reranked, seconds without the models.
    """

    index: Index
    reranker: Reranker
    settings: Settings = field(default_factory=Settings)
    pairs: list[int] = field(default_factory=list)
    ranking: list[float] = field(default_factory=list)

    def ask(self, questions: Sequence[Question], vectors: Mapping[str, Vectors]) -> list[Asked]:
        """What the paths find."""
        return [Asked(q, self.index.by_vector(vectors[q.text]), self.index.by_words(q.text)) for q in questions]

    def dense(self, asked: Asked) -> list[set[int]]:
        """By the vectors alone."""
        return [{hit.id} for hit in asked.vectors]

    def words(self, asked: Asked) -> list[set[int]]:
        """By the words alone."""
        return [{hit.id} for hit in asked.words]

    def by_rank(self, asked: Asked) -> list[set[int]]:
        """Reciprocal-rank fusion of the two."""
        scores: dict[int, float] = {}
        for hits in (asked.vectors, asked.words):
            for place, hit in enumerate(hits, 1):
                scores[hit.id] = scores.get(hit.id, 0.0) + 1 / (_RRF + place)
        return [{id_} for id_ in sorted(scores, key=lambda one: -scores[one])]

    def weighted(self, asked: Asked) -> list[set[int]]:
        """The product's sum of both, without duplicates."""
        return [_said(one) for one in self._candidates(asked)]

    def reranked(self, asked: Asked) -> list[set[int]]:
        """The same, and a reranker asked about the close ones: the product's default."""
        return [set().union(*map(_said, one.pieces)) for one in self.answer(asked, merged=False).passages]

    def shown(self, asked: Asked) -> list[set[int]]:
        """What a caller gets: neighbours merged into passages."""
        return [set().union(*map(_said, one.pieces)) for one in self.answer(asked).passages]

    def answer(self, asked: Asked, *, merged: bool = True, rerank: bool = True) -> Answer:
        """The product's answer."""
        candidates = self._candidates(asked)
        near = close(candidates, self.settings) if rerank else []
        text = asked.question.text
        logits = {one.id: self.reranker.logit(text, pair_text(text, one)) for one in near}
        self.pairs.append(len(near))
        begun = time.perf_counter()
        found = candidates if merged else [_alone(one) for one in candidates]
        said = answer(text, found, SHOWN, logits=logits, settings=self.settings)
        self.ranking[-1] += time.perf_counter() - begun
        return said

    def speaks(self, asked: Asked, *, rerank: bool) -> list[float]:
        """What a floor is fitted to: cosine, coverage, and a logit where the reranker was asked."""
        candidates = self._candidates(asked)
        near = close(candidates, self.settings) if rerank else []
        text = asked.question.text
        logits = {one.id: self.reranker.logit(text, pair_text(text, one)) for one in near}
        return evidence(text, reranked(candidates, logits, self.settings), self.settings.scale)

    def _candidates(self, asked: Asked) -> list[Candidate]:
        begun = time.perf_counter()
        found = distinct(self.index.candidates(fuse(asked.vectors, asked.words, self.settings)[: pool(SHOWN)]))
        self.ranking.append(time.perf_counter() - begun)
        return found


Way = Callable[[Asked], list[set[int]]]


def place(found: Sequence[set[int]], answering: frozenset[int]) -> int | None:
    """From 1, of the first that answers; None: not among the first ten."""
    return next((at for at, one in enumerate(found[:SHOWN], 1) if one & answering), None)


def _said(one: Candidate) -> set[int]:
    return {one.id, *one.same}


def _alone(one: Candidate) -> Candidate:
    """Without neighbours."""
    return Candidate(one.id, f"{one.file}#{one.place}", one.place, one.chunk, one.scores, one.same)
