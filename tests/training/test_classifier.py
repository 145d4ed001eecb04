"""`outstation classifier fit` on real text with the real base model, served by a real gateway."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import httpx2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from backends.models.store import Store
from backends.onnx.manifest import read_manifest
from backends.training.classifier import Trained, install, train
from backends.training.common import TrainingError, no_progress
from backends.training.examples import key_of, read_examples
from backends.training.head import FitSettings
from backends.training.local import embed, open_room, run
from backends.training.split import split
from gateway.cli import cli
from tests.conftest import Gateway
from tests.models.folder_writer import write_model
from tests.training.conftest import BASE, REPORTS, put_base

NAME = "reports"


def fit(home: Path, *arguments: str, data: Path = REPORTS) -> Result:
    command = ["classifier", "fit", str(data), "--name", NAME, "--text", "report", "--label", "category", *arguments]
    return CliRunner().invoke(cli, command, env={"OUTSTATION_HOME": str(home)})


@pytest.fixture(scope="module")
def trained(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Trained, Store]:
    store = put_base(tmp_path_factory.mktemp("home"), base_folder)
    examples = read_examples(REPORTS, "report", "category")
    made = train(NAME, BASE, examples, FitSettings(), store, no_progress)
    install(made, store)
    return made, store


def held_out(made: Trained) -> list[tuple[str, str]]:
    """Texts that the head never saw, with their labels."""
    truth = np.array([made.fitted.head.labels.index(label) for label in made.examples.labels])
    rows = split(made.examples.texts, truth, made.settings.test, made.settings.seed).test
    return [(made.examples.texts[row], made.examples.labels[row]) for row in rows]


def test_it_knows_categories_on_texts_that_it_never_saw(trained: tuple[Trained, Store]) -> None:
    made, _ = trained
    assert made.fitted.held_out.rows == len(held_out(made)) == 24
    # By chance: 1 in 6.
    assert made.fitted.held_out.accuracy > 0.75
    assert made.fitted.cross_validated.accuracy > 0.65
    assert made.fitted.sure.accuracy > 0.85
    assert 0.1 < made.fitted.sure.coverage < 1


def test_the_manifest_tells_what_it_is(trained: tuple[Trained, Store]) -> None:
    made, store = trained
    manifest = read_manifest(store.get(NAME).path)
    assert (manifest.task, manifest.input, manifest.base, manifest.dimensions) == ("classify", "embedding", BASE, 384)
    assert manifest.labels == ("climate", "electrical", "leak", "pump", "sensor", "software")
    assert manifest.confidence == made.fitted.confidence
    metrics = {metric.name: metric for metric in manifest.metrics}
    assert metrics["accuracy"].value == pytest.approx(made.fitted.held_out.accuracy, abs=1e-4)
    assert "never saw" in metrics["accuracy"].on
    report = json.loads((store.get(NAME).path / "report.json").read_text())
    assert sum(map(sum, report["held_out"]["confusion"])) == 24


def test_what_is_served_is_what_was_measured(trained: tuple[Trained, Store]) -> None:
    """The graph with its manifest, through the code that serves it, against the head in numpy."""
    made, store = trained
    texts = [text for text, _ in held_out(made)]
    folder, base, room = store.get(NAME).path, store.get(BASE).path, open_room()
    results = run(room, folder, "classification", texts, {}, base)
    wanted = made.fitted.head.probabilities(embed(room, base, texts))
    for result, row in zip(results, wanted, strict=True):
        assert list(result["probabilities"].values()) == pytest.approx(list(row), abs=1e-5)


def test_the_version_is_of_data_and_settings(trained: tuple[Trained, Store]) -> None:
    made, store = trained
    again = train(NAME, BASE, made.examples, FitSettings(), store, no_progress)
    assert again.version == made.version
    assert np.array_equal(again.fitted.head.weights, made.fitted.head.weights)
    other = Trained(NAME, made.base, made.examples, FitSettings(test=0.3), made.fitted)
    assert other.version != made.version


def test_duplicates_change_nothing(trained: tuple[Trained, Store], tmp_path: Path) -> None:
    """The same rows again in capitals: neither counted twice, nor in both parts."""
    made, store = trained
    with REPORTS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    data = tmp_path / "twice.csv"
    with data.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([*rows, *([text.upper() + " ", label] for text, label in rows[1:])])
    examples = read_examples(data, "report", "category")
    assert examples.duplicates == 126
    again = train(NAME, BASE, examples, FitSettings(), store, no_progress)
    assert again.fitted.held_out == made.fitted.held_out
    tested = {key_of(text) for text, _ in held_out(again)}
    assert len(tested) == 24


def test_the_command_serves_it_at_once(base_folder: Path, start_gateway: Callable[..., Gateway]) -> None:
    """A gateway that runs already; then the command; then a request."""
    gateway = start_gateway()
    store = put_base(gateway.home, base_folder)
    done = fit(gateway.home)
    assert done.exit_code == 0, done.output
    assert "measured on 24 that it never saw" in done.output
    assert f"{NAME} is here" in done.output
    with REPORTS.open(encoding="utf-8", newline="") as file:
        right, rows = 0, [(row["report"], row["category"]) for row in csv.DictReader(file)]
    answer = httpx2.post(
        f"{gateway.base_url}/classify", json={"model": NAME, "input": [text for text, _ in rows]}, timeout=60
    )
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    for result, (_, label) in zip(results, rows, strict=True):
        assert sum(result["labels"].values()) == pytest.approx(1.0, abs=1e-4)
        right += result["label"] == label
    assert right / len(rows) > 0.9
    shutil.rmtree(store.folder)


def test_the_command_as_json(store: Store) -> None:
    done = fit(store.folder.parent, "--json", "--test", "0.3")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["texts"] == 126
    assert report["held_out"]["rows"] == 36
    assert len(report["held_out"]["labels"]) == 6


def test_what_cannot_be_learned_installs_nothing(store: Store, tmp_path: Path) -> None:
    home, data = store.folder.parent, tmp_path / "few.csv"
    data.write_text("report,category\n" + "it leaks,leak\n" * 20, encoding="utf-8")
    done = fit(home, data=data)
    assert (done.exit_code, "only the label 'leak'" in done.output) == (1, True)
    assert "no column 'words'" in fit(home, "--text", "words").output
    assert "is on this box" in fit(home, "--base", "no-such-model").output
    assert "cannot name a model" in fit(home, "--name", "../evil").output
    assert [model.name for model in store.list()] == [BASE]


def test_a_model_that_was_not_made_here_is_not_replaced(trained: tuple[Trained, Store], tmp_path: Path) -> None:
    made, _ = trained
    store = Store(tmp_path)
    folder = write_model(store.place(NAME), name=NAME)
    before = read_manifest(folder)
    with pytest.raises(TrainingError, match=f"{NAME} is another model.*--force"):
        install(made, store)
    assert read_manifest(folder) == before
    install(made, store, force=True)
    assert read_manifest(folder).version == made.version
    install(made, store)
    assert [model.name for model in store.list()] == [NAME], "one that was made here is replaced without a word"


def test_a_classifier_never_replaces_its_base(store: Store) -> None:
    home, before = store.folder.parent, store.get(BASE)
    for more, why in (((), "is another model"), (("--force",), "is the base itself")):
        done = fit(home, "--name", BASE, *more)
        assert (done.exit_code, why in done.output) == (1, True), done.output
    assert store.get(BASE) == before


def test_a_classifier_is_no_base(trained: tuple[Trained, Store]) -> None:
    _, store = trained
    done = fit(store.folder.parent, "--base", NAME, "--name", "other")
    assert (done.exit_code, "makes no embeddings" in done.output) == (1, True)
