"""The ways to int8 that are tried where there are texts to calibrate by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from backends.training.calibration import errors, largest_inputs, most_sensitive
from backends.training.quantize import Feed, Method, dynamic, static
from backends.training.smoothing import smooth


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way.

    Attributes:
        method: how scales of activations are chosen beforehand; None: they are found as they come.
        smoothed: large channels of activations are divided down first.
        floats: the part of the products that stays in float, the most sensitive ones.
    """

    method: Method | None = None
    smoothed: bool = False
    floats: float = 0.0

    @property
    def name(self) -> str:
        """As the report has it."""
        words = [f"static by {self.method}" if self.method else "dynamic"]
        words += ["smoothed"] if self.smoothed else []
        words += [f"{self.floats:.0%} in float"] if self.floats else []
        return f"ONNX int8, {', '.join(words)}"


PLAIN = Recipe()
"""Needs no calibration."""
SOME, MORE = 0.1, 0.25
DYNAMIC = (Recipe(smoothed=True), Recipe(smoothed=True, floats=SOME), Recipe(smoothed=True, floats=MORE))
STATIC: tuple[Recipe, ...] = (Recipe("minmax"), Recipe("percentile"), Recipe("entropy"))


class Kitchen:
    """Makes forms of one graph.

    Args:
        full: the graph in float32.
        work: a folder for what lies between.
        feeds: the calibration texts, as the graph takes them.
    """

    def __init__(self, full: Path, work: Path, feeds: Sequence[Feed]) -> None:
        self._full, self._work, self._feeds = full, work, feeds

    def make(self, recipe: Recipe, target: Path) -> bool:
        """Writes the graph. False: this one has nothing that could be smoothed."""
        graph = self._smoothed if recipe.smoothed else self._full
        if graph is None:
            return False
        floats = most_sensitive(self._errors, recipe.floats) if recipe.floats else []
        if recipe.method is None:
            dynamic(graph, target, floats=floats)
        else:
            static(graph, target, self._feeds, recipe.method, floats=floats)
        return True

    @cached_property
    def _smoothed(self) -> Path | None:
        target = self._work / "smoothed.onnx"
        return target if smooth(self._full, target, largest_inputs(self._full, self._feeds)) else None

    @cached_property
    def _errors(self) -> dict[str, float]:
        return errors(self._smoothed or self._full, self._feeds)


def try_all(make: Callable[[Recipe], float | None]) -> None:
    """Each way; of the static ones the nearest once more, smoothed.

    Args:
        make: makes one and says how near it is; None: it cannot be made.
    """
    for recipe in DYNAMIC:
        make(recipe)
    nearness = {recipe: make(recipe) or 0.0 for recipe in STATIC}
    nearest = replace(max(nearness, key=nearness.__getitem__), smoothed=True)
    for recipe in (nearest, replace(nearest, floats=SOME)):
        make(recipe)
