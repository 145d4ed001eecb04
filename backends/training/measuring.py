"""The forms of a model, measured on an operator's samples: how fast each is, and how near to the original."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backends.onnx.manifest import Manifest
from backends.training.agreement import Agreement, agreement
from backends.training.common import Progress
from backends.training.local import open_room, run, vector_of
from backends.training.samples import Sample
from backends.types import Kind

Floats = NDArray[np.float32]
Ask = Callable[[Sample], Floats]
KINDS: dict[str, Kind] = {"embed": "embedding", "rerank": "rerank", "classify": "classification"}
TIMED = 50
"""Samples that are timed, one at a time."""
TRIALS = 3
NOISE = 1.1
"""Times that differ by less are the same."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One form of the model.

    Attributes:
        size: bytes of its weights.
        milliseconds: of one sample alone on one thread, the median of the best of three.
        agreement: with the original; None: it is the original.
    """

    name: str
    size: int
    milliseconds: float
    agreement: Agreement | None = None

    @property
    def judged(self) -> float:
        """What must not be below what is wanted."""
        return self.agreement.judged if self.agreement else 1.0


class Measuring:
    """Of forms that are made one after the other, by the code that will serve them.

    Args:
        truth: what the original says of the samples.
    """

    def __init__(self, truth: Floats, samples: Sequence[Sample], progress: Progress) -> None:
        self._truth, self._samples, self._progress = truth, samples, progress
        self._room = open_room(threads=1)
        self._forms: dict[str, tuple[Ask, int, Agreement]] = {}

    def add(self, name: str, folder: Path, manifest: Manifest) -> Agreement:
        """What it agrees; its time is taken with the others'."""
        self._progress(f"measuring {name}", 0, 1)
        ask = self._asker(folder, manifest)
        found = agreement(manifest.task, self._truth, np.concatenate([ask(sample) for sample in self._samples]))
        self._forms[name] = ask, manifest.files[manifest.graph].size, found
        return found

    def measured(self) -> list[Measured]:
        """All of them, in their order."""
        self._progress("timing", 0, 1)
        times = timed([ask for ask, _, _ in self._forms.values()], self._samples)
        return [
            Measured(name, size, took, found)
            for (name, (_, size, found)), took in zip(self._forms.items(), times, strict=True)
        ]

    def _asker(self, folder: Path, manifest: Manifest) -> Ask:
        def ask(sample: Sample) -> Floats:
            options = {"truncate": True} | ({"query": sample.query} if sample.query is not None else {})
            (result,) = run(self._room, folder, KINDS[manifest.task], [sample.text], options)
            if manifest.task == "embed":
                return vector_of(result)[None]
            if manifest.task == "rerank":
                return np.array([result["score"]], np.float32)
            return np.array([[result["probabilities"][label] for label in manifest.labels]], np.float32)

        return ask


def timed(asked: Sequence[Ask], samples: Sequence[Sample]) -> list[float]:
    """The median milliseconds of one sample, of each. In turns, sample by sample: others use the box as well, and what
    they take, they take from all."""
    for ask in asked:
        ask(samples[0])
    best = np.full((len(asked), min(len(samples), TIMED)), np.inf)
    for at, sample in enumerate(samples[:TIMED]):
        for _ in range(TRIALS):
            for row, ask in enumerate(asked):
                started = time.perf_counter()
                ask(sample)
                best[row, at] = min(best[row, at], time.perf_counter() - started)
    return [float(each) * 1e3 for each in np.median(best, axis=1)]


def best(forms: Sequence[Measured], plain: Measured, wanted: float) -> Measured:
    """Which is to be kept: of those that agree as wanted the fastest, and of equally fast ones that which agrees most.

    Never one that agrees less than the plain one or is slower, if that one agrees as wanted itself; if none does, the
    one that agrees most.

    Args:
        plain: one of them, made without calibration.
    """
    if plain.judged >= wanted:
        good = [
            form for form in forms if form.judged >= plain.judged and form.milliseconds <= NOISE * plain.milliseconds
        ]
    else:
        good = [form for form in forms if form.judged >= wanted]
    if not good:
        return max(forms, key=_nearness)
    fastest = min(form.milliseconds for form in good)
    return max((form for form in good if form.milliseconds <= NOISE * fastest), key=_nearness)


def _nearness(form: Measured) -> tuple[float, float, float]:
    """What differs in the fourth digit is the same: the faster one then."""
    mean = form.agreement.mean if form.agreement else 1.0
    return round(form.judged, 3), round(mean, 3), -form.milliseconds
