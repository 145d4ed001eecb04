"""What `bench.small` measures against: the bare runtime in this process, and sentence-transformers in another."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from bench.peers import Peer

TORCH = Path(__file__).parent / "small_torch.py"


def gateway(name: str, home: Path, threads: int, batch_tokens: int | None = None) -> Peer:
    """This gateway over the bench's store, with so many threads for the small models; 0: as it comes."""

    def command(port: int, model: Path, folder: Path) -> list[str]:
        config = folder / "outstation.toml"
        lines = ["[small_models]"]
        lines += [f"threads = {threads}"] if threads else []
        lines += [f"batch_tokens = {batch_tokens}"] if batch_tokens else []
        config.write_text("\n".join(lines) + "\n")
        script = Path(sys.executable).with_name("outstation")
        return [str(script), "serve", "--config", str(config), "--port", str(port)]

    return Peer(name, command, "/readyz", environment={"OUTSTATION_HOME": str(home)})


@dataclass(frozen=True, slots=True)
class Bare:
    """A classifier's work in this process, without anything around it.

    Attributes:
        pooling: of the base's tokens, `cls` or `mean`.
        head: over the base's embedding; None: the model reads tokens itself.
    """

    session: Any
    encode: Callable[[str], list[int]]
    pooling: str
    head: Any

    def tokens(self, text: str) -> Any:
        """[1, tokens]"""
        return np.array([self.encode(text)], dtype=np.int64)

    def run(self, ids: Any) -> Any:
        """Token ids to probabilities or logits: the runtime's sessions, and pooling between them."""
        if self.head is None:
            return self.session.run(None, {"input_ids": ids})[0]
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        hidden = self.session.run(None, feeds)[0][0]
        pooled = hidden[0] if self.pooling == "cls" else hidden.mean(axis=0)
        return self.head.run(None, {"embedding": (pooled / np.linalg.norm(pooled))[None].astype(np.float32)})[0]

    def times(self, texts: Sequence[str], total: int) -> tuple[list[float], list[float]]:
        """Seconds of each run, and of each run with its tokenisation; the first tenth warms up."""
        runs, whole = [], []
        for number in range(total + total // 10):
            text = texts[number % len(texts)]
            began = time.perf_counter()
            ids = self.tokens(text)
            between = time.perf_counter()
            self.run(ids)
            ended = time.perf_counter()
            runs.append(ended - between)
            whole.append(ended - began)
        return runs[total // 10 :], whole[total // 10 :]


def bare(store: Path, name: str, threads: int) -> Bare:
    """The model's sessions as the product opens them: the same files, the same threads.

    Raises OSError if it is not in the store.
    """
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads

    def opened(folder: Path) -> Any:
        return onnxruntime.InferenceSession(folder / "model.onnx", options)

    manifest = orjson.loads((store / name / "manifest.json").read_bytes())
    if not manifest.get("base"):
        return Bare(opened(store / name), encoder(store / name, manifest["tokenizer"]), "none", None)
    folder = store / manifest["base"]
    base = orjson.loads((folder / "manifest.json").read_bytes())
    return Bare(opened(folder), encoder(folder, base["tokenizer"]), base["pooling"], opened(store / name))


def encoder(folder: Path, settings: Mapping[str, Any]) -> Callable[[str], list[int]]:
    """From a text to its token ids, as the manifest's `tokenizer` says; what is too long is cut."""
    most = settings["max_tokens"]
    if settings.get("kind") == "words":
        read = orjson.loads((folder / settings["file"]).read_bytes())
        vocabulary, spaces = read["vocab"], str.maketrans(dict.fromkeys(read["cfg"]["filters"], " "))

        def by_words(text: str) -> list[int]:
            words = text.lower().translate(spaces).split(" ")
            ids = [vocabulary[word] for word in words if word in vocabulary][-most:]
            return [0] * (most - len(ids)) + ids

        return by_words
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(most)
    return lambda text: list(tokenizer.encode(text).ids)


class Torch:
    """sentence-transformers in its own process: one JSON line in, one out."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.versions = str(self._read()["versions"])

    def encode(self, texts: Sequence[str], *, vectors: bool = False) -> tuple[float, Any]:
        """Seconds of `SentenceTransformer.encode`, and its vectors [texts, dimensions] if asked for."""
        assert self._process.stdin is not None
        self._process.stdin.write(orjson.dumps({"texts": list(texts), "vectors": vectors}) + b"\n")
        self._process.stdin.flush()
        said = self._read()
        return float(said["seconds"]), np.array(said["vectors"]) if vectors else None

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("sentence-transformers ended; see bench/out/torch.log")
        return orjson.loads(line)


@contextlib.contextmanager
def torch(python: Path, threads: int, logs: Path) -> Iterator[Torch | None]:
    """The peer, ready; None, with a word on stderr, where it is not installed."""
    if not python.exists():
        print("sentence-transformers is not here: start the bench with `make bench-small`.", file=sys.stderr)
        yield None
        return
    logs.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "true",
    }
    with (logs / "torch.log").open("wb") as log:
        process = subprocess.Popen(
            [str(python), str(TORCH), json.dumps(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
        )
        try:
            yield Torch(process)
        finally:
            process.terminate()
            process.wait()
