"""A head as an ONNX graph: one matrix product."""

from __future__ import annotations

from backends.training.head import Head

OPSET = 17
IR_VERSION = 8
"""Old enough for every onnxruntime that the product may meet."""
INPUT = "embedding"
OUTPUT = "logits"


def head_graph(head: Head) -> bytes:
    """`embedding` [batch, dimensions] float32 to `logits` [batch, labels]; the manifest's temperature does the rest."""
    from onnx import TensorProto, checker, helper, numpy_helper

    labels, dimensions = head.weights.shape
    graph = helper.make_graph(
        [helper.make_node("Gemm", [INPUT, "weights", "bias"], [OUTPUT], transB=1)],
        "head",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", dimensions])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", labels])],
        [numpy_helper.from_array(head.weights, "weights"), numpy_helper.from_array(head.bias, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    checker.check_model(model)
    return bytes(model.SerializeToString())
