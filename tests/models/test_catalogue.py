"""The catalogue: what ships is sound, and a wrong one says where."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from backends.models.catalogue import (
    BundledSource,
    FileSource,
    HubSource,
    IndexSource,
    check_sha256,
    load_catalogue,
    parse_catalogue,
)
from backends.models.errors import StoreError
from tests.models.folder_writer import write_model

ENTRY = """
[[model]]
name = "a"
description = "d"
role = "llm"
quantization = "Q8_0"
size = 1
sha256 = "{digest}"
licence = "MIT"
context_length = 8
sampling = {{ {sampling} }}
[[model.source]]
kind = "{kind}"
path = "/x"
"""


def entry(*, digest: str = "0" * 64, sampling: str = "top_p = 0.9", kind: str = "file") -> str:
    return ENTRY.format(digest=digest, sampling=sampling, kind=kind)


def test_what_ships_is_sound() -> None:
    catalogue = load_catalogue()
    default = catalogue.get("smollm2-135m-instruct")
    assert default.sha256 == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    assert default.size == 98_362_432
    assert default.sampling == {"temperature": 0.2, "top_p": 0.9}
    for known in catalogue.entries:
        assert known.sources or known.files
        assert known.licence
        for source in (*known.sources, *(source for file in known.files for source in file.sources)):
            if isinstance(source, HubSource):
                assert source.url.startswith("https://")
            if isinstance(source, IndexSource):
                assert all(part.version and "/" in part.member for part in source.parts)


def test_what_a_small_model_is_stands_in_its_manifest() -> None:
    catalogue = load_catalogue()
    default = catalogue.get("bge-small-en-v1.5")
    assert default.sha256 == "68807e3ff2abb83cdd708d8243fd398246e397bfee2ba611c2bad728e27df743"
    assert (default.role, default.licence, default.context_length) == ("embed", "MIT", 512)
    assert default.size == 34_015_106 + 711_396
    bases = {entry.name: entry.manifest.base for entry in catalogue.entries if entry.manifest and entry.manifest.base}
    assert bases
    for base in bases.values():
        assert catalogue.get(base).role == "embed"


def test_what_the_product_carries_is_what_its_manifests_say() -> None:
    for entry in load_catalogue().entries:
        for file in entry.files:
            for source in file.sources:
                if isinstance(source, BundledSource):
                    assert hashlib.sha256(source.path.read_bytes()).hexdigest() == file.sha256, source.path


def test_moderation_names_only_categories_that_openai_has() -> None:
    known = {
        "harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm",
        "self-harm/intent", "self-harm/instructions", "sexual", "sexual/minors", "violence", "violence/graphic",
    }  # fmt: skip
    mapped = [set(entry.manifest.categories) for entry in load_catalogue().entries if entry.manifest]
    assert set().union(*mapped) <= known
    assert any(mapped)


SMALL = """
[[model]]
name = "{name}"
role = "{role}"
[[model.file]]
name = "{file}"
[[model.file.source]]
kind = "file"
path = "/x"
"""


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"name": "drips"}, "cannot be read"),
        ({"role": "embed"}, "its manifest is of 'leaks' for classify"),
        ({"file": "weights.bin"}, "its manifest has no file weights.bin"),
        ({"role": "other"}, "its manifest is of 'leaks'"),
    ],
)
def test_a_small_model_must_fit_its_manifest(tmp_path: Path, fields: dict[str, str], expected: str) -> None:
    write_model(tmp_path / "leaks")
    good = {"name": "leaks", "role": "classify", "file": "model.onnx"}
    (entry,) = parse_catalogue(SMALL.format(**good), tmp_path).entries
    assert entry.files[0].sources == (FileSource(Path("/x")),)
    with pytest.raises(StoreError, match=expected):
        parse_catalogue(SMALL.format(**good | fields), tmp_path)


def test_a_near_miss_is_answered_with_the_name() -> None:
    with pytest.raises(StoreError, match=r"Did you mean smollm2-135m-instruct\?"):
        load_catalogue().get("smollm2-135m")
    with pytest.raises(StoreError, match="Known: smollm2-135m-instruct, qwen"):
        load_catalogue().get("zzz")
    assert load_catalogue().find("zzz") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[", "damaged"),
        ("", "damaged: 'model'"),
        (entry(kind="carrier-pigeon"), "a: unknown kind of source 'carrier-pigeon'"),
        (entry(sampling="temprature = 1"), "unknown sampling defaults"),
        (entry(digest="12"), "is not a SHA-256"),
        (entry() + entry(), "names a model twice"),
    ],
)
def test_a_wrong_catalogue_says_where(text: str, expected: str) -> None:
    with pytest.raises(StoreError, match=expected):
        parse_catalogue(text)


def test_a_hash_is_taken_in_the_usual_spellings() -> None:
    assert check_sha256(" SHA256:" + "AB" * 32 + "\n") == "ab" * 32
    with pytest.raises(StoreError):
        check_sha256("ab")
