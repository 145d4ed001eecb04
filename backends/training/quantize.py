"""From a graph of float32 to one of int8."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np

PRODUCT, TABLE = "MatMul", "Gather"
Method = Literal["minmax", "percentile", "entropy"]
"""How scales are chosen from what calibration texts gave: to fit all of it, all but a hundred-thousandth, or so that
the least information is lost."""
PERCENTILE = 99.999
Feed = Mapping[str, np.ndarray[Any, Any]]
"""One text as the graph takes it: its inputs, [1, tokens] each."""


def dynamic(graph: Path, target: Path, *, floats: Sequence[str] = (), products: bool = True) -> None:
    """Weights of matrix products and of the token table become int8, one scale a column; activations are scaled as they
    come.

    One scale a column and not a matrix: of all-MiniLM-L6-v2's vectors it keeps a cosine of 0.99 in place of 0.96, at
    the same speed.

    Args:
        floats: products that stay as they are, by their nodes' names.
        products: whether others are touched; otherwise only the table.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic  # type: ignore[import-untyped]

    with _quiet():
        quantize_dynamic(
            graph,
            target,
            op_types_to_quantize=[PRODUCT, TABLE] if products else [TABLE],
            per_channel=True,
            reduce_range=saturates(),
            weight_type=QuantType.QInt8,
            nodes_to_exclude=list(floats),
            extra_options={"MatMulConstBOnly": True},
        )


def static(graph: Path, target: Path, feeds: Sequence[Feed], method: Method, *, floats: Sequence[str] = ()) -> None:
    """As `dynamic`, but activations have scales that were chosen beforehand.

    What a product gives stays float: scaled to int8 too, all-MiniLM-L6-v2's vectors kept a cosine of 0.93 in place of
    0.99. Activations are unsigned: signed ones ran ten times slower on x86.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    names = {"minmax": "MinMax", "percentile": "Percentile", "entropy": "Entropy"}
    between = target.with_suffix(".static.onnx")
    with _quiet():
        quantize_static(
            graph,
            between,
            _reader(feeds),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=[PRODUCT],
            per_channel=True,
            reduce_range=saturates(),
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=list(floats),
            calibrate_method=CalibrationMethod[names[method]],
            extra_options={
                "MatMulConstBOnly": True,
                "OpTypesToExcludeOutputQuantization": [PRODUCT],
                # Text by text: they differ in length, which histograms of several at once cannot bear.
                "CalibStridedMinMax": 1,
                "CalibPercentile": PERCENTILE,
                "CalibTensorRangeSymmetric": False,  # a percentile's would be, and waste half of what 8 bits can say
            },
        )
    dynamic(between, target, products=False)
    between.unlink()


def saturates() -> bool:
    """Whether this CPU's products of uint8 and int8 lose what is over 16 bits, by trying: those of x86 without VNNI do.
    Weights then have 7 bits."""
    import onnxruntime  # type: ignore[import-untyped]
    from onnx import TensorProto, helper, numpy_helper

    rows, depth, columns = 4, 64, 32
    weights = numpy_helper.from_array(np.full((depth, columns), 127, np.int8), "b")
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["c"])],
        "probe",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, [rows, depth])],
        [helper.make_tensor_value_info("c", TensorProto.INT32, [rows, columns])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"a": np.full((rows, depth), 255, np.uint8)})
    return bool((found != 255 * 127 * depth).any())


def _reader(feeds: Sequence[Feed]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(feeds)

        def __len__(self) -> int:
            return len(feeds)

        def set_range(self, start_index: int, end_index: int) -> None:
            self._left = iter(feeds[start_index:end_index])

        def get_next(self) -> Feed | None:
            return next(self._left, None)

    return Reader()


@contextmanager
def _quiet() -> Iterator[None]:
    """It logs advice to the root logger that does not concern what is done here, and prints how it is getting on."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.setLevel(level)
