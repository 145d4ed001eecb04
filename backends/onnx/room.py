"""The models that a process has loaded, and how one is loaded."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from backends.errors import BadModelFile
from backends.onnx import graph, tokens
from backends.onnx.manifest import Manifest, read_manifest
from backends.onnx.sessions import Model

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "qnn": "QNNExecutionProvider",
    "directml": "DmlExecutionProvider",
    "rocm": "ROCMExecutionProvider",
}

# Of onnxruntime's own lines on stderr. What fails in a session is raised as well, and told by us.
ERRORS_ONLY, FATAL_ONLY = 3, 4


def checked_providers(named: Sequence[str]) -> list[str]:
    """Execution providers by onnxruntime's own names.

    Raises:
        BadModelFile: one is not there; the message lists those that are.
    """
    import onnxruntime  # type: ignore[import-untyped]

    onnxruntime.set_default_logger_severity(ERRORS_ONLY)
    there = onnxruntime.get_available_providers()
    wanted = [PROVIDERS.get(name.lower(), name) for name in named]
    for name, provider in zip(named, wanted, strict=True):
        if provider not in there:
            raise BadModelFile(
                f"The execution provider {name!r} is not in this build of onnxruntime. It has: {', '.join(there)}."
            )
    return wanted or ["CPUExecutionProvider"]


class Room:
    """All models of the process. Loads are made by one thread; anyone may look."""

    def __init__(self, *, threads: int, providers: Sequence[str], alive: Callable[[], None]) -> None:
        """`alive` is called between the steps of a load. Raises `BadModelFile` for a provider that is not there."""
        self.models: dict[str, Model] = {}
        self._failed: dict[str, tuple[tuple[int, int], str]] = {}
        self._threads = threads
        self._providers = checked_providers(providers)
        self._alive = alive

    def load(self, folder: str, base: str) -> Model:
        """The model of a folder, and its base of another. Raises `BadModelFile`, at once if it failed before."""
        if model := self.models.get(folder):
            return model
        stamp = _stamp(folder), _stamp(base) if base else 0
        if folder in self._failed and self._failed[folder][0] == stamp:
            raise BadModelFile(self._failed[folder][1])
        try:
            self.models[folder] = self._load(Path(folder), base)
        except BadModelFile as error:
            self._failed[folder] = stamp, error.message
            raise
        return self.models[folder]

    def unload(self, folder: str) -> None:
        """Its memory is given back once nobody computes with it. As a base it stays with those that stand on it."""
        self.models.pop(folder, None)

    def _load(self, folder: Path, base: str) -> Model:
        manifest = read_manifest(folder)
        if manifest.task == "find" and manifest.tokenizer and manifest.tokenizer.kind == "words":
            raise BadModelFile(
                f"{manifest.name} finds things in a text, but its tokenizer does not say where words stand."
            )
        below = self._base(manifest, base)
        started, before = time.perf_counter(), _resident()
        self._alive()
        checked = graph.check(folder, manifest)
        self._alive()
        model = Model(
            manifest,
            self._session(checked.source),
            {port.name: "int32" if port.kind == "int32" else "int64" for port in checked.inputs},
            checked.output.name,
            tokens.load(manifest.tokenizer, folder) if manifest.tokenizer else None,
            below,
        )
        self._alive()
        model.warm_up()
        del checked
        _trim()
        size = sum(file.size for file in manifest.files.values())
        model.figures.memory = max(_resident() - before, size)
        model.figures.load_s = time.perf_counter() - started
        return model

    def _base(self, manifest: Manifest, folder: str) -> Model | None:
        if manifest.input != "embedding":
            return None
        try:
            model = self.load(folder, "")
        except BadModelFile as error:
            raise BadModelFile(
                f"{manifest.name} stands on {manifest.base}, which is not whole on this box. {error.message}"
            ) from None
        if model.manifest.task != "embed":
            raise BadModelFile(f"{manifest.base}, the base of {manifest.name}, makes no embeddings.")
        return model

    def _session(self, source: bytes | str) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = FATAL_ONLY
        # A thread that waits must sleep: the language model's threads, and the gateway, need the cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            return onnxruntime.InferenceSession(source, options, providers=self._providers)
        except Exception as error:  # noqa: BLE001 - onnxruntime's exceptions have no base of their own
            raise BadModelFile(f"onnxruntime refuses the graph: {str(error)[:300]}") from None


def _stamp(folder: str) -> int:
    try:
        return (Path(folder) / "manifest.json").stat().st_mtime_ns
    except OSError:
        return 0


def _trim() -> None:
    """Give back what the load needed and the model does not: the parsed graph, about as large as the file."""
    gc.collect()
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError, OSError):  # musl has none
            ctypes.CDLL(None).malloc_trim(0)


def _resident() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)
