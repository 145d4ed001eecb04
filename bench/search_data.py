"""What the search is measured on: real passages, embedded by the default embedder, and as many more as are wanted.

The passages are paragraphs from the docstrings of Python's standard library and of NumPy. Some of them are embedded; a
vector more is one of these plus a third of the difference of two others, so that the many lie where real ones lie: as
unevenly, around the same mean. Its text is two real paragraphs, so words are as rare and as common as in English.
Questions are paragraphs that are not among the passages.
"""

from __future__ import annotations

import ast
import random
import re
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).parents[1]
CACHE = ROOT / "bench" / "out" / "search.npy"
MODEL = ROOT / ".outstation" / "models" / "bge-small-en-v1.5"
Floats = npt.NDArray[np.float32]
EMBEDDED = 8_000
QUESTIONS = 200
SHARE = 0.35
TOKENS = 96


@dataclass(frozen=True, slots=True)
class Data:
    """Real passages with their vectors, and the questions."""

    texts: Sequence[str]
    vectors: Floats
    questions: Sequence[str]
    asked: Floats

    def more(self, count: int, seed: int) -> tuple[list[str], Floats]:
        """As many passages as are wanted."""
        chosen = np.random.default_rng(seed)
        one, two, three = (chosen.integers(0, len(self.texts), count) for _ in range(3))
        made = self.vectors[one] + np.float32(SHARE) * (self.vectors[two] - self.vectors[three])
        made /= np.linalg.norm(made, axis=1, keepdims=True)
        return [f"{self.texts[a]}\n{self.texts[b]}" for a, b in zip(one, two, strict=True)], made


def load(model: Path, cache: Path) -> Data:
    """The data, embedded now where `cache` does not have it yet (minutes on two cores).

    Args:
        model: the folder of bge-small-en-v1.5.
    """
    texts = list(_paragraphs())
    random.Random(2).shuffle(texts)
    texts = texts[: EMBEDDED + QUESTIONS]
    if cache.exists():
        vectors: Floats = np.load(cache)
    else:
        vectors = _embedded(model, texts)
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.save(cache, vectors)
    return Data(texts[QUESTIONS:], vectors[QUESTIONS:], texts[:QUESTIONS], vectors[:QUESTIONS])


def _paragraphs() -> Iterator[str]:
    seen: set[str] = set()
    library = Path(sysconfig.get_paths()["stdlib"])
    own = [*library.glob("*.py"), *library.glob("[!s]*/*.py")]
    for file in sorted([*own, *Path(np.__file__).parent.rglob("*.py")]):
        try:
            tree = ast.parse(file.read_text("utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                for part in re.split(r"\n\s*\n", ast.get_docstring(node) or ""):
                    text = " ".join(part.split())
                    if 60 < len(text) < 400 and ">>>" not in text and text not in seen:
                        seen.add(text)
                        yield text


def _embedded(model: Path, texts: Sequence[str]) -> Floats:
    """By onnxruntime itself: the first token's output, of unit length."""
    import onnxruntime  # type: ignore[import-untyped]
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.enable_truncation(TOKENS)
    tokenizer.enable_padding()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model / "model.onnx"), options)
    names = {one.name for one in session.get_inputs()}
    made = np.zeros((len(texts), 384), np.float32)
    order = sorted(range(len(texts)), key=lambda n: len(texts[n]))
    for start in range(0, len(order), 32):
        some = order[start : start + 32]
        encoded = tokenizer.encode_batch([texts[n] for n in some])
        ids = np.array([one.ids for one in encoded], np.int64)
        mask = np.array([one.attention_mask for one in encoded], np.int64)
        given: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        said: Any = session.run(["last_hidden_state"], {name: given[name] for name in given if name in names})[0]
        made[some] = said[:, 0]
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    return made
