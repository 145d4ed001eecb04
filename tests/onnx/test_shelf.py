"""Which models there are, and what is noticed of their files."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from backends.errors import BadModelFile, ModelNotFound
from backends.onnx.settings import OnnxSettings
from backends.onnx.shelf import LOOK_S, Shelf
from tests.onnx import graphs


@pytest.fixture
def store(tmp_path: Path) -> Path:
    graphs.write(tmp_path / "below", graphs.linear())
    graphs.write(tmp_path / "head", graphs.linear(), input="embedding", base="below", features=[])
    graphs.write(tmp_path / "other", graphs.linear())
    return tmp_path


def shelf_of(store: Path, *names: str) -> tuple[Shelf, list[str]]:
    changed: list[str] = []
    shelf = Shelf(lambda settings: changed.append(settings.name))
    for name in names:
        shelf.add(OnnxSettings(name, store / name))
        shelf.manifest(name)
    return shelf, changed


def replace(folder: Path) -> None:
    path = folder / "manifest.json"
    written = path.stat().st_mtime_ns
    os.utime(path, ns=(written, written + 1_000_000))
    time.sleep(2 * LOOK_S)


def test_what_stands_on_a_model_is_replaced_with_it(store: Path) -> None:
    shelf, changed = shelf_of(store, "head", "below", "other")
    replace(store / "below")
    assert shelf.base_folder("head") == str(store / "below")
    assert sorted(changed) == ["below", "head"]


def test_a_base_that_is_not_served_lies_beside_its_head(store: Path) -> None:
    shelf, changed = shelf_of(store, "head")
    assert shelf.base_folder("head") == str(store / "below")
    assert (base := shelf.base_of("head")) is not None
    assert (base.name, changed) == ("below", [])


def test_a_model_is_known_until_it_is_removed(store: Path) -> None:
    shelf, changed = shelf_of(store, "other")
    elsewhere = OnnxSettings("other", store / "below")
    assert not shelf.remove(elsewhere), "another model of that name"
    shelf.add(elsewhere)
    assert (changed, list(shelf), len(shelf)) == (["other"], ["other"], 1)
    assert shelf.remove(elsewhere)
    with pytest.raises(ModelNotFound):
        shelf["other"]


def test_a_manifest_that_is_spoilt_and_mended_again(store: Path) -> None:
    shelf, _ = shelf_of(store, "other")
    path = store / "other" / "manifest.json"
    right = path.read_bytes()
    path.write_bytes(b"{")
    replace(store / "other")
    with pytest.raises(BadModelFile, match="other cannot be read"):
        shelf.manifest("other")
    assert shelf["other"].problem
    path.write_bytes(right)
    replace(store / "other")
    assert shelf.manifest("other").name == "other"
    assert not shelf["other"].problem
