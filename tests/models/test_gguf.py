"""The GGUF reader: an honest file is described, every kind of lie is refused with its reason."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends.errors import BadModelFile
from backends.models.ggml_types import FILE_TYPES, TENSOR_TYPES
from backends.models.gguf import read_gguf
from tests.models.gguf_writer import (
    ARRAY,
    BOOL,
    F32,
    I32,
    PAIRS,
    STRING,
    TENSORS,
    U8,
    U32,
    U64,
    gguf,
    pair,
    replaced,
    string,
    without,
)

TINY = gguf()
Q4_0 = 2


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tiny.gguf"


def reason(path: Path, data: bytes) -> str:
    """Why the file is refused."""
    path.write_bytes(data)
    with pytest.raises(BadModelFile) as caught:
        read_gguf(path)
    assert caught.value.message.startswith("tiny.gguf is not a usable GGUF file. ")
    return caught.value.message


def test_an_honest_file_is_described(path: Path) -> None:
    path.write_bytes(TINY)
    info = read_gguf(path)
    assert (info.architecture, info.name, info.license) == ("llama", "Tiny", "mit")
    assert (info.context_length, info.n_layers, info.n_embd) == (64, 2, 8)
    assert (info.n_head, info.n_head_kv, info.n_vocab) == (4, 2, 3)
    assert info.quantization == "F16"
    assert info.size_bytes == len(TINY)
    assert info.parameters == 8 * 3 + 8
    assert info.chat_template == "{{ messages[0]['content'] }}"
    assert info.metadata["tokenizer.ggml.add_bos_token"] is True
    assert info.metadata["llama.rope.freq_base"] == 10000.0
    assert "tokenizer.ggml.tokens" not in info.metadata


def test_a_kv_cell_is_keys_and_values_of_every_layer_in_f16(path: Path) -> None:
    path.write_bytes(TINY)
    head = 8 // 4
    assert read_gguf(path).kv_bytes_per_cell == 2 * 2 * head * 2 * 2  # 2 bytes, K and V, head, 2 kv heads, 2 layers


def test_head_counts_may_differ_between_layers(path: Path) -> None:
    path.write_bytes(gguf(replaced("llama.attention.head_count_kv", ARRAY, (I32, [2, 1]))))
    info = read_gguf(path)
    assert info.n_head_kv == 2
    assert info.kv_bytes_per_cell == 2 * 2 * 2 * (2 + 1)


def test_explicit_head_sizes_are_used(path: Path) -> None:
    path.write_bytes(gguf((*PAIRS, ("llama.attention.key_length", U32, 16), ("llama.attention.value_length", U32, 4))))
    assert read_gguf(path).kv_bytes_per_cell == 2 * (16 + 4) * 2 * 2


def test_the_vocabulary_may_be_stated_without_tokens(path: Path) -> None:
    pairs = tuple(item for item in PAIRS if not item[0].startswith("tokenizer.ggml"))
    path.write_bytes(gguf((*pairs, ("llama.vocab_size", U32, 77))))
    assert read_gguf(path).n_vocab == 77


def test_without_a_file_type_the_commonest_format_names_it(path: Path) -> None:
    path.write_bytes(gguf(without("general.file_type")))
    assert read_gguf(path).quantization == "F16"


def test_without_a_name_it_is_the_files(path: Path) -> None:
    path.write_bytes(gguf(without("general.name")))
    assert read_gguf(path).name == "tiny"


def test_a_wider_alignment_is_followed(path: Path) -> None:
    tensors = (("a", (8, 3), 1, 0, 48), ("b", (8,), 0, 128, 32))
    path.write_bytes(gguf((*PAIRS, ("general.alignment", U32, 128)), tensors, alignment=128))
    assert read_gguf(path).parameters == 32


def test_the_last_tensors_padding_may_be_missing(path: Path) -> None:
    data = gguf(tensors=(("a", (8, 3), 1, 0, 48),))
    path.write_bytes(data)
    assert len(data) % 32
    assert read_gguf(path).parameters == 24


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "ends inside the magic number"),
        (b"GG", "ends inside the magic number"),
        (b"PK\x03\x04" + TINY[4:], "begins with b'PK"),
        (gguf(magic=b"GGML"), "begins with b'GGML'"),
        (gguf(version=1), "version is 1; versions 2 and 3"),
        (gguf(version=4), "version is 4"),
        (gguf(version=0), "version is 0"),
        (gguf(version=3 << 24), "big-endian"),
        (gguf(n_tensors=0, tensors=()), "holds no tensors"),
        (gguf(n_tensors=1 << 40), "claims 1,099,511,627,776 tensors"),
        (gguf(n_pairs=(1 << 64) - 1), "claims 18,446,744,073,709,551,615 key-value pairs"),
        (gguf(n_pairs=len(PAIRS) + 1), "tiny.gguf"),
        (gguf(n_tensors=len(TENSORS) + 1), "tiny.gguf"),
    ],
)
def test_a_lying_beginning_is_refused(path: Path, data: bytes, expected: str) -> None:
    assert expected in reason(path, data)


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        (without("general.architecture"), "does not name its architecture"),
        (replaced("general.architecture", STRING, ""), "does not name its architecture"),
        (replaced("general.architecture", U32, 3), "does not name its architecture"),
        (replaced("general.architecture", STRING, "ll\x1b[2Jama"), "which no model has"),
        (without("llama.context_length"), "has no llama.context_length"),
        (without("llama.block_count"), "has no llama.block_count"),
        (replaced("llama.context_length", U32, 0), "llama.context_length is 0"),
        (replaced("llama.context_length", F32, 64.0), "llama.context_length is 64.0"),
        (replaced("llama.context_length", BOOL, 1), "llama.context_length is True"),
        (replaced("llama.embedding_length", I32, -8), "llama.embedding_length is -8"),
        (replaced("llama.block_count", U32, 1 << 30), "llama.block_count is 1073741824"),
        (replaced("llama.attention.head_count", ARRAY, (I32, [4])), "each of the 2 layers"),
        (replaced("llama.attention.head_count", ARRAY, (I32, [4, -4])), "each of the 2 layers"),
        (replaced("llama.attention.head_count", ARRAY, (STRING, ["4", "4"])), "each of the 2 layers"),
        (replaced("general.alignment", U32, 0), "general.alignment is 0"),
        (replaced("general.alignment", U32, 24), "general.alignment is 24"),
        (replaced("general.alignment", STRING, "32"), "general.alignment is '32'"),
        (replaced("split.count", U8, 3), "one of 3 parts"),
        ((*PAIRS, PAIRS[0]), "'general.architecture' occurs twice"),
        ((*PAIRS, ("", U32, 1)), "is empty"),
        ((*PAIRS, ("llama.flag", BOOL, 2)), "boolean of value 2"),
        (replaced("tokenizer.ggml.tokens", ARRAY, (STRING, [])), "vocabulary is empty"),
        (replaced("tokenizer.ggml.scores", ARRAY, (F32, [0.0])), "has 1 elements for 3 tokens"),
        ((*PAIRS, ("nested", ARRAY, (ARRAY, [(U8, [1])]))), "unsupported value type 9"),
        ((*PAIRS, ("big", STRING, "x" * ((1 << 20) + 1))), "at most 1,048,576 are accepted"),
        ((*PAIRS, *[(f"big{n}", STRING, "x" * (1 << 20)) for n in range(17)]), "exceed 16,777,216 bytes together"),
    ],
)
def test_lying_metadata_is_refused(path: Path, pairs: tuple[tuple[str, int, object], ...], expected: str) -> None:
    assert expected in reason(path, gguf(pairs))


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (struct.pack("<Q", 1 << 63), "ends inside key 14"),
        (struct.pack("<Q", 1 << 16) + b"k" * (1 << 16), "at most 65,535 are accepted"),
        (pair(b"\xff\xfe", U32, 1), "Key 14 is not UTF-8"),
        (string("k") + struct.pack("<I", 13), "unknown value type 13"),
        (string("k") + struct.pack("<IQ", STRING, 1 << 62), "ends inside the value of 'k'"),
        (string("k") + struct.pack("<IIQ", ARRAY, U64, 1 << 61), "more than any model has"),
        (string("k") + struct.pack("<IIQ", ARRAY, U64, 1 << 20), "ends inside the value of 'k'"),
        (string("k") + struct.pack("<IIQ", ARRAY, STRING, 1 << 20), "ends inside the value of 'k'"),
        (string("k") + struct.pack("<IIQ", ARRAY, STRING, 1 << 30), "more than any model has"),
        (string("k") + struct.pack("<IIQQ", ARRAY, STRING, 1, (1 << 64) - 1), "ends inside the value of 'k'"),
        (string("k") + struct.pack("<IIQ", ARRAY, 99, 1), "unsupported value type 99"),
    ],
)
def test_lying_lengths_are_refused(path: Path, raw: bytes, expected: str) -> None:
    assert expected in reason(path, gguf(raw=raw, n_pairs=len(PAIRS) + 1))


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        ((("t", (), 0, 0, 4),), "has 0 dimensions"),
        ((("t", (1, 1, 1, 1, 1), 0, 0, 4),), "has 5 dimensions"),
        ((("t", (8, 0), 0, 0, 4),), "has a dimension of 0"),
        ((("t", (1 << 63,), 0, 0, 4),), "more elements than 64 bits"),
        ((("t", (1 << 40, 1 << 40), 0, 0, 4),), "more elements than 64 bits"),
        ((("t", (8,), 4, 0, 32),), "unknown tensor format 4"),
        ((("t", (8,), 1000, 0, 32),), "unknown tensor format 1000"),
        ((("t", (8,), Q4_0, 0, 32),), "not a multiple of Q4_0's block of 32"),
        ((("t", (8,), 0, 8, 32),), "which 32 does not divide"),
        ((("t", (8,), 0, 32, 32),), "ends at 0"),
        ((("a", (8,), 0, 0, 32), ("b", (8,), 0, 0, 32)), "ends at 32"),
        ((("a", (8,), 0, 0, 32), ("a", (8,), 0, 32, 32)), "'a' occurs twice"),
        ((("t", (1 << 40,), 0, 0, 32),), "but the file has"),
        ((("t", (9,), 0, 0, 32),), "it is truncated"),
        ((("t" * 64, (8,), 0, 0, 32),), "at most 63 are accepted"),
    ],
)
def test_lying_tensors_are_refused(path: Path, tensors: tuple[object, ...], expected: str) -> None:
    assert expected in reason(path, gguf(tensors=tensors))  # type: ignore[arg-type]


def test_what_is_not_a_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    for path, expected in ((tmp_path / "pipe.gguf", "not a regular"), (tmp_path, "not a regular")):
        with pytest.raises(BadModelFile, match=expected):
            read_gguf(path)
    with pytest.raises(BadModelFile, match="No such file"):
        read_gguf(tmp_path / "absent.gguf")


def test_every_truncation_is_refused(path: Path) -> None:
    for length in range(len(TINY)):
        reason(path, TINY[:length])


def test_a_vocabulary_larger_than_the_reading_window_is_counted(path: Path) -> None:
    tokens = [f"token {number}" * 3 for number in range(60_000)]
    pairs = tuple(item for item in PAIRS if item[0] != "tokenizer.ggml.scores")
    pairs = tuple((key, kind, (STRING, tokens) if key.endswith(".tokens") else content) for key, kind, content in pairs)
    path.write_bytes(gguf(pairs))
    assert read_gguf(path).n_vocab == 60_000


def test_a_hostile_count_is_bounded(path: Path) -> None:
    """A sparse file of 1 TiB whose array of strings claims to fill it."""
    raw = string("k") + struct.pack("<IIQ", ARRAY, STRING, (1 << 22) - 3)
    path.write_bytes(gguf(raw=raw, n_pairs=len(PAIRS) + 2))
    os.truncate(path, 1 << 40)
    with pytest.raises(BadModelFile):
        read_gguf(path)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, len(TINY) - 1), st.binary(min_size=1, max_size=8)), max_size=4))
def test_any_change_is_read_or_refused(path: Path, changes: list[tuple[int, bytes]]) -> None:
    data = bytearray(TINY)
    for at, new in changes:
        data[at : at + len(new)] = new
    path.write_bytes(data)
    try:
        info = read_gguf(path)
    except BadModelFile as error:
        text = error.message
    else:
        text = ""
        assert info.n_layers > 0
        assert info.kv_bytes_per_cell >= 0
    assert len(text) < 2000


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300), honest=st.integers(0, len(TINY)))
def test_any_bytes_are_read_or_refused(path: Path, data: bytes, honest: int) -> None:
    path.write_bytes(TINY[:honest] + data)
    try:
        read_gguf(path)
    except BadModelFile:
        pass


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_change_of_a_real_header_is_read_or_refused(model_file: Path, path: Path, data: st.DataObject) -> None:
    size = model_file.stat().st_size
    with model_file.open("rb") as file:
        header = bytearray(file.read(2 << 20))
    # Half of the changes into the keys and numbers at its beginning, where they matter most.
    for at in data.draw(st.lists(st.integers(0, 4096) | st.integers(0, len(header) - 8), max_size=3)):
        header[at : at + 8] = data.draw(st.binary(min_size=8, max_size=8))
    path.write_bytes(header)
    os.truncate(path, size)
    try:
        read_gguf(path)
    except BadModelFile:
        pass


def test_a_model_file_is_described(model_file: Path) -> None:
    info = read_gguf(model_file)
    assert info.architecture == "llama"
    assert info.parameters > 100_000_000
    assert info.n_vocab == 49152
    assert info.context_length == 8192
    assert info.kv_bytes_per_cell == 23040
    assert info.quantization == "Q4_1"
    assert "<|im_start|>" in (info.chat_template or "")


def test_the_tables_of_formats_are_plausible() -> None:
    for known in TENSOR_TYPES.values():
        assert 0.1 < known.size / known.block <= 8
    assert len(set(FILE_TYPES.values())) == len(FILE_TYPES)
