"""The store: a model is there whole or not at all, and nothing outside its folder is ever touched."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import BadModelFile
from backends.models.errors import NotInStore, StoreError
from backends.models.store import LocalModel, Origin, Store, check_name, verify, wheel_folder
from tests.models.gguf_writer import gguf

ORIGIN = Origin("a test", "ab" * 32, "mit", {"temperature": 0.2, "top_k": 40}, verified=True)


def add(store: Store, name: str = "tiny", data: bytes | None = None) -> LocalModel:
    store.prepare(0)
    store.part(name).write_bytes(gguf() if data is None else data)
    return store.add(name, store.part(name), ORIGIN, created=1_800_000_000)


def test_an_added_model_is_found_with_all_that_is_known(store: Store) -> None:
    model = add(store)
    assert model == store.get("tiny")
    assert store.list() == (model,)
    assert (model.sha256, model.licence, model.created) == ("ab" * 32, "mit", 1_800_000_000)
    assert model.sampling == {"temperature": 0.2, "top_k": 40}
    assert (model.architecture, model.quantization, model.context_length, model.parameters) == ("llama", "F16", 64, 32)
    assert model.size == model.path.stat().st_size
    assert not store.part("tiny").exists()
    assert verify(model).n_vocab == 3


def test_the_manifest_says_where_it_came_from(store: Store) -> None:
    add(store)
    manifest = json.loads((store.folder / "tiny.json").read_text())
    assert manifest["source"] == "a test"
    assert manifest["pulled_at"] == 1_800_000_000
    assert "path" not in manifest


def test_the_store_may_be_moved(store: Store, tmp_path: Path) -> None:
    add(store)
    (tmp_path / "home").rename(tmp_path / "elsewhere")
    moved = Store(tmp_path / "elsewhere")
    assert moved.get("tiny").path == tmp_path / "elsewhere" / "models" / "tiny.gguf"


def test_a_bad_file_is_not_added_and_left_where_it_is(store: Store) -> None:
    with pytest.raises(BadModelFile):
        add(store, data=gguf()[:-1])
    assert store.part("tiny").exists()
    assert store.list() == ()


def test_a_model_is_replaced_as_a_whole(store: Store) -> None:
    add(store)
    bigger = gguf(tensors=(("t", (64,), 0, 0, 256),))
    assert add(store, data=bigger).path.read_bytes() == bigger
    assert store.get("tiny").parameters == 64


def test_a_crash_between_file_and_manifest_leaves_nothing_to_serve(store: Store) -> None:
    add(store)
    (store.folder / "tiny.json").unlink()
    assert store.list() == ()
    assert "has no manifest" in store.problems()[0]
    with pytest.raises(StoreError, match="its installation did not finish"):
        store.get("tiny")


@pytest.mark.parametrize(
    ("manifest", "expected"),
    [(b"", "damaged"), (b"{", "damaged"), (b"[]", "damaged"), (b'{"name": "other"}', "manifest of 'other'")],
)
def test_a_damaged_manifest_is_named(store: Store, manifest: bytes, expected: str) -> None:
    add(store)
    (store.folder / "tiny.json").write_bytes(manifest)
    assert store.list() == ()
    (problem,) = store.problems()
    assert expected in problem
    assert "outstation pull tiny" in problem


def test_a_missing_or_shortened_file_is_named(store: Store) -> None:
    model = add(store)
    model.path.write_bytes(b"GGUF")
    assert "has 4 bytes, but was added with" in store.problems()[0]
    model.path.unlink()
    assert "is missing" in store.problems()[0]
    assert store.list() == ()


def test_a_model_is_removed_with_all_that_belongs_to_it(store: Store) -> None:
    model = add(store)
    store.part("tiny").write_bytes(b"half")
    assert store.remove("tiny") == model
    assert list(store.folder.iterdir()) == []
    with pytest.raises(NotInStore):
        store.remove("tiny")


def test_a_damaged_model_and_an_unfinished_pull_can_be_removed(store: Store) -> None:
    add(store).path.write_bytes(b"")
    assert store.remove("tiny") is None
    store.part("half").write_bytes(b"half")
    wheel_folder(store.part("half")).mkdir()
    assert store.remove("half") is None
    assert list(store.folder.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "A", "-x", ".x", "x" * 101, "a b", "a\n", "x.gguf", "é", "auto"]
)
def test_names_that_are_no_names(store: Store, name: str) -> None:
    for operation in (store.get, store.remove, store.path, store.part):
        with pytest.raises(StoreError):
            operation(name)


@given(st.text())
def test_no_name_leads_out_of_the_folder(name: str) -> None:
    folder = Path("/home/models")
    try:
        check_name(name)
    except StoreError:
        return
    assert Path(os.path.normpath(folder / f"{name}.gguf")).parent == folder


def test_an_absent_home_is_an_empty_store(tmp_path: Path) -> None:
    store = Store(tmp_path / "absent")
    assert store.list() == ()
    assert store.problems() == ()
    with pytest.raises(NotInStore, match="outstation pull x"):
        store.get("x")


def test_a_home_that_cannot_be_made_says_what_to_set(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="Set OUTSTATION_HOME"):
        Store(tmp_path / "file").prepare(0)
