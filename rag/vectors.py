"""Vectors as they come from an embedder."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rag.store.engine import Vectors


def decoded(texts: Sequence[str]) -> Vectors:
    """[texts, dimensions], of unit length, from little-endian float32 in base64: not every graph ends with a norm."""
    import numpy as np

    return _unit(np.stack([np.frombuffer(base64.b64decode(text), dtype="<f4") for text in texts]))


def joined(vectors: Vectors, windows: Sequence[Sequence[int]]) -> Vectors:
    """[texts, dimensions], of unit length: each text's is the mean of its windows', weighted by their tokens.

    Args:
        vectors: of all windows, in order.
        windows: of each text, the weights of its windows.
    """
    import numpy as np

    rows, at = [], 0
    for weights in windows:
        rows.append(np.array(weights, dtype=np.float32) @ vectors[at : at + len(weights)])
        at += len(weights)
    return _unit(np.stack(rows))


def _unit(vectors: Vectors) -> Vectors:
    import numpy as np

    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Vectors = (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
    return unit
