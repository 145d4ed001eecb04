"""The process of one sentence-transformers model: the small models' worker, with torch in place of onnxruntime."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from backends.errors import BackendError, BadModelFile
from backends.onnx.lanes import Lanes
from backends.onnx.room import Room
from backends.onnx.sessions import Model
from backends.onnx.tokens import HuggingFace
from backends.onnx.worker import Worker
from backends.processes.channel import Channel, die_first, die_with_parent
from backends.processes.cores import usable_cores
from backends.processes.wire import pack_error
from backends.sentence_folder import inner_folder, read_folder
from backends.sentence_transformers import OUTPUT, manifest_of
from backends.training.common import TrainingError, need

EXTRA = "sentence-transformers"
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def main() -> None:
    """Say `ready`, and compute until the socket closes."""
    die_with_parent()
    die_first()
    # Before the libraries are imported: nothing is fetched, and no threads of theirs take the cores from everyone else.
    os.environ.update(TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    options = orjson.loads(channel.lines.readline())
    threads = min(options["threads"] or usable_cores(), usable_cores())  # torch shares out one run, so: one lane
    try:
        room = TorchRoom(threads=threads, alive=lambda: channel.send({"op": "alive"}))
    except BackendError as error:
        channel.send({"op": "failed", "error": pack_error(error)})
        return
    lanes = Lanes(channel, room, options["batch_tokens"], options["run_timeout_s"])
    for what in (lanes.compute, lanes.watch):
        threading.Thread(target=what, name=what.__name__, daemon=True).start()
    worker = Worker(channel, room, lanes)
    channel.send({"op": "ready", "lanes": 1, "threads": threads})
    for line in channel.lines:
        worker.hear(orjson.loads(line), len(line))
    os._exit(0)  # nobody is there to hear what still computes


class TorchRoom(Room):
    """Where the model is loaded."""

    def __init__(self, *, threads: int, alive: Callable[[], None]) -> None:
        """Raises `BadModelFile` if the packages are not installed."""
        super().__init__(threads=threads, providers=(), alive=alive)
        try:
            self._torch = need("torch", EXTRA)
            self._library = need("sentence_transformers", EXTRA)
        except TrainingError as error:
            raise BadModelFile(error.message) from None
        need("transformers.utils.logging", EXTRA).disable_progress_bar()
        self._torch.set_num_threads(threads)

    def _load(self, folder: Path, base: str) -> Model:
        import psutil

        found = read_folder(folder, serve=True)
        self._alive()
        network = self._read(folder)
        self._alive()
        manifest = manifest_of(found, folder.name)
        session = _Session(self._torch, network)
        # Which of them it takes, its own tokenizer says.
        inputs = {name: "int64" for name in _INPUTS if name in network.tokenizer.model_input_names}
        model = Model(manifest, session, inputs, OUTPUT, HuggingFace(inner_folder(found) / "tokenizer.json"))
        model.warm_up()
        # All of the process: it has no other model, and without it would not be there.
        model.figures.memory = psutil.Process().memory_info().rss
        return model

    def _read(self, folder: Path) -> Any:
        try:
            return self._library.SentenceTransformer(
                str(folder),
                device="cpu",
                trust_remote_code=False,
                local_files_only=True,
                model_kwargs={"use_safetensors": True},
            ).eval()
        except Exception as error:  # noqa: BLE001 - three libraries, each with exceptions of its own
            raise BadModelFile(f"sentence-transformers cannot load {folder.name}: {str(error)[:300]}") from None


class _Session:
    """The network, with the one method of an onnxruntime session that is used."""

    def __init__(self, torch: Any, network: Any) -> None:
        self._torch = torch
        self._network = network

    def run(self, _outputs: Sequence[str], feed: Mapping[str, Any], _options: Any = None) -> tuple[Any]:
        """[batch, dimensions], pooled and scaled as the folder says. A run cannot be ended early."""
        with self._torch.inference_mode():
            tensors = {name: self._torch.from_numpy(values) for name, values in feed.items()}
            found = self._network(tensors)[OUTPUT]
        return (found.float().numpy(),)


if __name__ == "__main__":
    main()
