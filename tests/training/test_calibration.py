"""Smoothing and its measures on small graphs whose outliers are known, and which form is kept."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from backends.training.agreement import Agreement
from backends.training.calibration import errors, largest_inputs, most_sensitive, products_of
from backends.training.measuring import Measured, best
from backends.training.quantize import Feed, dynamic, saturates, static
from backends.training.smoothing import FAR, Floats, factors, smooth

WIDE, OUTLIER = 64, 7
RNG = np.random.default_rng(0)
FEEDS: list[Feed] = [{"x": RNG.normal(size=(1, rows, WIDE)).astype(np.float32)} for rows in (3, 9, 5, 20)]


def write(folder: Path, *, tied: bool = False) -> Path:
    """x → `calm` → a scale that blows up one channel by 200 → `wild` → y. `tied`: both have the same weights."""
    path = folder / "model.onnx"
    scale = np.ones(WIDE, np.float32)
    scale[OUTLIER] = 200
    weights = {name: RNG.normal(size=(WIDE, WIDE)).astype(np.float32) / 8 for name in ("a", "b")}
    weights["b"][OUTLIER] /= 200
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"], name="calm"),
        helper.make_node("Mul", ["h", "scale"], ["s"], name="scaled"),
        helper.make_node("MatMul", ["s", "a" if tied else "b"], ["y"], name="wild"),
    ]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "t", WIDE]) for name in ("x", "y")]
    tensors = [numpy_helper.from_array(value, name) for name, value in {**weights, "scale": scale}.items()]
    graph = helper.make_graph(nodes, "test", ports[:1], ports[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def run(path: Path) -> Floats:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, dict(feed))[0][0] for feed in FEEDS])


def distance(path: Path, truth: Floats) -> float:
    return float(np.linalg.norm(run(path) - truth) / np.linalg.norm(truth))


def test_the_product_with_the_outlier_is_the_most_sensitive(tmp_path: Path) -> None:
    graph = write(tmp_path)
    assert [(one.node, one.input) for one in products_of(onnx.load(str(graph)))] == [("calm", "x"), ("wild", "s")]
    found = errors(graph, FEEDS)
    assert found["wild"] > 10 * found["calm"]
    assert most_sensitive(found, 0.1) == ["wild"]
    largest = largest_inputs(graph, FEEDS)
    assert int(largest["s"].argmax()) == OUTLIER
    assert largest["x"].max() == max(float(np.abs(feed["x"]).max()) for feed in FEEDS)


def test_smoothing_changes_nothing_in_float_and_much_in_int8(tmp_path: Path) -> None:
    graph, smoothed, small = write(tmp_path), tmp_path / "smoothed.onnx", tmp_path / "small.onnx"
    truth = run(graph)
    assert smooth(graph, smoothed, largest_inputs(graph, FEEDS))
    assert distance(smoothed, truth) < 1e-5
    dynamic(graph, small)
    before = distance(small, truth)
    dynamic(smoothed, small)
    assert distance(small, truth) < before / 4
    static(smoothed, small, FEEDS, "minmax")
    assert distance(small, truth) < before / 4


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy"])
def test_texts_of_any_length_calibrate(tmp_path: Path, method: str) -> None:
    """And what is kept in float is exact."""
    graph, small = write(tmp_path), tmp_path / "small.onnx"
    truth = run(graph)
    static(graph, small, FEEDS, method, floats=["wild"])  # type: ignore[arg-type]
    kinds = [node.op_type for node in onnx.load(str(small)).graph.node]
    assert kinds.count("QuantizeLinear") == 1
    assert 0 < distance(small, truth) < 0.1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "small.onnx"]


def test_with_fixed_scales_a_text_does_not_depend_on_what_shares_its_run(tmp_path: Path) -> None:
    graph, small = write(tmp_path), tmp_path / "small.onnx"
    text = FEEDS[1]["x"]
    together = np.concatenate([text, text * 0.3])

    def differs() -> bool:
        session = onnxruntime.InferenceSession(str(small), providers=["CPUExecutionProvider"])
        (alone,), (both,) = session.run(None, {"x": together[1:]}), session.run(None, {"x": together})
        return not np.allclose(alone[0], both[1], rtol=1e-5, atol=1e-5)

    dynamic(graph, small)
    assert differs()
    static(graph, small, FEEDS, "minmax")
    assert not differs()


def test_weights_of_two_inputs_are_not_smoothed(tmp_path: Path) -> None:
    graph = write(tmp_path, tied=True)
    assert not smooth(graph, tmp_path / "smoothed.onnx", largest_inputs(graph, FEEDS))
    assert not (tmp_path / "smoothed.onnx").exists()


@given(st.lists(st.floats(0, 1e6, width=32), min_size=2, max_size=9), st.floats(0.1, 0.9))
def test_factors_are_finite_and_bounded(sizes: list[float], strength: float) -> None:
    activations = np.array(sizes, np.float32)
    found = factors(activations, activations[::-1], strength)
    assert np.isfinite(found).all()
    assert found.min() >= np.float32(1 / FAR)
    assert found.max() <= FAR


@pytest.mark.skipif(platform.machine() != "x86_64" or not Path("/proc/cpuinfo").exists(), reason="asks an x86 Linux")
def test_a_cpu_with_vnni_does_not_saturate() -> None:
    flags = Path("/proc/cpuinfo").read_text().split()
    assert saturates() == (not {"avx512_vnni", "avx_vnni"} & set(flags))


def form(name: str, milliseconds: float, judged: float) -> Measured:
    return Measured(name, 1, milliseconds, Agreement("cosine", judged, judged, judged))


PLAIN = form("plain", 2.0, 0.985)


@pytest.mark.parametrize(
    ("others", "wanted", "kept"),
    [
        ([form("nearer", 2.1, 0.99), form("near", 2.0, 0.987)], 0.98, "nearer"),
        ([form("quick", 1.9, 0.9902), form("hardly nearer", 2.0, 0.9904)], 0.98, "quick"),
        ([form("fast, but worse", 1.0, 0.984), form("near, but slow", 2.3, 0.999)], 0.98, "plain"),
        ([form("faster", 1.5, 0.986), form("nearer", 2.1, 0.999)], 0.98, "faster"),
        ([form("slow", 4.0, 0.996), form("quick", 3.0, 0.995), form("worse", 1.0, 0.9)], 0.99, "quick"),
        ([form("near", 9.0, 0.99), form("worse", 1.0, 0.9)], 0.999, "near"),
        ([], 0.999, "plain"),
    ],
)
def test_which_form_is_kept(others: list[Measured], wanted: float, kept: str) -> None:
    assert best([PLAIN, *others], PLAIN, wanted).name == kept
