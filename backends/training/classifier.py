"""From examples and their embeddings to a classifier in the store: the head's graph, its report and its manifest."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from backends.models.store import LocalModel, Origin, Store
from backends.onnx.manifest import File, Manifest, Metric, read_manifest
from backends.training.common import TRAINED, Progress, TrainingError, check_place
from backends.training.examples import Examples
from backends.training.graph import OUTPUT, head_graph
from backends.training.head import FitSettings, Fitted, fit

REPORT = "report.json"
GRAPH = "model.onnx"


@dataclass(frozen=True, slots=True)
class Trained:
    """A classifier that was trained, with all that its makers saw of it.

    Attributes:
        base: whose embeddings it judges.
    """

    name: str
    base: Manifest
    examples: Examples
    settings: FitSettings
    fitted: Fitted

    @property
    def version(self) -> str:
        """The same for the same data, settings and base."""
        rows = sorted(zip(self.examples.texts, self.examples.labels, strict=True))
        base = self.base.files[self.base.graph].sha256
        known = json.dumps([rows, asdict(self.settings), self.base.name, base], ensure_ascii=False)
        return hashlib.sha256(known.encode()).hexdigest()[:12]

    def report(self) -> dict[str, Any]:
        """All figures, as JSON has them."""
        fitted = self.fitted
        return {
            "name": self.name,
            "version": self.version,
            "base": self.base.name,
            "rows": self.examples.rows,
            "texts": len(self.examples.texts),
            "duplicates": self.examples.duplicates,
            "contradictions": self.examples.contradictions,
            "train_rows": fitted.train_rows,
            "strength": fitted.strength,
            "temperature": round(fitted.head.temperature, 4),
            "confidence": fitted.confidence,
            "wanted_accuracy": self.settings.accuracy,
            "wanted_accuracy_reached": fitted.reached,
            "held_out": asdict(fitted.held_out),
            "cross_validated": asdict(fitted.cross_validated),
            "held_out_ece_uncalibrated": fitted.ece_before,
            "held_out_from_that_confidence": asdict(fitted.sure),
        }


def train(name: str, base: str, examples: Examples, settings: FitSettings, store: Store, progress: Progress) -> Trained:
    """Learns from the examples, over the embeddings of a model in the store.

    Raises:
        NotInStore: the base is not on this box.
        TrainingError: it makes no embeddings, is to be replaced by its own head, or scikit-learn is not installed.
    """
    from backends.training.local import embed, open_room

    if name == base:
        raise TrainingError(f"{name} is the base itself, which the classifier needs: choose another --name.")
    folder = store.get(base).path
    if not folder.is_dir() or (manifest := read_manifest(folder)).task != "embed":
        raise TrainingError(f"{base} makes no embeddings. A classifier stands on a model such as bge-small-en-v1.5.")
    vectors = embed(open_room(), folder, examples.texts, progress)
    return Trained(
        name, manifest, examples, settings, fit(examples.texts, vectors, examples.labels, settings, progress)
    )


def install(trained: Trained, store: Store, *, force: bool = False) -> LocalModel:
    """Puts it into the store, in place of a model of that name that was made here; with `force`, of any but its base.

    Raises:
        TrainingError: another model has that name.
        StoreError: the disk's fault, or a name that cannot be one.
    """
    check_place(trained.name, store, force=force)
    graph = head_graph(trained.fitted.head)
    report = json.dumps(trained.report(), indent=2, ensure_ascii=False).encode() + b"\n"
    files = {GRAPH: graph, REPORT: report}
    staged = store.staging(trained.name)
    store.prepare(sum(len(data) for data in files.values()))
    staged.mkdir(exist_ok=True)
    for name, data in files.items():
        (staged / name).write_bytes(data)
    described = {name: describe(staged / name) for name in files}
    origin = Origin(TRAINED, described[GRAPH].sha256)
    return store.add_folder(staged, _manifest(trained, described), origin)


def describe(path: Path) -> File:
    """The file's hash and size, as a manifest has them."""
    with path.open("rb") as file:
        return File(sha256=hashlib.file_digest(file, "sha256").hexdigest(), size=path.stat().st_size)


def _manifest(trained: Trained, files: dict[str, File]) -> Manifest:
    head, base = trained.fitted.head, trained.base
    return Manifest(
        name=trained.name,
        version=trained.version,
        description=f"{len(head.labels)} labels, learned from {trained.fitted.train_rows} texts over {base.name}.",
        task="classify",
        files=files,
        graph=GRAPH,
        input="embedding",
        base=base.name,
        dimensions=head.weights.shape[1],
        output=OUTPUT,
        labels=head.labels,
        activation="softmax",
        exclusive=True,
        temperature=head.temperature,
        confidence=trained.fitted.confidence,
        source=f"trained on this box over {base.name} {base.version}",
        metrics=_metrics(trained.fitted),
    )


def _metrics(fitted: Fitted) -> tuple[Metric, ...]:
    seen, on = fitted.held_out, f"{fitted.held_out.rows} texts that it never saw"
    whole = {
        "accuracy": seen.accuracy,
        "macro_f1": seen.macro_f1,
        "ece": seen.ece,
        "sure": fitted.sure.coverage,
    }
    return tuple(Metric(name=name, value=round(value, 4), on=on) for name, value in whole.items())
