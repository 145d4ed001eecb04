"""Settings of a store from questions whose answers are known. Pure; for `bench.questions` and for operators."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Final

from rag.rank import Hit, Settings, fuse

WEIGHTS: Final = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.6, 1.0)
WITHIN: Final = 10
LEAST_CASES: Final = 20
"""With fewer questions chance would choose."""
_STEPS: Final = 4000
_RATE: Final = 0.3
_RIDGE: Final = 1.0


@dataclass(frozen=True, slots=True)
class Case:
    """A question, what each path found for it, and the ids of the pieces that answer it."""

    vectors: Sequence[Hit]
    words: Sequence[Hit]
    answering: frozenset[int]


def tuned(cases: Sequence[Case], settings: Settings | None = None) -> Settings:
    """With the weight of words that puts answers highest: the nearest to the one that is set of those that are worse
    than the best by no more than a standard error, so that chance changes nothing. Nor do too few cases.
    """
    settings = settings or Settings()
    if len(cases) < LEAST_CASES:
        return settings
    reached = {weight: reciprocals(cases, replace(settings, words=weight)) for weight in {*WEIGHTS, settings.words}}
    best = max(sorted(reached), key=lambda weight: fmean(reached[weight]))
    good = [weight for weight, values in sorted(reached.items()) if _hardly_worse(values, reached[best])]
    return replace(settings, words=min(good, key=lambda weight: abs(weight - settings.words)))


def reciprocals(cases: Sequence[Case], settings: Settings) -> list[float]:
    """Of each, 1 / the place of the first answer; 0 where it is not among the first ten. Their mean is MRR@10."""
    found = []
    for case in cases:
        ranked = fuse(case.vectors, case.words, settings)[:WITHIN]
        found.append(next((1 / place for place, one in enumerate(ranked, 1) if one.id in case.answering), 0.0))
    return found


def _hardly_worse(values: Sequence[float], best: Sequence[float]) -> bool:
    losses = [high - low for high, low in zip(best, values, strict=True)]
    return fmean(losses) <= stdev(losses) / math.sqrt(len(losses))


def fitted(rows: Sequence[Sequence[float]], answered: Sequence[bool]) -> tuple[float, ...]:
    """A logistic regression: the bias, then a weight for each column; for `Floor`. Both outcomes count the same,
    however many there are of each.

    Raises:
        ValueError: without both outcomes.
    """
    import numpy as np

    said = np.array(answered, dtype=float)
    if not 0 < said.sum() < len(said):
        raise ValueError("A floor needs questions that the documents answer, and some that they do not.")
    values = np.array(rows, dtype=float)
    means = values.mean(axis=0)
    spreads = values.std(axis=0)
    spreads[spreads == 0] = 1.0
    scaled = (values - means) / spreads
    share = np.where(said == 1, 0.5 / said.sum(), 0.5 / (len(said) - said.sum()))
    bias, weights = 0.0, np.zeros(values.shape[1])
    for _ in range(_STEPS):
        errors = share * (1 / (1 + np.exp(-bias - scaled @ weights)) - said)
        bias -= _RATE * errors.sum()
        weights -= _RATE * (errors @ scaled + _RIDGE * weights / len(said))
    plain = weights / spreads
    return (float(bias - plain @ means), *map(float, plain))
