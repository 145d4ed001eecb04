"""How good a classifier is, from the probabilities that it gave and the labels that were right. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BINS = 10


@dataclass(frozen=True, slots=True)
class LabelFigures:
    """Of one label. Precision is of what was called so, recall of what is so; 0 where nothing was or is.

    Attributes:
        rows: that have it.
    """

    label: str
    precision: float
    recall: float
    f1: float
    rows: int


@dataclass(frozen=True, slots=True)
class Figures:
    """Of a classifier on `rows` rows.

    Attributes:
        ece: expected calibration error: how far, on average, its probability of its best label is from how often that
            is right (Guo et al. 2017, ten bins of equal width). A few hundred rows show it to a few hundredths only.
        log_loss: mean negative logarithm of the right label's probability.
        confusion: rows that are label i and were called label j.
    """

    rows: int
    accuracy: float
    macro_f1: float
    ece: float
    log_loss: float
    labels: tuple[LabelFigures, ...]
    confusion: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Point:
    """One point of the risk/coverage curve: what is answered from this confidence on, and how much of it is right.

    Attributes:
        coverage, accuracy: between 0 and 1; the accuracy of nothing is 1.
    """

    confidence: float
    coverage: float
    accuracy: float


def softmax(logits: Floats, temperature: float = 1.0) -> Floats:
    """Probabilities [rows, labels] from logits [rows, labels]."""
    scaled = logits / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)  # type: ignore[no-any-return]


def figures(probabilities: Floats, truth: Ints, labels: tuple[str, ...]) -> Figures:
    """All of them, from probabilities [rows, labels] and the right labels' indices [rows]."""
    guessed = probabilities.argmax(axis=1)
    confusion = np.zeros((len(labels), len(labels)), dtype=np.int64)
    np.add.at(confusion, (truth, guessed), 1)
    each = tuple(_of_label(name, index, confusion) for index, name in enumerate(labels))
    return Figures(
        rows=len(truth),
        accuracy=float((guessed == truth).mean()),
        macro_f1=float(np.mean([label.f1 for label in each])),
        ece=calibration_error(probabilities, truth),
        log_loss=log_loss(probabilities, truth),
        labels=each,
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
    )


def _of_label(name: str, index: int, confusion: Ints) -> LabelFigures:
    right, called, rows = (int(n) for n in (confusion[index, index], confusion[:, index].sum(), confusion[index].sum()))
    return LabelFigures(
        label=name,
        precision=right / called if called else 0.0,
        recall=right / rows if rows else 0.0,
        f1=2 * right / (called + rows) if called + rows else 0.0,
        rows=rows,
    )


def calibration_error(probabilities: Floats, truth: Ints) -> float:
    """The expected calibration error of the best label's probability."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    gaps = np.abs(np.bincount(bins, confidence, BINS) - np.bincount(bins, right, BINS))
    return float(gaps.sum() / len(truth))


def log_loss(probabilities: Floats, truth: Ints) -> float:
    """Mean negative logarithm of the right label's probability (which is taken for 1e-12 at least)."""
    return float(-np.log(np.maximum(probabilities[np.arange(len(truth)), truth], 1e-12)).mean())


def risk_coverage(probabilities: Floats, truth: Ints) -> tuple[Point, ...]:
    """The curve, from the surest answer alone to all of them; one point for each confidence that occurs."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    order = np.argsort(-confidence, kind="stable")
    sorted_confidence = confidence[order]
    accuracy = np.cumsum(right[order]) / np.arange(1, len(truth) + 1)
    last_of_tie = np.append(sorted_confidence[:-1] != sorted_confidence[1:], True)
    return tuple(
        Point(float(sorted_confidence[at]), (int(at) + 1) / len(truth), float(accuracy[at]))
        for at in np.flatnonzero(last_of_tie)
    )


def at_confidence(probabilities: Floats, truth: Ints, confidence: float) -> Point:
    """What is answered from a confidence on."""
    answered = probabilities.max(axis=1) >= confidence
    right = probabilities.argmax(axis=1) == truth
    accuracy = float(right[answered].mean()) if answered.any() else 1.0
    return Point(confidence, float(answered.mean()), accuracy)


def suggest_confidence(probabilities: Floats, truth: Ints, wanted: float) -> Point | None:
    """The lowest confidence from which on answers are right in `wanted` of the cases; None if there is none.

    Never below the confidence of all but 2% of the right answers: where nearly all is right, a text that belongs under
    no label is still told by an answer less sure than right ones are. Fewer than ten answers prove nothing.
    """
    curve = risk_coverage(probabilities, truth)
    enough = [
        point for point in curve if point.accuracy >= wanted and point.coverage * len(truth) >= min(10, len(truth))
    ]
    if not enough:
        return None
    right = probabilities.argmax(axis=1) == truth
    floor = float(np.quantile(probabilities.max(axis=1)[right], 0.02))
    return at_confidence(probabilities, truth, max(enough[-1].confidence, floor))
