"""The same model by sentence-transformers on torch, and exported to ONNX: the same vectors. Skipped without torch."""

from __future__ import annotations

import asyncio
import importlib
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner, Result

from backends.errors import BadModelFile, InvalidRequest
from backends.models.store import Store
from backends.onnx.manifest import read_manifest
from backends.onnx.settings import OnnxHostSettings, OnnxSettings
from backends.registry import build_sentence_transformers
from backends.sentence_transformers import SentenceTransformersBackend, SentenceTransformersSettings
from backends.training.local import embed, open_room, vector_of
from backends.types import Chunk, Request, Usage
from gateway.cli import cli
from tests.training.conftest import REPORTS
from tests.training.test_sentence_folder import MODULES, make

pytestmark = pytest.mark.anyio

_ids = itertools.count(1)
Vectors = npt.NDArray[np.float32]


def backend(folder: Path) -> SentenceTransformersBackend:
    made = build_sentence_transformers(SentenceTransformersSettings(OnnxSettings("m", folder)))
    assert isinstance(made, SentenceTransformersBackend)
    return made


def ask(*texts: str, **options: object) -> Request:
    return Request(f"{next(_ids)}", "m", "embedding", prompts=texts, options=options)


async def vectors(model: SentenceTransformersBackend, *texts: str, **options: object) -> Vectors:
    found: dict[int, Vectors] = {}
    async for event in model.generate(ask(*texts, **options)):
        if isinstance(event, Chunk):
            found[event.index] = vector_of(event.wire)  # type: ignore[arg-type]
        else:
            assert isinstance(event, Usage)
    return np.stack([found[index] for index in range(len(texts))])


def optimize(home: Path, folder: Path, samples: Path, *arguments: str) -> Result:
    command = ["models", "optimize", str(folder), "--name", "minilm", "--samples", str(samples), *arguments]
    return CliRunner().invoke(cli, command, env={"OUTSTATION_HOME": str(home)})


async def test_all_three_give_the_same_vectors(minilm_folder: Path, samples: Path, tmp_path: Path) -> None:
    """This backend, the library asked directly, and the export to ONNX in float32."""
    texts = samples.read_text().splitlines()  # noqa: ASYNC240
    model = backend(minilm_folder)
    try:
        ours = await vectors(model, *texts, truncate=True)
        assert model.state().status == "ready"
        assert model.state().memory_bytes > 100e6
    finally:
        await model.close()
    library = importlib.import_module("sentence_transformers")
    direct = library.SentenceTransformer(str(minilm_folder), local_files_only=True).encode(texts)
    assert (ours * direct).sum(axis=1).min() > 0.99999
    done = await asyncio.to_thread(optimize, tmp_path, minilm_folder, samples, "--precision", "fp32")
    assert done.exit_code == 0, done.output
    exported = embed(open_room(), Store(tmp_path).get("minilm").path, texts)
    assert (ours * exported).sum(axis=1).min() > 1 - 1e-3


def test_int8_is_smaller_and_says_how_near_it_is(minilm_folder: Path, samples: Path, tmp_path: Path) -> None:
    done = optimize(tmp_path, minilm_folder, samples, "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    original, full, small = report["forms"]
    assert report["installed"]
    assert full["agreement"]["worst"] > 0.9999
    assert 0.98 < small["agreement"]["worst"] <= small["agreement"]["mean"] < 1
    assert small["size"] < original["size"] / 3
    manifest = read_manifest(Store(tmp_path).get("minilm").path)
    assert (manifest.pooling, manifest.normalize, manifest.dimensions) == ("mean", True, 384)
    assert (manifest.licence, manifest.tokenizer and manifest.tokenizer.max_tokens) == ("apache-2.0", 256)
    assert [metric.name for metric in manifest.metrics] == ["mean cosine", "worst cosine", "ms"]
    assert not Store(tmp_path).staging("minilm").exists()


def test_what_agrees_too_little_is_not_installed_unless_forced(
    minilm_folder: Path, samples: Path, tmp_path: Path
) -> None:
    done = optimize(tmp_path, minilm_folder, samples, "--min-agreement", "0.9999")
    assert done.exit_code == 1
    assert "not installed" in done.output
    assert "ONNX int8" in done.output  # the table is shown nevertheless
    assert Store(tmp_path).list() == ()
    assert not Store(tmp_path).staging("minilm").exists()
    forced = optimize(tmp_path, minilm_folder, samples, "--min-agreement", "0.9999", "--force")
    assert forced.exit_code == 0, forced.output
    assert [model.name for model in Store(tmp_path).list()] == ["minilm"]


def first_layers(folder: Path, target: Path, count: int) -> Path:
    """The model without its other layers: as real, and sooner done."""
    transformers = importlib.import_module("transformers")
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.safetensors"))
    network = transformers.AutoModel.from_pretrained(str(folder), use_safetensors=True)
    network.encoder.layer = network.encoder.layer[:count]
    network.config.num_hidden_layers = count
    network.save_pretrained(str(target))
    return target


def test_with_other_texts_a_better_form_is_found(minilm_folder: Path, samples: Path, tmp_path: Path) -> None:
    folder = first_layers(minilm_folder, tmp_path / "folder", 2)
    others, texts = tmp_path / "others.csv", samples.read_text().splitlines()
    # Some of what calibrates measures as well (every fourth report), and must be left out.
    samples.write_text("\n".join([*texts[:6], texts[-1]]))
    others.write_text("\n".join(REPORTS.read_text().splitlines()[:31]))
    done = optimize(tmp_path, folder, samples, "--json", "--calibration", str(others), "--text", "report")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    forms = {form["name"]: form for form in report["forms"]}
    plain, kept = forms["ONNX int8, dynamic"], forms[report["kept"]]
    assert len(forms) == 11
    smoothed = forms["ONNX int8, dynamic, smoothed"]["agreement"]
    assert smoothed["mean"] > plain["agreement"]["mean"]
    assert kept["agreement"]["judged"] >= plain["agreement"]["judged"]
    assert (report["samples"], report["calibration"]) == (7, 30 - 6)
    installed = Store(tmp_path).get("minilm").path
    manifest = read_manifest(installed)
    assert report["kept"] in manifest.description
    assert manifest.metrics[1].value == pytest.approx(kept["agreement"]["worst"], abs=1e-4)
    assert (installed / manifest.graph).stat().st_size == kept["size"]
    assert json.loads((installed / "report.json").read_text())["forms"] == report["forms"]
    assert vector(installed, "the pump leaks") @ vector(installed, "the pump is leaking") > 0.7


def test_texts_to_calibrate_by_are_for_int8(minilm_folder: Path, samples: Path, tmp_path: Path) -> None:
    done = optimize(tmp_path, minilm_folder, samples, "--precision", "fp32", "--calibration", str(samples))
    assert done.exit_code == 2
    assert "fp32 needs none" in done.output
    done = optimize(tmp_path, minilm_folder, samples, "--calibration", str(samples))
    assert done.exit_code == 1
    assert "Give other texts" in done.output


def vector(folder: Path, text: str) -> Vectors:
    return embed(open_room(), folder, [text])[0]


@pytest.mark.parametrize(
    ("labels", "problem", "task", "wrong"),
    [
        (("pump", "leak", "noise"), "single_label_classification", "classify", "rerank"),
        (("rude", "loud"), "multi_label_classification", "classify", "embed"),
        (("LABEL_0",), "regression", "rerank", "classify"),
    ],
)
def test_classifiers_and_rerankers_are_exported(
    minilm_folder: Path, tmp_path: Path, labels: tuple[str, ...], problem: str, task: str, wrong: str
) -> None:
    """With a head of random weights on the real encoder: its answers must be the original's, whatever they mean."""
    transformers, torch = importlib.import_module("transformers"), importlib.import_module("torch")
    torch.manual_seed(0)
    folder, samples = tmp_path / "folder", tmp_path / "samples.txt"
    network = transformers.AutoModelForSequenceClassification.from_pretrained(
        str(minilm_folder),
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
        problem_type=problem,
        use_safetensors=True,
    )
    network.save_pretrained(str(folder))
    transformers.AutoTokenizer.from_pretrained(str(minilm_folder)).save_pretrained(str(folder))
    samples.write_text("\n".join(f"how to stop leak {n}?\ttighten {n} bolts of the flange" for n in range(8)))
    done = optimize(tmp_path / "home", folder, samples, "--precision", "fp32", "--json", "--task", task)
    assert done.exit_code == 0, done.output
    agreement = json.loads(done.stdout)["forms"][-1]["agreement"]
    assert agreement["judged"] > 0.9999
    assert agreement["worst"] > 0.9999
    manifest = read_manifest(Store(tmp_path / "home").get("minilm").path)
    assert (manifest.task, manifest.labels) == (task, labels if task == "classify" else ())
    refused = optimize(tmp_path / "home", folder, samples, "--task", wrong)
    assert refused.exit_code == 1
    assert f"for the task {task}" in refused.output


async def test_limits_are_the_models(minilm_folder: Path) -> None:
    model = backend(minilm_folder)
    try:
        assert model.kinds == {"embedding"}
        assert (await model.count(ask("two words"))).tokens == 4
        with pytest.raises(InvalidRequest) as caught:
            await vectors(model, "word " * 400)
        assert caught.value.code == "context_length_exceeded"
        cut = await vectors(model, "word " * 400, truncate=True)
        short = await vectors(model, "pump", "pump", dimensions=64)
        assert (cut.shape, short.shape) == ((1, 384), (2, 64))
        assert np.linalg.norm(short, axis=1) == pytest.approx([1, 1])
    finally:
        await model.close()


async def test_an_untrusted_folder_is_refused_before_torch_is_started(tmp_path: Path) -> None:
    evil = [MODULES[0] | {"type": "modeling_evil.Transformer"}]
    model = backend(make(tmp_path, modules=evil))
    try:
        assert model.kinds == frozenset()
        with pytest.raises(BadModelFile, match="is not one of"):
            await vectors(model, "a text")
        assert model.state().pid is None
    finally:
        await model.close()


async def test_weights_that_are_none_fail_the_model_and_not_the_gateway(torch_installed: None, tmp_path: Path) -> None:
    model = backend(make(tmp_path, modules=MODULES))
    try:
        with pytest.raises(BadModelFile, match="cannot load"):
            await vectors(model, "a text")
        assert model.state().status == "failed"
    finally:
        await model.close()


def test_settings_are_hashable() -> None:
    """The pool of backends compares them."""
    settings = SentenceTransformersSettings(OnnxSettings("m", Path("f")), OnnxHostSettings(threads=1))
    assert settings == SentenceTransformersSettings(OnnxSettings("m", Path("f")), OnnxHostSettings(threads=1))
    assert hash(settings) == hash(settings)
