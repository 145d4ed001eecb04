"""The embedder's own tokenizer, for those who only count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rag.chunks import Tokenize


@dataclass(frozen=True, slots=True)
class Counter:
    """Of one embedder.

    Attributes:
        tokenize: a text's tokens as places, without those that the model adds.
        room: tokens of a text that the model takes at once, besides those.
    """

    tokenize: Tokenize
    room: int


def load(folder: Path) -> Counter:
    """From a small model's folder, by its manifest. Raises `BadModelFile`."""
    from backends.onnx import manifest, tokens

    description = manifest.read_manifest(folder)
    settings = description.tokenizer
    assert settings is not None, "an embedder of text has a tokenizer"
    tokenizer = tokens.load(settings, folder)

    def tokenize(text: str) -> Sequence[tuple[int, int]]:
        found = tokenizer.encode([text], query=None, prefix="", places=True)[0]
        return found.offsets[found.start : found.end]

    empty = tokenizer.encode([""], query=None, prefix=description.document_prefix, places=False)[0]
    return Counter(tokenize, settings.max_tokens - len(empty))
