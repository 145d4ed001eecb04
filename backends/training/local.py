"""Small models in a command's own process: the code that serves them, without the gateway between, so that training and
serving see the same tokens and the same vectors."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from backends.errors import EngineFailed
from backends.onnx import jobs, tokens
from backends.onnx.batching import Turns
from backends.onnx.manifest import Manifest
from backends.onnx.room import Room
from backends.training.common import Progress, no_progress
from backends.training.head import Vectors
from backends.training.quantize import Feed
from backends.training.samples import Sample
from backends.types import Kind, Result

TOGETHER = 256
"""Texts whose tokens are in memory at once."""


def open_room(threads: int = 0) -> Room:
    """Where models are loaded. `threads` of one run; 0: all cores."""
    from backends.processes.cores import usable_cores

    return Room(threads=threads or usable_cores(), providers=(), alive=lambda: None)


def run(
    room: Room, folder: Path, kind: Kind, texts: Sequence[str], options: Mapping[str, Any], base: Path | None = None
) -> list[Result]:
    """What the model in a folder says of texts, each computed alone.

    Alone, since int8 activations are scaled by what is computed together: of bge-small-en-v1.5 the vectors of one text
    among others and alone have a cosine of 0.996, and what is learned should not depend on a file's order.

    Raises:
        BadModelFile, InvalidRequest, EngineFailed: as they say.
    """
    model = room.load(str(folder), str(base or ""))
    message = {"id": "", "folder": str(folder), "kind": kind, "options": dict(options)}
    job = jobs.prepare(model, message, list(texts), lambda: True)
    assert job is not None
    if job.refusal:
        raise job.refusal
    turns, results = Turns(), [Result()] * len(texts)
    turns.add(job.rows())
    while rows := turns.take(lambda _: 1):
        for row, value in zip(rows, model.compute([row.work[3] for row in rows]), strict=True):
            if isinstance(value, EngineFailed):
                raise value
            _, prompt, piece, _ = row.work
            if found := job.put(prompt, piece, value):
                results[prompt] = Result(**found)  # type: ignore[typeddict-item]
    return results


def feeds_of(folder: Path, manifest: Manifest, samples: Sequence[Sample]) -> list[Feed]:
    """Each sample as the model's graph takes it, cut to its length: without padding, alone."""
    model = open_room().load(str(folder), "")
    assert model.tokenizer is not None and manifest.tokenizer is not None
    feeds: list[Feed] = []
    for sample in samples:
        (read,) = model.tokenizer.encode(
            [sample.text], query=sample.query, prefix=manifest.document_prefix, places=False
        )
        row = tokens.fit(read, manifest.tokenizer)
        ids = np.array([row.ids])
        every = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "token_type_ids": np.array([row.types]) if row.types else np.zeros_like(ids),
            "position_ids": np.arange(ids.shape[1])[None],
        }
        feeds.append({name: every[name].astype(kind) for name, kind in model.inputs.items()})
    return feeds


def embed(room: Room, folder: Path, texts: Sequence[str], progress: Progress = no_progress) -> Vectors:
    """Vectors [texts, dimensions] as a head over this model gets them when it serves; too long texts are cut."""
    parts = []
    for at in range(0, len(texts), TOGETHER):
        progress("embedding", at, len(texts))
        results = run(room, folder, "embedding", texts[at : at + TOGETHER], {"truncate": True})
        parts.append(np.stack([vector_of(result) for result in results]))
    progress("embedding", len(texts), len(texts))
    return np.concatenate(parts)


def vector_of(result: Result) -> Vectors:
    """Of an embedding's result."""
    return np.frombuffer(base64.b64decode(result["embedding"]), "<f4")
