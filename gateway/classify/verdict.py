"""What is said of one input, by whom, and how sure they are. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from backends.onnx.manifest import Manifest
from policies.base import Route

Source = Literal["edge", "local_llm", "remote"]
FOUND = 0.5
"""The probability from which a label that excludes no other counts as found, if its model does not say."""


@dataclass(frozen=True, slots=True)
class Opinion:
    """What one model says of one input.

    Attributes:
        label: the likeliest; None: none was found.
        confidence: probability that this is right; None: the model does not tell.
        labels: with their probabilities, the likeliest first.
        spans: where in the text what stands.
    """

    route: Route
    label: str | None
    confidence: float | None
    labels: Mapping[str, float | None]
    spans: tuple[tuple[int, int, str, float], ...] = ()
    source: Source = "edge"


def opinion_of(result: Mapping[str, Any], manifest: Manifest, route: Route) -> Opinion:
    """What a model on the box says. `result`: see `backends.types.Result`."""
    if manifest.task == "find":
        return _found(result.get("spans") or (), route)
    labels = dict(sorted(result["probabilities"].items(), key=lambda pair: -pair[1]))
    label, best = next(iter(labels.items()))
    # Of labels that exclude each other one is right. Of others none may be: to be sure of that is to be sure as well.
    confidence = best if manifest.exclusive else max(best, 1 - best)
    least = manifest.thresholds.get(label, 0.0 if manifest.exclusive else FOUND)
    return Opinion(route, label if best >= least else None, confidence, labels)


def _found(spans: Sequence[Any], route: Route) -> Opinion:
    places = tuple((start, end, label, probability) for start, end, label, probability in spans)
    labels: dict[str, float | None] = {}
    for _, _, label, probability in sorted(places, key=lambda place: -place[3]):
        labels.setdefault(label, probability)
    return Opinion(route, next(iter(labels), None), None, labels, places)


@dataclass(slots=True)
class Verdict:
    """What is known of one input so far.

    Attributes:
        index: of the input.
        edge: what the model said that was asked.
        final: what holds.
        unsure: somebody else may be asked.
        why: why that holds, in a few words each.
        seconds: until it held.
    """

    index: int
    edge: Opinion
    final: Opinion
    unsure: bool = False
    why: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def settle(self, opinion: Opinion) -> None:
        """That holds."""
        self.final, self.unsure = opinion, False


def doubt(verdict: Verdict, below: float | None) -> None:
    """Marks a verdict that is less sure than it should be. `below` None: nobody said how sure that is."""
    confidence = verdict.edge.confidence
    if not below or confidence is None:
        verdict.why.append("no threshold")
    elif confidence >= below:
        verdict.why.append(f"{confidence:.3g} is at least {below:.3g}")
    else:
        verdict.why.append(f"{confidence:.3g} is below {below:.3g}")
        verdict.unsure = True


def verdict_object(verdict: Verdict, manifest: Manifest, top_k: int, threshold: float | None) -> dict[str, Any]:
    """As JSON.

    Args:
        top_k: labels that are shown.
        threshold: less likely ones are left out, and none of them is the answer.
    """
    final, edge = verdict.final, verdict.edge
    least = threshold or 0.0
    labels = {name: p for name, p in final.labels.items() if p is None or p >= least}
    said: dict[str, Any] = {
        "index": verdict.index,
        "model": edge.route.model,
        "version": manifest.version,
        "label": final.label if final.label in labels else None,
        "confidence": final.confidence,
        "labels": dict(list(labels.items())[:top_k]),
        "source": final.source,
        "route": final.route.name,
        "edge_label": edge.label,
        "edge_confidence": edge.confidence,
        "why": "; ".join(verdict.why),
        "latency_ms": round(verdict.seconds * 1000, 3),
    }
    if manifest.task == "find":
        said["spans"] = [
            {"start": start, "end": end, "label": label, "probability": probability}
            for start, end, label, probability in final.spans
            if probability >= least
        ]
    return said


def failed_object(index: int, model: str, version: str, error: Mapping[str, Any]) -> dict[str, Any]:
    """In place of a verdict, of a model that has none. `error`: as the API has them."""
    return {"index": index, "model": model, "version": version, "error": error}
