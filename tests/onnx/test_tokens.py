"""Texts to token ids: as the models were trained, whole, and cut only where that is allowed."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from backends.errors import BadModelFile, InvalidRequest
from backends.onnx import tokens
from backends.onnx.manifest import Tokenizer as Settings
from backends.onnx.tokens import HuggingFace, Tokens, Words
from tests.onnx.conftest import Folder, find_folder

VOCAB = {"the": 1, "pump": 2, "hates": 3, "you": 4}


@pytest.fixture
def words(tmp_path: Path) -> Words:
    path = tmp_path / "vocab.json"
    path.write_text(json.dumps({"vocab": VOCAB, "cfg": {"filters": "!,.", "lower": True}}))
    return Words(path)


@pytest.fixture(scope="module")
def bert() -> HuggingFace:
    return HuggingFace(find_folder("bge-small-en-v1.5") / "tokenizer.json")


def one(tokenizer: tokens.Tokenizer, text: str, *, query: str | None = None, prefix: str = "") -> Tokens:
    (found,) = tokenizer.encode([text], query=query, prefix=prefix, places=True)
    return found


def test_words_as_keras_takes_them(words: Words) -> None:
    assert one(words, "The pump,hates  YOU! unknown the-pump.").ids == (1, 2, 3, 4)
    assert one(words, "").ids == ()
    assert words.wrap((4, 1), "").ids == (4, 1)
    with pytest.raises(InvalidRequest, match="between 0 and 4"):
        words.wrap((5,), "")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"vocab": {"a": "x"}}', '{"vocab": [1]}'])
def test_a_file_that_is_no_vocabulary(tmp_path: Path, content: str) -> None:
    (tmp_path / "vocab.json").write_text(content)
    with pytest.raises(BadModelFile):
        Words(tmp_path / "vocab.json")
    with pytest.raises(BadModelFile):
        HuggingFace(tmp_path / "vocab.json")


def test_special_tokens_a_prefix_and_a_query(bert: HuggingFace) -> None:
    plain = one(bert, "the pump")
    assert (plain.ids, plain.start, plain.end) == ((101, 1996, 10216, 102), 1, 3)
    prefixed = one(bert, "the pump", prefix="query: ")
    assert prefixed.ids[prefixed.start : prefixed.end] == (1996, 10216)
    assert len(prefixed) == 6
    pair = one(bert, "the pump", query="which?")
    assert pair.ids[pair.start : pair.end] == (1996, 10216)
    assert pair.types == (0, 0, 0, 0, 1, 1, 1)


def test_what_the_file_says_of_truncation_does_not_count(folder: Folder) -> None:
    """That of all-minilm cuts at 128 tokens and pads to 128."""
    tokenizer = HuggingFace(folder("all-minilm-l6-v2") / "tokenizer.json")
    assert len(one(tokenizer, "the pump")) == 4
    assert len(one(tokenizer, "pump " * 300)) == 302


def test_ids_of_a_text_are_the_same_as_the_text(bert: HuggingFace) -> None:
    text = one(bert, "the pump")
    assert bert.wrap((1996, 10216), "").ids == text.ids
    assert bert.wrap(text.ids, "").ids == text.ids, "its special tokens are there already"
    assert bert.wrap((1996, 10216), "query: ").ids == one(bert, "the pump", prefix="query: ").ids
    for wrong in (-1, 30522):
        with pytest.raises(InvalidRequest, match="between 0 and 30521"):
            bert.wrap((wrong,), "")


# -- too long --------------------------------------------------------------------------------------------------------


def made(before: int, middle: int, after: int) -> Tokens:
    ids = tuple(range(before + middle + after))
    return Tokens(ids, before, before + middle, types=ids, offsets=tuple((i, i + 1) for i in ids), words=ids)


SIZES = st.tuples(st.integers(0, 3), st.integers(0, 60), st.integers(0, 2))


@given(SIZES, st.integers(8, 40), st.sampled_from(["head", "tail"]))
def test_cut_to_the_models_length(sizes: tuple[int, int, int], most: int, end: str) -> None:
    given = made(*sizes)
    cut = tokens.fit(given, Settings.model_validate({"max_tokens": most, "cut": end}))
    assert len(cut) == min(len(given), most)
    assert cut.ids == cut.types == cut.words
    assert [start for start, _ in cut.offsets] == list(cut.ids)
    special = given.ids[: given.start] + given.ids[given.end :]
    assert set(special) <= set(cut.ids)
    middle = cut.ids[cut.start : cut.end]
    whole = given.ids[given.start : given.end]
    assert middle == (whole[: len(middle)] if end == "head" else whole[len(whole) - len(middle) :])


@given(SIZES, st.integers(8, 40))
def test_windows_see_all_of_it_and_their_seams_twice(sizes: tuple[int, int, int], most: int) -> None:
    given = made(*sizes)
    found = tokens.windows(given, most)
    assert all(len(piece) <= most for piece in found)
    middles = [piece.ids[piece.start : piece.end] for piece in found]
    assert {i for middle in middles for i in middle} == set(given.ids[given.start : given.end])
    if len(found) > 1:
        overlap = (most - sizes[0] - sizes[2]) // 4
        assert all(len(set(a) & set(b)) == overlap for a, b in itertools.pairwise(middles))
        assert len(middles[-1]) > overlap, "the last one brings something new"
