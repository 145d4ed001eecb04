"""The guard's head: a few small networks over one embedding, as one ONNX graph."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
OPSET, IR_VERSION = 17, 8
EPOCHS = 20


@dataclass(frozen=True, slots=True)
class Network:
    """Layers of (weights [inputs, outputs], bias [outputs]) with ReLU between them; the last has one output."""

    layers: tuple[tuple[Vectors, Vectors], ...]

    def logits(self, vectors: Vectors) -> Vectors:
        """[rows] of vectors [rows, dimensions]."""
        for number, (weights, bias) in enumerate(self.layers):
            vectors = vectors @ weights + bias
            if number < len(self.layers) - 1:
                vectors = np.maximum(vectors, 0)
        return vectors[:, 0]


@dataclass(frozen=True, slots=True)
class Head:
    """The mean of the networks' logits. Probabilities: sigmoid((logit + bias) / temperature)."""

    networks: tuple[Network, ...]
    temperature: float = 1.0
    bias: float = 0.0

    def logits(self, vectors: Vectors) -> Vectors:
        """[rows] of vectors [rows, dimensions]."""
        found: Vectors = np.mean([network.logits(vectors) for network in self.networks], axis=0)
        return found

    def probabilities(self, logits: Any) -> Any:
        """Of the logits, calibrated."""
        return 1 / (1 + np.exp(-(logits + self.bias) / self.temperature))

    def with_calibration(self, temperature: float, bias: float) -> Head:
        """The same head with other probabilities."""
        return replace(self, temperature=temperature, bias=bias)


def fit(
    vectors: Vectors, truth: Any, weights: Any, hidden: Sequence[int], penalty: float, seeds: Iterable[int]
) -> Head:
    """One network for each seed. `weights`: how much each row counts; `penalty`: of the squared weights."""
    from sklearn.neural_network import MLPClassifier  # type: ignore[import-untyped]

    networks = []
    for seed in seeds:
        model = MLPClassifier(tuple(hidden), alpha=penalty, max_iter=EPOCHS, batch_size=128, random_state=seed)
        with warnings.catch_warnings():
            # So many epochs and no more: the validation judges what came of it.
            warnings.simplefilter("ignore")
            model.fit(vectors, truth, sample_weight=weights)
        layers = zip(model.coefs_, model.intercepts_, strict=True)
        networks.append(Network(tuple((w.astype(np.float32), b.astype(np.float32)) for w, b in layers)))
    return Head(tuple(networks))


def graph(head: Head) -> bytes:
    """`embedding` [batch, dimensions] float32 to `logits` [batch, 1]; the manifest's calibration does the rest."""
    from onnx import TensorProto, checker, helper, numpy_helper

    nodes, constants, ends = [], [], []
    for n, network in enumerate(head.networks):
        value = "embedding"
        for m, (weights, bias) in enumerate(network.layers):
            names = f"weights_{n}_{m}", f"bias_{n}_{m}"
            constants += [numpy_helper.from_array(a, name) for a, name in zip((weights, bias), names, strict=True)]
            nodes.append(helper.make_node("Gemm", [value, *names], [f"sum_{n}_{m}"]))
            value = f"sum_{n}_{m}"
            if m < len(network.layers) - 1:
                nodes.append(helper.make_node("Relu", [value], [f"hidden_{n}_{m}"]))
                value = f"hidden_{n}_{m}"
        ends.append(value)
    nodes.append(helper.make_node("Mean", ends, ["logits"]))
    dimensions = head.networks[0].layers[0][0].shape[0]
    made = helper.make_graph(
        nodes,
        "injection-guard",
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", dimensions])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1])],
        constants,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    checker.check_model(model)
    return bytes(model.SerializeToString())
