"""A model that is loaded: what it takes, and what a run of it gives."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from backends.errors import BadModelFile, EngineFailed
from backends.onnx import answers, graph, tokens
from backends.onnx.manifest import Manifest
from backends.onnx.tokens import Tokenizer, Tokens

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]

WARM_TOKENS = 16
FIRST_RATE = 5000.0  # tokens/s, until it has been measured
IMAGE_LENGTH = 256  # what a picture counts as, in tokens


class Stop:
    """Ends a run early, from another thread."""

    def __init__(self) -> None:
        import onnxruntime  # type: ignore[import-untyped]

        self.options = onnxruntime.RunOptions()
        self.said = False

    def say(self) -> None:
        """The run fails before its next operator."""
        self.said = True
        self.options.terminate = True


@dataclass(slots=True)
class Figures:
    """Of one model since it was loaded. `tokens` without padding; `seconds` of all its runs."""

    memory: int = 0
    load_s: float = 0.0
    runs: int = 0
    rows: int = 0
    tokens: int = 0
    seconds: float = 0.0


@dataclass(slots=True, eq=False)
class Model:
    """A model that is loaded."""

    manifest: Manifest
    session: Any
    inputs: Mapping[str, str]
    output: str
    tokenizer: Tokenizer | None = None
    base: Model | None = None
    figures: Figures = field(default_factory=Figures)
    rate: float = FIRST_RATE

    @property
    def reads(self) -> Model:
        """Who tokenises for it: its base if it has one."""
        return self.base or self

    def length(self, given: Any) -> int:
        """What an input costs, in tokens."""
        if isinstance(given, Tokens):
            settings = self.reads.manifest.tokenizer
            return settings.max_tokens if settings and settings.fixed else max(1, len(given))
        return IMAGE_LENGTH if given.ndim == 3 else 1

    def compute(self, given: Sequence[Any], stop: Stop | None = None) -> list[Any]:
        """One result for each input: a vector, a score, probabilities by label, or those of each token.

        An `EngineFailed` in its place where what came out is no number. Raises `EngineFailed` if the run failed.
        """
        import numpy as np

        unique: dict[Any, int] = {}
        order = [unique.setdefault(_identity(one), len(unique)) for one in given]
        first = {place: one for one, place in zip(reversed(given), reversed(order), strict=True)}
        found = self._compute([first[place] for place in range(len(unique))], stop)
        bad = EngineFailed(f"The model {self.manifest.name} gave a value that is no number.", code="not_a_number")
        checked = [row if np.isfinite(row).all() else bad for row in found]
        return [checked[place] for place in order]

    def outcomes(self, given: Sequence[Any], stop: Stop | None = None) -> list[Any]:
        """As `compute`, but raises nothing: an input at which a run fails fails alone."""
        try:
            return self.compute(given, stop)
        except EngineFailed as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - one bad input must not end what computes for all
            failure = EngineFailed(f"The model {self.manifest.name} failed ({type(error).__name__}: {error}).")
        if len(given) == 1 or (stop and stop.said):
            return [failure] * len(given)
        return [self.outcomes([one], stop)[0] for one in given]

    def _compute(self, given: Sequence[Any], stop: Stop | None) -> list[Floats]:
        import numpy as np

        if isinstance(given[0], Tokens):
            if self.base is not None:
                vectors = np.stack(self.base._compute(given, stop))
                return self._finish(self._run({self._only: vectors}, stop))
            return self._read(given, stop)
        stacked = np.stack(given)
        return self._finish(self._run({self._only: stacked}, stop))

    @property
    def _only(self) -> str:
        return next(iter(self.inputs))

    def _read(self, given: Sequence[Tokens], stop: Stop | None) -> list[Floats]:
        feed, mask = self._feed(given)
        out = self._run(feed, stop)
        if self.manifest.task == "embed":
            vectors = answers.pool(out, mask, self.manifest.pooling)
            return list(answers.unit(vectors) if self.manifest.normalize else vectors)
        if self.manifest.task == "find":
            rows = answers.probabilities(out, self.manifest)
            return [row[filled.astype(bool)] for row, filled in zip(rows, mask, strict=True)]
        return self._finish(out)

    def _finish(self, out: Floats) -> list[Floats]:
        if self.manifest.task == "embed":
            return list(answers.unit(out) if self.manifest.normalize else out)
        return list(answers.probabilities(out.reshape(len(out), -1), self.manifest))

    def _feed(self, given: Sequence[Tokens]) -> tuple[dict[str, Any], npt.NDArray[np.int64]]:
        """Padded to the longest, or to the length that the graph wants."""
        import numpy as np

        settings = self.manifest.tokenizer
        assert settings is not None and self.tokenizer is not None
        width = settings.max_tokens if settings.fixed else max(1, *map(len, given))
        shape = (len(given), width)
        ids = np.full(shape, self.tokenizer.pad, np.int64)
        mask, types = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for row, one in enumerate(given):
            at = slice(width - len(one), width) if settings.pad == "left" else slice(0, len(one))
            ids[row, at] = one.ids
            mask[row, at] = 1
            if one.types:
                types[row, at] = one.types
        every = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        if "position_ids" in self.inputs:
            every["position_ids"] = np.maximum(mask.cumsum(axis=1) - 1, 0)
        return {name: every[name].astype(kind) for name, kind in self.inputs.items()}, mask

    def _run(self, feed: dict[str, Any], stop: Stop | None) -> Floats:
        import numpy as np

        rows = len(next(iter(feed.values())))
        try:
            (out,) = self.session.run([self.output], feed, stop.options if stop else None)
        except Exception as error:  # noqa: BLE001 - onnxruntime's exceptions have no base of their own
            raise EngineFailed(f"The model {self.manifest.name} failed: {str(error)[:300]}") from None
        if not isinstance(out, np.ndarray) or out.ndim == 0 or len(out) != rows:
            raise EngineFailed(f"The model {self.manifest.name} gave not one result for each of {rows} inputs.")
        result: Floats = out.astype(np.float32, copy=False)
        return result

    def warm_up(self) -> None:
        """The first runs, which are slow; they show whether the graph gives what the manifest says, and how fast.

        Raises `BadModelFile`.
        """
        import numpy as np

        width = WARM_TOKENS
        if self.manifest.input == "image":
            assert self.manifest.image is not None
            sample: Any = np.zeros((3, self.manifest.image.size, self.manifest.image.size), np.float32)
        elif self.manifest.input == "text":
            assert self.tokenizer is not None
            made = self.tokenizer.wrap([1] * width, "")
            sample = tokens.fit(made, self.manifest.tokenizer) if self.manifest.tokenizer else made
        else:
            assert self.base is None or self.base.manifest.task == "embed"
            wide = len(self.manifest.features) or (self.base.manifest.dimensions if self.base else 0)
            sample = np.zeros(wide, np.float32)
        try:
            self.compute([sample])
            started = time.perf_counter()
            (result,) = self.compute([sample])
        except EngineFailed as error:
            raise BadModelFile(f"A first try failed. {error.message}") from None
        self.rate = max(1.0, self.length(sample) / max(1e-5, time.perf_counter() - started))
        if not isinstance(result, EngineFailed):
            self._check_width(result)

    def _check_width(self, result: Floats) -> None:
        wide, wanted = result.shape[-1], graph.widths(self.manifest)
        if wanted and wide not in wanted:
            raise BadModelFile(
                f"The graph gives {wide} numbers for each input; by its manifest it should give {wanted[0]}."
            )


def _identity(one: Any) -> Any:
    """Equal inputs are computed once."""
    return (one.ids, one.types) if isinstance(one, Tokens) else id(one)
