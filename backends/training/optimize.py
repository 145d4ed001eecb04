"""From a sentence-transformers or Hugging Face folder to a small ONNX model in the store, measured against the original
on an operator's own samples."""

from __future__ import annotations

import shutil
import time
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
from backends.training.agreement import Agreement, agreement
from backends.training.classifier import GRAPH, describe
from backends.training.common import EXPORTED, Progress, TrainingError, check_place

Precision = Literal["int8", "fp32"]
Floats = NDArray[np.float32]

FEWEST_SAMPLES = 5
MOST_SAMPLES = 1000
TIMED = 50
"""Samples that are timed, one at a time."""
TOKENIZER = "tokenizer.json"


@dataclass(frozen=True, slots=True)
class Sample:
    """A text; for a reranker with its query."""

    text: str
    query: str | None = None


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


@dataclass(frozen=True, slots=True)
class Optimized:
    """What was made of a folder, staged and not yet installed.

    Attributes:
        forms: the original, and what was made of it; the last is to be installed.
        folders: of the forms that are ONNX.
    """

    manifest: Manifest
    forms: tuple[Measured, ...]
    staged: Path
    samples: int

    @property
    def agreement(self) -> Agreement:
        """Of what is to be installed."""
        found = self.forms[-1].agreement
        assert found is not None
        return found

    def report(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"name": self.manifest.name, "samples": self.samples, "forms": [asdict(form) for form in self.forms]}


def read_samples(path: Path, task: str) -> list[Sample]:
    """A sample a line; of a reranker its query, a tab and a document.

    Raises:
        TrainingError: it cannot be read, or holds too few.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except OSError as error:
        raise TrainingError(f"{path} cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError:
        raise TrainingError(f"{path} is not UTF-8.") from None
    if task == "rerank":
        if wrong := [line for line in lines if "\t" not in line]:
            raise TrainingError(
                f"{path}: a reranker's sample is a query, a tab and a document; not so: {wrong[0][:60]!r}."
            )
        samples = [Sample(text, query) for query, _, text in (line.partition("\t") for line in lines)]
    else:
        samples = [Sample(line) for line in lines]
    if len(samples) < FEWEST_SAMPLES:
        raise TrainingError(
            f"{path} has {len(samples)} samples; at least {FEWEST_SAMPLES} are needed, a hundred tell more."
        )
    return samples[:MOST_SAMPLES]


@contextmanager
def optimized(
    folder: ModelFolder, name: str, samples: Sequence[Sample], precision: Precision, store: Store, progress: Progress
) -> Iterator[Optimized]:
    """The model, staged beside the store as long as the block lasts; `install` keeps it.

    Raises:
        TrainingError: a package is missing, or the folder says too little.
        BadModelFile: what was exported cannot be served.
    """
    staged = store.staging(name)
    store.prepare(3 * _weights(folder))
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir()
    try:
        yield _make(folder, name, samples, precision, staged, progress)
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


def _make(
    folder: ModelFolder, name: str, samples: Sequence[Sample], precision: Precision, staged: Path, progress: Progress
) -> Optimized:
    from backends.training.original import load_original
    from backends.training.quantize import quantize

    if folder.task == "embed" and folder.pooling is None:
        raise TrainingError(f"{folder.path} does not say how its tokens become one vector. Say it with --pooling.")
    progress("loading", 0, 1)
    original = load_original(folder)
    progress("measuring the original", 0, 1)
    truth, took = _timed(lambda sample: _calibrated(folder, original.run([sample.text], sample.query)), samples)
    forms = [Measured("original", _weights(folder), took)]
    progress("exporting", 0, 1)
    full = staged / "fp32"
    full.mkdir()
    original.export(full / GRAPH)
    _save_tokenizer(folder, full)
    last, manifest = full, _describe(folder, name, full)
    forms.append(_measure("ONNX fp32", full, manifest, truth, samples, progress))
    if precision == "int8":
        progress("quantising", 0, 1)
        last = staged / "int8"
        last.mkdir()
        quantize(full / GRAPH, last / GRAPH)
        shutil.copy(full / TOKENIZER, last / TOKENIZER)
        manifest = _describe(folder, name, last)
        forms.append(_measure("ONNX int8", last, manifest, truth, samples, progress))
    final = _finished(manifest, precision, forms, len(samples))
    for file in manifest.files:
        (last / file).replace(staged / file)
    return Optimized(final, tuple(forms), staged, len(samples))


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


def _finished(manifest: Manifest, precision: Precision, forms: Sequence[Measured], samples: int) -> Manifest:
    found, on = forms[-1].agreement, f"{samples} samples of the operator's"
    assert found is not None
    metrics = (
        Metric(name=f"mean {found.measure}", value=round(found.mean, 4), on=on),
        Metric(name=f"worst {found.measure}", value=round(found.worst, 4), on=on),
    )
    version = f"{manifest.files[GRAPH].sha256[:12]}-{precision}"
    description = f"{manifest.source}, exported to ONNX ({precision})."
    return manifest.model_copy(update={"metrics": metrics, "version": version, "description": description})


# -- measuring -----------------------------------------------------------------------------------------------------


def _measure(
    name: str, folder: Path, manifest: Manifest, truth: Floats, samples: Sequence[Sample], progress: Progress
) -> Measured:
    """By the code that will serve it."""
    from backends.training.local import open_room, run, vector_of

    room = open_room(threads=1)
    kind = {"embed": "embedding", "rerank": "rerank"}.get(manifest.task, "classification")

    def ask(sample: Sample) -> Floats:
        options = {"truncate": True} | ({"query": sample.query} if sample.query is not None else {})
        (result,) = run(room, folder, kind, [sample.text], options)  # type: ignore[arg-type]
        if manifest.task == "embed":
            return vector_of(result)[None]
        if manifest.task == "rerank":
            return np.array([result["score"]], np.float32)
        return np.array([[result["probabilities"][label] for label in manifest.labels]], np.float32)

    ask(samples[0])  # loads it
    progress(f"measuring {name}", 0, 1)
    answers, took = _timed(ask, samples)
    return Measured(name, (folder / GRAPH).stat().st_size, took, agreement(manifest.task, truth, answers))


def _timed(ask: Callable[[Sample], Floats], samples: Sequence[Sample]) -> tuple[Floats, float]:
    """The answers to all samples, and the median milliseconds of one."""
    ask(samples[0])
    answers = [ask(sample) for sample in samples]
    times = []
    for sample in samples[:TIMED]:
        # The best of three: others use the box as well.
        trials = []
        for _ in range(3):
            started = time.perf_counter()
            ask(sample)
            trials.append(time.perf_counter() - started)
        times.append(min(trials))
    return np.concatenate(answers), float(np.median(times)) * 1e3


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
