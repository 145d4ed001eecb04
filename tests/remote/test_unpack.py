"""Packed bodies, however they are cut, and whatever is wrong with them."""

from __future__ import annotations

import gzip
import zlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.remote.unpack import OUTPUT_BYTES, PackedBadlyError, Unpacker


def unpack(unpacker: Unpacker, *pieces: bytes) -> bytes:
    said = []
    for piece in pieces:
        said.append(unpacker.feed(piece))
        while unpacker.pending:
            said.append(unpacker.feed(b""))
            assert len(said[-1]) <= OUTPUT_BYTES
    unpacker.end()
    return b"".join(said)


def bare(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


PACKED = {"gzip": gzip.compress, "deflate": zlib.compress, "bare": bare}


@pytest.mark.parametrize("kind", PACKED)
@given(data=st.binary(max_size=300), cuts=st.lists(st.integers(0, 400), max_size=6))
def test_any_cut_gives_the_same(kind: str, data: bytes, cuts: list[int]) -> None:
    packed = PACKED[kind](data)
    places = sorted({0, len(packed), *(cut for cut in cuts if cut < len(packed))})
    pieces = [packed[a:b] for a, b in pairwise(places)]
    assert unpack(Unpacker("gzip" if kind == "gzip" else "deflate"), *pieces) == data


@pytest.mark.parametrize("kind", PACKED)
def test_byte_by_byte(kind: str) -> None:
    packed = PACKED[kind](b"Hello, hello, hello!")
    encoding = "gzip" if kind == "gzip" else "deflate"
    assert unpack(Unpacker(encoding), *(packed[k : k + 1] for k in range(len(packed)))) == b"Hello, hello, hello!"


@pytest.mark.parametrize("size", [OUTPUT_BYTES - 1, OUTPUT_BYTES, OUTPUT_BYTES + 1, 5 * OUTPUT_BYTES, 10_000_000])
def test_a_bomb_comes_in_bounded_pieces(size: int) -> None:
    unpacker = Unpacker("gzip")
    assert len(unpacker.feed(gzip.compress(bytes(size)))) == min(size, OUTPUT_BYTES)
    rest = 0
    while unpacker.pending:
        rest += len(said := unpacker.feed(b""))
        assert len(said) <= OUTPUT_BYTES
    unpacker.end()
    assert min(size, OUTPUT_BYTES) + rest == size


def test_several_members_are_one_body() -> None:
    assert unpack(Unpacker("gzip"), gzip.compress(b"a") + gzip.compress(b"b"), gzip.compress(b"c")) == b"abc"


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "x" * 1000])
def test_what_was_not_asked_for_is_refused(encoding: str) -> None:
    with pytest.raises(PackedBadlyError) as refused:
        Unpacker(encoding)
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("gzip", b"no gzip at all"),
        ("gzip", gzip.compress(b"abc") + b"more"),
        ("gzip", gzip.compress(b"abcdef")[:-1]),
        ("gzip", gzip.compress(b"abc" * 99)[:12] + b"\xff" * 20),
        ("gzip", gzip.compress(b"abc")[:-8] + bytes(8)),
        ("deflate", b"\xff\xff\xff"),
        ("deflate", zlib.compress(b"abc") + b"more"),
        ("deflate", zlib.compress(b"abc")[:-1]),
        ("deflate", b"x"),
    ],
)
def test_garbage_is_told(encoding: str, data: bytes) -> None:
    with pytest.raises(PackedBadlyError):
        unpack(Unpacker(encoding), data)
