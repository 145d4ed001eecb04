"""From what a graph gives to what a client is told: pooling, norms, probabilities."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from backends.errors import InvalidRequest
from backends.onnx.manifest import Manifest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]


def pool(hidden: Floats, mask: npt.NDArray[np.int64], how: str) -> Floats:
    """From [batch, tokens, dimensions] to [batch, dimensions]; `mask` is [batch, tokens], 0 where there is padding.

    `cls` takes the first token that is no padding.
    """
    import numpy as np

    if hidden.ndim == 2:
        return hidden
    if how == "cls":
        first: Floats = hidden[np.arange(len(hidden)), mask.argmax(axis=1)]
        return first
    weights = mask[:, :, None].astype(np.float32)
    total: Floats = (hidden * weights).sum(axis=1) / np.maximum(weights.sum(axis=1), 1.0)
    return total


def unit(vectors: Floats) -> Floats:
    """Each of length 1; a vector of zeros stays one."""
    import numpy as np

    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    scaled: Floats = vectors / np.maximum(lengths, 1e-12)
    return scaled


def probabilities(logits: Floats, manifest: Manifest) -> Floats:
    """Calibrated, along the last axis: softmax((z + b) / t), or a sigmoid of each (Guo et al. 2017).

    Of what is no number, or infinite, no probability is made: it is NaN.
    """
    import numpy as np

    z = logits.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        if manifest.activation == "none":
            found = np.clip(z, 0.0, 1.0)
        else:
            z = (z + np.asarray(manifest.bias or 0.0)) / manifest.temperature
            if manifest.activation == "sigmoid":
                found = 1.0 / (1.0 + np.exp(-z))
            else:
                e = np.exp(z - z.max(axis=-1, keepdims=True))
                found = e / e.sum(axis=-1, keepdims=True)
    result: Floats = np.where(np.isfinite(logits), found, np.nan).astype(np.float32)
    return result


def embedding(vector: Floats, manifest: Manifest, options: Mapping[str, Any]) -> dict[str, Any]:
    """Shortened to `dimensions` and brought back to length 1, if asked for."""
    if (n := wanted_dimensions(options)) and n != len(vector):
        vector = unit(vector[:n])
    return {"embedding": base64.b64encode(vector.astype("<f4").tobytes()).decode()}


def wanted_dimensions(options: Mapping[str, Any]) -> int:
    """0: all."""
    return int(options.get("dimensions") or 0)


def check_dimensions(manifest: Manifest, options: Mapping[str, Any]) -> None:
    """Raises `InvalidRequest` for more than the model has, or for none."""
    given = options.get("dimensions")
    if given is None:
        return
    most = manifest.dimensions
    if not isinstance(given, int) or given < 1 or (most and given > most):
        raise InvalidRequest(f"`dimensions` must be between 1 and {most}.", param="dimensions")


def labelled(values: Floats, manifest: Manifest) -> dict[str, Any]:
    """The probability of each label; of a single column and two labels, the column is the second's."""
    row = [float(v) for v in values]
    if len(row) == 1 and len(manifest.labels) == 2:
        row = [1.0 - row[0], row[0]]
    return {"probabilities": dict(zip(manifest.labels, row, strict=True))}


def highest(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """One judgement of a text that was judged in pieces: each label's highest probability. So of labels that exclude
    each other the sum may be more than 1: one bad piece is not made good by the others."""
    if len(parts) == 1:
        return parts[0]
    of = [part["probabilities"] for part in parts]
    return {"probabilities": {label: max(p[label] for p in of) for label in of[0]}}
