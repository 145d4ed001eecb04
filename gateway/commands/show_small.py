"""What `outstation show` tells of a small model: its manifest, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.commands.common import echo_json, echo_sections, size_text, time_text

if TYPE_CHECKING:
    from backends.models.catalogue import Entry
    from backends.models.store import LocalModel
    from backends.onnx.manifest import Manifest, Metric

Facts = list[tuple[str, str]]


def show_small(model: LocalModel | None, manifest: Manifest, entry: Entry | None, *, as_json: bool) -> None:
    """Print it. `model`: as it is in the store; None: it is not there."""
    from dataclasses import asdict

    if as_json:
        local, known = (asdict(model) if model else None), (asdict(entry) if entry else None)
        echo_json({"local": local, "manifest": manifest, "catalogue": known})
        return
    sections: list[tuple[str, Facts]] = [(manifest.name, [*_of_store(model), *_of_manifest(manifest)])]
    sections.append(
        ("files", [(name, f"{size_text(f.size)}, sha256 {f.sha256}") for name, f in manifest.files.items()])
    )
    if manifest.metrics:
        sections.append(("metrics", [(metric.name, metric_text(metric)) for metric in manifest.metrics]))
    if entry:
        sources = {f"{file.name} from {source}": "" for file in entry.files for source in file.sources}
        sections.append(("catalogue", [("source", text) for text in sources]))
    echo_sections(sections)


def metric_text(metric: Metric) -> str:
    """Its value, and what it was measured on."""
    return f"{metric.value:.4g}{f' on {metric.on}' if metric.on else ''}"


def _of_store(model: LocalModel | None) -> Facts:
    if model is None:
        return []
    checked = "its hashes are the catalogue's" if model.verified else "its hashes are its own manifest's"
    return [
        ("path", str(model.path)),
        ("source", f"{model.source} ({checked})"),
        ("pulled", time_text(model.created)),
    ]


def _of_manifest(manifest: Manifest) -> Facts:
    """What it is and how it is run, as far as it is said."""
    tokenizer, least = manifest.tokenizer, manifest.thresholds
    facts = {
        "description": manifest.description,
        "task": manifest.task,
        "version": manifest.version,
        "licence": manifest.licence or "not stated",
        "made by": manifest.source or "not stated",
        "sees": f"the embedding of {manifest.base}" if manifest.base else manifest.input,
        "tokens": f"{tokenizer.max_tokens} at most" if tokenizer else "",
        "vectors": f"{manifest.dimensions} numbers, {manifest.pooling} pooling" if manifest.dimensions else "",
        "before queries": repr(manifest.query_prefix) if manifest.query_prefix else "",
        "before documents": repr(manifest.document_prefix) if manifest.document_prefix else "",
        "features": ", ".join(manifest.features),
        "labels": ", ".join(manifest.labels),
        "thresholds": ", ".join(f"{label} {value:g}" for label, value in least.items()),
        "confidence": f"below {manifest.confidence:g} it is not sure" if manifest.confidence else "",
        "moderation": ", ".join(f"{category} by {label}" for category, label in manifest.categories.items()),
    }
    return [(key, value) for key, value in facts.items() if value]
