"""From a sentence-transformers or Hugging Face folder to a small ONNX model in the store, measured against the original
on an operator's own samples."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from backends.models.store import LocalModel, Origin, Store
from backends.onnx.manifest import MANIFEST, Manifest, Metric, Tokenizer
from backends.sentence_folder import ModelFolder, inner_folder
from backends.training.agreement import Agreement
from backends.training.classifier import GRAPH, REPORT, describe
from backends.training.common import EXPORTED, Progress, TrainingError, check_place
from backends.training.local import feeds_of
from backends.training.measuring import Measured, Measuring, best, timed
from backends.training.samples import Sample
from backends.training.variants import PLAIN, Kitchen, Recipe, try_all

Precision = Literal["int8", "fp32"]
Floats = NDArray[np.float32]

TOKENIZER = "tokenizer.json"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked for.

    Attributes:
        calibration: texts by which int8 is made, none of them a sample; without any it is made as it always can be.
        wanted: agreement with the original.
    """

    name: str
    samples: Sequence[Sample]
    precision: Precision = "int8"
    calibration: Sequence[Sample] = ()
    wanted: float = 0.98


@dataclass(frozen=True, slots=True)
class Optimized:
    """What was made of a folder, staged and not yet installed.

    Attributes:
        forms: the original, and what was made of it.
        kept: of these the one that is to be installed; `plain`: the one that needs no calibration.
    """

    manifest: Manifest
    forms: tuple[Measured, ...]
    kept: Measured
    plain: Measured
    staged: Path
    plan: Plan

    @property
    def agreement(self) -> Agreement:
        """Of what is to be installed."""
        found = self.kept.agreement
        assert found is not None
        return found

    def report(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "name": self.manifest.name,
            "samples": len(self.plan.samples),
            "calibration": len(self.plan.calibration),
            "kept": self.kept.name,
            "forms": [asdict(form) for form in self.forms],
        }


@contextmanager
def optimized(folder: ModelFolder, plan: Plan, store: Store, progress: Progress) -> Iterator[Optimized]:
    """The model, staged beside the store as long as the block lasts; `install` keeps it.

    Raises:
        TrainingError: a package is missing, or the folder says too little.
        BadModelFile: what was exported cannot be served.
    """
    staged = store.staging(plan.name)
    store.prepare((7 if plan.calibration else 3) * _weights(folder))
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir()
    try:
        yield _Making(folder, plan, staged, progress).made()
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def install(made: Optimized, store: Store, *, force: bool = False) -> LocalModel:
    """Keeps it, in place of a model of that name that was made here; with `force`, of any.

    Raises:
        TrainingError: another model has that name.
    """
    check_place(made.manifest.name, store, force=force)
    origin = Origin(f"{EXPORTED}{made.manifest.source}", made.manifest.files[GRAPH].sha256)
    return store.add_folder(made.staged, made.manifest, origin)


class _Making:
    """Of one model, in its staging folder: one folder a form."""

    def __init__(self, folder: ModelFolder, plan: Plan, staged: Path, progress: Progress) -> None:
        if folder.task == "embed" and folder.pooling is None:
            raise TrainingError(f"{folder.path} does not say how its tokens become one vector. Say it with --pooling.")
        self._folder, self._plan, self._staged, self._progress = folder, plan, staged, progress
        self._made: dict[str, tuple[Path, Manifest]] = {}

    def made(self) -> Optimized:
        plan = self._plan
        first, measuring = self._export()
        if plan.precision == "int8":
            self._quantize(measuring)
        forms = measuring.measured()
        full, *small = forms
        plain = small[0] if small else full
        kept = best(small, plain, plan.wanted) if small else full
        path, manifest = self._made[kept.name]
        for file in manifest.files:
            (path / file).replace(self._staged / file)
        made = Optimized(manifest, (first, *forms), kept, plain, self._staged, plan)
        return replace(made, manifest=_finished(made))

    def _export(self) -> tuple[Measured, Measuring]:
        """The original measured, and its graph in float32."""
        from backends.training.original import load_original

        folder, samples = self._folder, self._plan.samples
        self._progress("loading", 0, 1)
        original = load_original(folder)

        def ask(sample: Sample) -> Floats:
            return _calibrated(folder, original.run([sample.text], sample.query))

        self._progress("measuring the original", 0, 1)
        truth = np.concatenate([ask(sample) for sample in samples])
        (took,) = timed([ask], samples)
        self._progress("exporting", 0, 1)
        measuring = Measuring(truth, samples, self._progress)
        self._form("ONNX fp32", measuring, original.export)
        return Measured("original", _weights(folder), took), measuring

    def _quantize(self, measuring: Measuring) -> None:
        plan, (full, manifest) = self._plan, self._made["ONNX fp32"]
        feeds = feeds_of(full, manifest, plan.calibration) if plan.calibration else []
        kitchen = Kitchen(full / GRAPH, self._staged, feeds)

        def make(recipe: Recipe) -> float | None:
            self._progress(f"making {recipe.name}", 0, 1)
            found = self._form(recipe.name, measuring, lambda target: kitchen.make(recipe, target))
            return found.judged if found else None

        make(PLAIN)
        if feeds:
            try_all(make)

    def _form(self, name: str, measuring: Measuring, write: Callable[[Path], bool | None]) -> Agreement | None:
        """One form, in a folder of its own as in the store. None: `write` cannot make it."""
        target = self._staged / f"form-{len(self._made)}"
        target.mkdir(exist_ok=True)
        if write(target / GRAPH) is False:
            return None
        _save_tokenizer(self._folder, target)
        manifest = _describe(self._folder, self._plan.name, target)
        self._made[name] = target, manifest
        return measuring.add(name, target, manifest)


def _describe(folder: ModelFolder, name: str, made: Path) -> Manifest:
    """The manifest of what lies in `made`, which is written there too, so that it can be run."""
    manifest = Manifest(
        name=name,
        task=folder.task,
        files={file: describe(made / file) for file in (GRAPH, TOKENIZER)},
        graph=GRAPH,
        tokenizer=Tokenizer(file=TOKENIZER, max_tokens=folder.max_tokens),
        pooling=folder.pooling or "none",
        normalize=folder.normalize,
        dimensions=folder.dimensions,
        query_prefix=folder.query_prefix,
        document_prefix=folder.document_prefix,
        output="last_hidden_state" if folder.task == "embed" else "logits",
        labels=folder.labels,
        activation=_activation(folder),
        exclusive=folder.exclusive,
        licence=folder.licence,
        source=folder.path.name or str(folder.path),
    )
    (made / MANIFEST).write_text(manifest.model_dump_json(exclude_defaults=True))
    return manifest


def _activation(folder: ModelFolder) -> Literal["softmax", "sigmoid", "none"]:
    if folder.task == "embed":
        return "none"
    return "softmax" if folder.task == "classify" and folder.exclusive else "sigmoid"


def _finished(made: Optimized) -> Manifest:
    """With what was measured. The whole report lies beside it."""
    report = made.staged / REPORT
    report.write_text(json.dumps(made.report(), indent=2) + "\n", encoding="utf-8")
    manifest, form, graph = made.manifest, made.kept.name, made.manifest.files[GRAPH]
    metrics = _metrics(made, made.kept)
    if made.kept is not made.plain:
        metrics += _metrics(made, made.plain, "dynamic ")
    return manifest.model_copy(
        update={
            "files": {**manifest.files, REPORT: describe(report)},
            "metrics": metrics,
            "version": f"{graph.sha256[:12]}-{made.plan.precision}",
            "description": f"{manifest.source}, exported to {form}.",
        }
    )


def _metrics(made: Optimized, form: Measured, which: str = "") -> tuple[Metric, ...]:
    found, on = form.agreement, f"{len(made.plan.samples)} samples of the operator's"
    assert found is not None
    measure = "" if which else f" {found.measure}"
    return (
        Metric(name=f"{which}mean{measure}", value=round(found.mean, 4), on=on),
        Metric(name=f"{which}worst{measure}", value=round(found.worst, 4), on=on),
        Metric(name=f"{which}ms", value=round(form.milliseconds, 2), on=f"{on}, alone on one thread"),
    )


def _calibrated(folder: ModelFolder, output: Floats) -> Floats:
    """Of logits what the manifest's activation makes of them."""
    if folder.task == "embed":
        return output
    if _activation(folder) == "softmax":
        powers: Floats = np.exp(output - output.max(axis=1, keepdims=True))
        shares: Floats = powers / powers.sum(axis=1, keepdims=True)
        return shares
    chances = (1 / (1 + np.exp(-output.astype(np.float64)))).astype(np.float32)
    return chances[:, 0] if folder.task == "rerank" else chances


def _save_tokenizer(folder: ModelFolder, target: Path) -> None:
    from tokenizers import Tokenizer as Inner

    inner = Inner.from_file(str(inner_folder(folder) / TOKENIZER))
    inner.no_truncation()
    inner.no_padding()
    inner.save(str(target / TOKENIZER))


def _weights(folder: ModelFolder) -> int:
    return sum(file.stat().st_size for file in inner_folder(folder).glob("*.safetensors"))


def with_pooling(folder: ModelFolder, pooling: Literal["cls", "mean"] | None) -> ModelFolder:
    """The operator's word, where the folder says nothing.

    Raises:
        TrainingError: they disagree.
    """
    if pooling is None or folder.pooling == pooling:
        return folder
    if folder.pooling is not None:
        raise TrainingError(f"{folder.path} says that its pooling is {folder.pooling}, not {pooling}.")
    return replace(folder, pooling=pooling, normalize=True)
