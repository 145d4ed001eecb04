"""The catalogue: what ships is sound, and a wrong one says where."""

from __future__ import annotations

import pytest

from backends.models.catalogue import HubSource, IndexSource, check_sha256, load_catalogue, parse_catalogue
from backends.models.errors import StoreError

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
        for source in known.sources:
            if isinstance(source, HubSource):
                assert source.url.startswith("https://")
            if isinstance(source, IndexSource):
                assert all(part.version and "/" in part.member for part in source.parts)


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
