"""The embedder and the reranker of the catalogue, straight by onnxruntime, with what they said kept in a file."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag.chunks import Tokenize
from rag.windows import windows

Vectors = NDArray[np.float32]


class _Model:
    """A graph and a tokenizer on one thread; answers are kept by what was asked."""

    def __init__(self, folder: Path, cache: Path, output: str) -> None:
        import onnxruntime  # type: ignore[import-untyped]
        import tokenizers

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(folder / "model.onnx", options)
        self._names = {one.name for one in self._session.get_inputs()}
        self.tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self._output = output
        self._file = cache / f"answers-{folder.name}.npz"
        self._kept: dict[str, Any] = dict(np.load(self._file)) if self._file.exists() else {}

    def keep(self) -> None:
        """Writes down what is known."""
        np.savez(self._file, **self._kept)

    def _run(self, encoding: Any) -> Any:
        feeds = {
            "input_ids": np.array([encoding.ids[:512]], dtype=np.int64),
            "attention_mask": np.ones((1, min(512, len(encoding.ids))), dtype=np.int64),
            "token_type_ids": np.array([encoding.type_ids[:512]], dtype=np.int64),
        }
        return self._session.run([self._output], {n: v for n, v in feeds.items() if n in self._names})[0]


class Embedder(_Model):
    """bge-small-en-v1.5 as the product runs it: the first token's vector, a prefix before questions."""

    PREFIX = "Represent this sentence for searching relevant passages: "
    ROOM = 510

    def __init__(self, folder: Path, cache: Path) -> None:
        super().__init__(folder, cache, "last_hidden_state")

    def tokenize(self, text: str) -> Sequence[tuple[int, int]]:
        """Its tokens' places."""
        offsets: Sequence[tuple[int, int]] = self.tokenizer.encode(text, add_special_tokens=False).offsets
        return offsets

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """[texts, dimensions], of unit length; a text longer than the model's room in windows."""
        return np.stack([self._vector(text) for text in texts])

    def questions(self, texts: Sequence[str]) -> Vectors:
        """The same of questions."""
        return self.vectors([self.PREFIX + text for text in texts])

    def _vector(self, text: str) -> Vectors:
        key = hashlib.sha256(text.encode()).hexdigest()
        if key not in self._kept:
            tokenize: Tokenize = self.tokenize
            parts = [text[start:end] for start, end in windows(text, tokenize, self.ROOM)]
            whole = sum(len(self.tokenize(part)) * self._unit(part) for part in parts)
            self._kept[key] = np.asarray(whole / np.linalg.norm(whole), dtype=np.float32)
        found: Vectors = self._kept[key]
        return found

    def _unit(self, text: str) -> Any:
        first = self._run(self.tokenizer.encode(text))[0][0]
        return first / np.linalg.norm(first)


class Reranker(_Model):
    """ms-marco-minilm-l-12-v2.

    Attributes:
        times: seconds of each pair that was computed.
    """

    def __init__(self, folder: Path, cache: Path) -> None:
        super().__init__(folder, cache, "logits")
        self.times: list[float] = []

    def logit(self, question: str, text: str) -> float:
        """How well the text answers the question."""
        key = hashlib.sha256(f"{question}\0{text}".encode()).hexdigest()
        if key not in self._kept:
            encoding = self.tokenizer.encode(question, text)
            begun = time.perf_counter()
            self._kept[key] = self._run(encoding).ravel()[:1]
            self.times.append(time.perf_counter() - begun)
        return float(self._kept[key][0])
