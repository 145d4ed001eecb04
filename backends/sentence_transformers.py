"""Embeddings by sentence-transformers itself, on torch, for model folders that are not exported to ONNX. It needs the
extra `sentence-transformers`; torch is imported in a process of its own only, one for each model.

All but the network is the small models': tokens, batches, limits, and the life of the process."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from backends.memory import MemoryBudget
from backends.onnx.backend import OnnxBackend
from backends.onnx.host import OnnxHost
from backends.onnx.manifest import File, Manifest, Tokenizer
from backends.onnx.process import OnnxProcess
from backends.onnx.settings import OnnxHostSettings, OnnxSettings
from backends.onnx.shelf import Describing, Entry
from backends.sentence_folder import ModelFolder, inner_folder, read_folder

OUTPUT = "sentence_embedding"
LOAD_S = 120.0
"""Importing torch alone takes many seconds on a small box."""
LIBRARY_BYTES = 256 << 20
"""What torch takes besides the weights, and besides what any worker takes. Measured: 554 MB with weights of 91 MB."""
_UNKNOWN = "0" * 64


@dataclass(frozen=True, slots=True)
class SentenceTransformersSettings:
    """Of one model.

    Attributes:
        model: `folder` is as sentence-transformers saves it.
        process: `providers` mean nothing to torch.
    """

    model: OnnxSettings
    process: OnnxHostSettings = field(default_factory=lambda: OnnxHostSettings(load_timeout_s=LOAD_S))


class SentenceTransformersBackend(OnnxBackend):
    """One folder."""

    def __init__(self, settings: SentenceTransformersSettings, budget: MemoryBudget | None = None) -> None:
        super().__init__(settings.model, _Host(settings.process, _start, budget, CONFIG))

    @property
    def sha256(self) -> str:
        """Not known: its files are the operator's, and are not hashed."""
        return ""


class _Host(OnnxHost):
    """Of one model, whose memory is torch's besides."""

    def _take_memory(self, entry: Entry, process: OnnxProcess) -> None:
        self._budget.take(process, "torch", LIBRARY_BYTES)
        super()._take_memory(entry, process)


async def _start(settings: OnnxHostSettings) -> OnnxProcess:
    options = {
        "threads": settings.threads,
        "batch_tokens": settings.batch_tokens,
        "run_timeout_s": settings.run_timeout_s,
    }
    silence_s = max(settings.run_timeout_s, settings.load_timeout_s)
    return await OnnxProcess.launch("backends.torch_worker", "sentence-transformers", options, silence_s)


def manifest_of(folder: ModelFolder, name: str) -> Manifest:
    """How the small models' code is to treat it: the library pools and scales by itself."""
    inner: Path = inner_folder(folder)
    weights = sorted(file.name for file in inner.glob("*.safetensors"))
    return Manifest(
        name=name,
        task="embed",
        files={
            file: File(sha256=_UNKNOWN, size=(inner / file).stat().st_size) for file in [*weights, "tokenizer.json"]
        },
        graph=weights[0],
        tokenizer=Tokenizer(max_tokens=folder.max_tokens),
        dimensions=folder.dimensions,
        query_prefix=folder.query_prefix,
        document_prefix=folder.document_prefix,
        output=OUTPUT,
        licence=folder.licence,
        source=str(folder.path),
    )


CONFIG = Describing(
    "config.json", lambda settings: manifest_of(read_folder(settings.folder, serve=True), settings.name)
)
"""A model is described by its own files in place of a manifest."""
