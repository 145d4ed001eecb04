"""How much a smaller model's answers agree with the original's, on an operator's own samples. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backends.onnx.manifest import Task

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of answers to the same samples.

    Attributes:
        measure: what is compared.
        mean, worst: over the samples; 1 is the same.
        judged: the one that must not be below what is wanted.
        same_neighbour: of an embedder: the part of the samples whose nearest other sample is the same.
    """

    measure: str
    mean: float
    worst: float
    judged: float
    same_neighbour: float | None = None


def agreement(task: Task, original: Floats, other: Floats) -> Agreement:
    """Of embeddings [samples, dimensions], of scores [samples], or of probabilities [samples, labels]."""
    if task == "embed":
        return _of_vectors(original, other)
    if task == "rerank":
        near = 1 - np.abs(original - other)
        return Agreement("1 - difference of scores", float(near.mean()), float(near.min()), float(near.mean()))
    same = float((original.argmax(axis=1) == other.argmax(axis=1)).mean())
    near = 1 - np.abs(original - other).max(axis=1)
    return Agreement("same label", same, float(near.min()), same)


def _of_vectors(original: Floats, other: Floats) -> Agreement:
    a, b = _unit(original), _unit(other)
    cosines = (a * b).sum(axis=1)
    worst = float(cosines.min())
    same = float((_nearest(a) == _nearest(b)).mean()) if len(a) > 2 else None
    # The worst decides: a fault of the export shows in some lengths only.
    return Agreement("cosine", float(cosines.mean()), worst, worst, same)


def _unit(vectors: Floats) -> Floats:
    scaled: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return scaled


def _nearest(vectors: Floats) -> NDArray[np.intp]:
    likeness = vectors @ vectors.T
    np.fill_diagonal(likeness, -np.inf)
    nearest: NDArray[np.intp] = likeness.argmax(axis=1)
    return nearest
