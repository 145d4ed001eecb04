"""A classifier's head: multinomial logistic regression over embeddings, its strength chosen by cross-validation, its
probabilities calibrated on folds that it did not see."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.training.common import Progress, TrainingError, need
from backends.training.measures import (
    Figures,
    Floats,
    Ints,
    Point,
    at_confidence,
    figures,
    log_loss,
    softmax,
    suggest_confidence,
)
from backends.training.split import folds, split

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class FitSettings:
    """How a head is trained.

    Attributes:
        test: part of each label's rows that only measures, between 0 and 1.
        accuracy: wanted of the answers that are sure; the suggested confidence follows from it.
        strengths: inverse regularisation strengths C to choose from.
        seed: another one splits otherwise.
        fold_rows: that are cross-validated at most; more do not change which strength is best, but take minutes.
    """

    test: float = 0.2
    accuracy: float = 0.95
    folds: int = 5
    strengths: tuple[float, ...] = (0.1, 1.0, 10.0, 100.0, 1000.0)
    seed: int = 0
    fold_rows: int = 20_000


@dataclass(frozen=True, slots=True)
class Head:
    """What was learned: logits = vectors @ weights.T + bias, probabilities = softmax(logits / temperature).

    Attributes:
        weights: [labels, dimensions]
        bias: [labels]
    """

    labels: tuple[str, ...]
    weights: Vectors
    bias: Vectors
    temperature: float

    def logits(self, vectors: Vectors) -> Floats:
        """[rows, labels] of vectors [rows, dimensions]."""
        return (vectors @ self.weights.T + self.bias).astype(np.float64)

    def probabilities(self, vectors: Vectors) -> Floats:
        """[rows, labels] of vectors [rows, dimensions]."""
        return softmax(self.logits(vectors), self.temperature)


@dataclass(frozen=True, slots=True)
class Fitted:
    """A head, and how good it is.

    Attributes:
        strength: the chosen C.
        confidence: suggested: below it an answer is unsure. 1.0 if no confidence gave the wanted accuracy.
        reached: whether one did.
        held_out: on the test rows, which it never saw.
        cross_validated: on the other rows, each judged by a head that learned from the other folds: more rows, but the
            strength and the temperature were chosen by them.
        ece_before: the calibration error there without the temperature.
        sure: on the test rows, from that confidence on.
        train_rows: that it learned from.
    """

    head: Head
    strength: float
    confidence: float
    reached: bool
    held_out: Figures
    cross_validated: Figures
    ece_before: float
    sure: Point
    train_rows: int


def fit(
    texts: Sequence[str], vectors: Vectors, labels: Sequence[str], settings: FitSettings, progress: Progress
) -> Fitted:
    """A head for texts (each once) with their vectors [rows, dimensions] and labels.

    Raises:
        TrainingError: scikit-learn is not installed, or the vectors are not numbers.
    """
    if not np.isfinite(vectors).all():
        raise TrainingError("Some embeddings are not numbers; the base model is at fault.")
    names, truth = _indices(labels)
    parts = split(texts, truth, settings.test, settings.seed)
    train_texts = [texts[index] for index in parts.train]
    train, train_truth = vectors[parts.train], truth[parts.train]
    strength, unseen, unseen_truth = _choose(train_texts, train, train_truth, settings, progress)
    temperature = find_temperature(unseen, unseen_truth)
    progress("learning", 0, 1)
    head = Head(names, *_regress(train, train_truth, strength), temperature=temperature)
    progress("learning", 1, 1)
    return _measured(head, strength, (unseen, unseen_truth), (vectors[parts.test], truth[parts.test]), settings, train)


def _measured(
    head: Head,
    strength: float,
    unseen: tuple[Floats, Ints],
    test: tuple[Vectors, Ints],
    settings: FitSettings,
    train: Vectors,
) -> Fitted:
    guessed = softmax(unseen[0], head.temperature)
    suggested = suggest_confidence(guessed, unseen[1], settings.accuracy)
    confidence = min(round(suggested.confidence, 3), 1.0) if suggested else 1.0
    logits, truth = head.logits(test[0]), test[1]
    probabilities = softmax(logits, head.temperature)
    before = figures(softmax(logits), truth, head.labels)
    return Fitted(
        head=head,
        strength=strength,
        confidence=confidence,
        reached=suggested is not None,
        held_out=figures(probabilities, truth, head.labels),
        cross_validated=figures(guessed, unseen[1], head.labels),
        ece_before=before.ece,
        sure=at_confidence(probabilities, truth, confidence),
        train_rows=len(train),
    )


def _indices(labels: Sequence[str]) -> tuple[tuple[str, ...], Ints]:
    names = tuple(sorted(set(labels)))
    index = {name: at for at, name in enumerate(names)}
    return names, np.array([index[label] for label in labels], dtype=np.int64)


def _choose(
    texts: Sequence[str], vectors: Vectors, truth: Ints, settings: FitSettings, progress: Progress
) -> tuple[float, Floats, Ints]:
    """The strength whose calibrated probabilities of unseen rows are best, and its logits of those rows."""
    count = min(settings.folds, int(np.bincount(truth).min()))
    fold = folds(texts, truth, count, settings.seed)
    if len(texts) > settings.fold_rows:
        some = _some(truth, settings.fold_rows / len(texts), settings.seed)
        vectors, truth, fold = vectors[some], truth[some], fold[some]
    best: tuple[float, float, Floats] | None = None
    for step, strength in enumerate(settings.strengths):
        logits = np.zeros((len(truth), int(truth.max()) + 1))
        for held in range(count):
            progress("cross-validating", step * count + held, len(settings.strengths) * count)
            weights, bias = _regress(vectors[fold != held], truth[fold != held], strength)
            logits[fold == held] = vectors[fold == held] @ weights.T + bias
        loss = log_loss(softmax(logits, find_temperature(logits, truth)), truth)
        if best is None or loss < best[0] - 1e-6:
            best = loss, strength, logits
    progress("cross-validating", 1, 1)
    assert best is not None
    return best[1], best[2], truth


def _some(truth: Ints, part: float, seed: int) -> Ints:
    """A part of each label's rows, all of those that are rare."""
    shuffled = np.random.default_rng(seed).permutation(len(truth))
    chosen = []
    for label in np.unique(truth):
        rows = shuffled[truth[shuffled] == label]
        chosen.append(rows[: max(round(part * len(rows)), 100)])
    return np.sort(np.concatenate(chosen))


def _regress(vectors: Vectors, truth: Ints, strength: float) -> tuple[Vectors, Vectors]:
    """Weights [labels, dimensions] and bias [labels]."""
    linear: Any = need("sklearn.linear_model", "train")
    model = linear.LogisticRegression(C=strength, max_iter=1000, tol=1e-4)
    with warnings.catch_warnings():
        # Not wholly converged is good enough: the held-out rows judge it.
        warnings.simplefilter("ignore")
        model.fit(vectors, truth)
    weights, bias = np.asarray(model.coef_), np.asarray(model.intercept_)
    if len(bias) == 1:
        # Of two labels it learns one logit, the second label's.
        weights, bias = np.vstack([-weights / 2, weights / 2]), np.concatenate([-bias / 2, bias / 2])
    return weights.astype(np.float32), bias.astype(np.float32)


def find_temperature(logits: Floats, truth: Ints) -> float:
    """What logits [rows, labels] are divided by so that their probabilities fit unseen rows (Guo et al. 2017).

    The right label counts for a little less than 1, as if each label had one more row of which nothing is known
    (after Platt 1999): rows that are all told right would otherwise ask for certainty itself.
    """
    rows, count = np.bincount(truth, minlength=logits.shape[1]), logits.shape[1]
    target = np.full(logits.shape, 0.0)
    target[np.arange(len(truth)), truth] = 1.0
    target = (target * rows[truth, None] + 1 / count) / (rows[truth, None] + 1)

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        top = scaled.max(axis=1, keepdims=True)
        normaliser = top + np.log(np.exp(scaled - top).sum(axis=1, keepdims=True))
        return float((target * (normaliser - scaled)).sum(axis=1).mean())

    # One valley: the loss is convex in 1 / temperature. Golden section.
    low, high, ratio = np.log(0.05), np.log(20.0), (5**0.5 - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = loss(left), loss(right)
    for _ in range(40):
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = loss(right)
    return float(np.exp((low + high) / 2))
