"""A model as its makers run it, on torch: what an export is made from and measured against."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.sentence_folder import ModelFolder, inner_folder
from backends.training.common import need

Floats = NDArray[np.float32]
EXTRA = "sentence-transformers"
OPSET = 17
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True, slots=True)
class Original:
    """A loaded model. Not thread-safe.

    Attributes:
        network: of transformers; gives `last_hidden_state` or `logits`.
        tokenizer: of transformers.
    """

    folder: ModelFolder
    network: Any
    tokenizer: Any

    def run(self, texts: Sequence[str], query: str | None = None) -> Floats:
        """Embeddings [texts, dimensions], or logits [texts, labels]. Too long texts are cut."""
        torch = need("torch", EXTRA)
        pairs = {"text": [query] * len(texts), "text_pair": list(texts)} if query is not None else {"text": list(texts)}
        inputs = self.tokenizer(
            **pairs, padding=True, truncation=True, max_length=self.folder.max_tokens, return_tensors="pt"
        )
        with torch.no_grad():
            output = self.network(**{name: inputs[name] for name in self.inputs})
            if self.folder.task != "embed":
                return np.asarray(output.logits.numpy(), dtype=np.float32)
            vectors = _pooled(output.last_hidden_state, inputs["attention_mask"], self.folder.pooling)
            if self.folder.normalize:
                vectors = torch.nn.functional.normalize(vectors, dim=1)
        return np.asarray(vectors.numpy(), dtype=np.float32)

    @property
    def inputs(self) -> tuple[str, ...]:
        """That the network takes."""
        return tuple(name for name in _INPUTS if name in self.tokenizer.model_input_names)

    def export(self, target: Path) -> None:
        """Writes it as an ONNX graph of float32, any batch, any length."""
        torch = need("torch", EXTRA)
        output = "last_hidden_state" if self.folder.task == "embed" else "logits"
        sample = self.tokenizer(["one text", "and another one"], padding=True, return_tensors="pt")
        axes = {name: {0: "batch", 1: "tokens"} for name in self.inputs}
        axes[output] = {0: "batch", 1: "tokens"} if output == "last_hidden_state" else {0: "batch"}
        with _quiet(), torch.no_grad():
            torch.onnx.export(
                _flat(torch, self.network, self.inputs, output),
                tuple(sample[name] for name in self.inputs),
                str(target),
                input_names=list(self.inputs),
                output_names=[output],
                dynamic_axes=axes,
                opset_version=OPSET,
                dynamo=False,  # the other exporter needs one more package, and gives the same graph here
            )


def load_original(folder: ModelFolder) -> Original:
    """Reads weights from safetensors only, and runs no code of the folder. Torch has one thread from then on.

    Raises:
        TrainingError: the packages are not installed.
    """
    transformers = need("transformers", EXTRA)
    # As the others are measured; and its threads spin, which on a busy box costs it more than they bring.
    need("torch", EXTRA).set_num_threads(1)
    inner = str(inner_folder(folder))
    kind = transformers.AutoModel if folder.task == "embed" else transformers.AutoModelForSequenceClassification
    safe = {"local_files_only": True, "trust_remote_code": False}
    with _quiet():
        network = kind.from_pretrained(inner, use_safetensors=True, attn_implementation="eager", **safe)
        tokenizer = transformers.AutoTokenizer.from_pretrained(inner, **safe)
    return Original(folder, network.eval(), tokenizer)


def _flat(torch: Any, network: Any, inputs: Sequence[str], output: str) -> Any:
    """Tensors in, one tensor out, as tracing wants it."""

    class Flat(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, *tensors: Any) -> Any:
            return getattr(self.network(**dict(zip(inputs, tensors, strict=True))), output)

    # In evaluation itself too: after a trace torch gives all parts the mode that the outermost had.
    return Flat().eval()


def _pooled(hidden: Any, mask: Any, pooling: str | None) -> Any:
    if pooling == "cls":
        return hidden[:, 0]
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without progress bars, and without warnings of what may be constant in a trace: the agreement is measured."""
    transformers_logging = need("transformers.utils.logging", EXTRA)
    transformers_logging.disable_progress_bar()
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
