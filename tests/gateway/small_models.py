"""Scripted small models with a manifest, as the real ones have it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from backends.fake import FakeBackend, Step
from backends.onnx.manifest import Manifest
from backends.types import Chunk, Kind, Prompt, Request, Usage

FILES = {name: {"sha256": "0" * 64, "size": 1} for name in ("model.onnx", "tokenizer.json")}
Judge = Callable[[Prompt], Mapping[str, float]]


def manifest(**fields: object) -> Manifest:
    """Of a classifier of text."""
    base = {"name": "c", "version": "7", "task": "classify", "files": FILES, "tokenizer": {"max_tokens": 100}}
    return Manifest.model_validate({**base, "labels": ("pump", "valve"), **fields})


@dataclass(slots=True)
class SmallModel(FakeBackend):
    """A `FakeBackend` that says what its answers mean."""

    kinds: frozenset[Kind] = frozenset({"classification"})
    capabilities: frozenset[str] = frozenset()
    manifest: Manifest = field(default_factory=manifest)


def judging(judge: Judge) -> Callable[[Request], Sequence[Step]]:
    """A script that gives each prompt the probabilities that `judge` does."""

    def script(request: Request) -> Sequence[Step]:
        chunks: list[Step] = [
            Chunk(i, finish_reason="stop", wire={"probabilities": judge(prompt)})
            for i, prompt in enumerate(request.prompts)
        ]
        return [*chunks, Usage(2 * len(request.prompts), 0)]

    return script
