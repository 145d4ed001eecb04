"""The three sections of a GGUF file (counts, key-value pairs, tensor descriptions), read with nothing taken on trust.

The bounds are far above any published model and keep the time and the memory spent on a hostile file small.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from backends.errors import BadModelFile
from backends.models.ggml_types import TENSOR_TYPES
from backends.models.gguf_reader import ARRAY, INTEGERS, STRING, Cursor, Scalar

_MAX_PAIRS: Final = 1 << 16
_MAX_TENSORS: Final = 1 << 17
_MAX_ARRAY: Final = 1 << 24
_MAX_STRINGS: Final = 1 << 22  # of all arrays together: about half a second of reading
_MAX_KEY: Final = (1 << 16) - 1  # the specification's own bound
_MAX_STRING: Final = 1 << 20
_MAX_TEXT: Final = 1 << 24  # of all string values together
_MAX_NAME: Final = 64  # GGML_MAX_NAME
MAX_LAYERS: Final = 1 << 12
_INT64_MAX: Final = (1 << 63) - 1
_ALIGNMENT_KEY: Final = "general.alignment"
HEADS: Final = (".attention.head_count", ".attention.head_count_kv")
"""Keys, after the architecture's name, that are either one number or an array with one for each layer."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """The key-value section: scalars, the lengths of arrays, and the few integer arrays that are needed."""

    scalars: dict[str, Scalar]
    lengths: dict[str, int]
    integers: dict[str, tuple[int, ...]]


def read_counts(cursor: Cursor) -> tuple[int, int]:
    """(tensors, key-value pairs) as the file claims, within bounds."""
    magic = cursor.take(4, "the magic number")
    if magic != b"GGUF":
        raise BadModelFile(f"It begins with {magic!r}, not with b'GGUF': it is another kind of file.")
    version = cursor.u32("the version")
    if version & 0xFFFF == 0 and version:
        raise BadModelFile("It is big-endian; convert it to little-endian first.")
    if version not in (2, 3):
        raise BadModelFile(f"Its GGUF version is {version}; versions 2 and 3 are supported.")
    n_tensors, n_pairs = cursor.u64("the number of tensors"), cursor.u64("the number of key-value pairs")
    if n_tensors > _MAX_TENSORS:
        raise BadModelFile(f"It claims {n_tensors:,} tensors; at most {_MAX_TENSORS:,} are accepted.")
    if n_pairs > _MAX_PAIRS:
        raise BadModelFile(f"It claims {n_pairs:,} key-value pairs; at most {_MAX_PAIRS:,} are accepted.")
    if n_tensors == 0:
        raise BadModelFile("It holds no tensors: it is a vocabulary only, or empty.")
    return n_tensors, n_pairs


def read_pairs(cursor: Cursor, count: int) -> Pairs:
    """Read `count` key-value pairs; arrays are counted and passed over."""
    pairs = Pairs({}, {}, {})
    text = strings = 0
    for number in range(count):
        raw = cursor.string(f"key {number}", _MAX_KEY)
        try:
            key = raw.decode()
        except UnicodeDecodeError:
            raise BadModelFile(f"Key {number} is not UTF-8.") from None
        what = f"the value of {key[:80]!r}"
        if not key:
            raise BadModelFile(f"Key {number} is empty.")
        if key in pairs.scalars or key in pairs.lengths:
            raise BadModelFile(f"The key {key[:80]!r} occurs twice.")
        kind = cursor.u32(f"the type of {key[:80]!r}")
        if kind == ARRAY:
            strings += _read_array(cursor, key, what, pairs, _MAX_STRINGS - strings)
            continue
        value = cursor.scalar(kind, what, _MAX_STRING)
        text += len(value) if isinstance(value, str) else 0
        if text > _MAX_TEXT:
            raise BadModelFile(f"Its string values exceed {_MAX_TEXT:,} bytes together.")
        pairs.scalars[key] = value
    return pairs


def _read_array(cursor: Cursor, key: str, what: str, pairs: Pairs, strings_left: int) -> int:
    """Count an array's elements, keeping only the integers of per-layer head counts. Returns the strings passed."""
    kind = cursor.u32(f"the element type of {key[:80]!r}")
    count = cursor.u64(f"the length of {key[:80]!r}")
    is_text = kind == STRING
    if count > (strings_left if is_text else _MAX_ARRAY):
        raise BadModelFile(f"{what} claims {count:,} elements, which is more than any model has.")
    pairs.lengths[key] = count
    if kind in INTEGERS and key.endswith(HEADS) and count <= MAX_LAYERS:
        pairs.integers[key] = tuple(int(cursor.scalar(kind, what, 0)) for _ in range(count))
    else:
        cursor.skip_array(kind, count, what)
    return count if is_text else 0


def read_alignment(scalars: Mapping[str, Scalar]) -> int:
    """Bytes to whose multiples tensor data is aligned."""
    value = scalars.get(_ALIGNMENT_KEY, 32)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= 1 << 20 or value & (value - 1):
        raise BadModelFile(f"Its {_ALIGNMENT_KEY} is {value!r}; it must be a power of two.")
    return value


def read_tensors(cursor: Cursor, count: int, alignment: int, size: int) -> tuple[int, str]:
    """Check every tensor's description against the file's size. Returns (elements of all, commonest format)."""
    names: set[bytes] = set()
    elements_of: dict[str, int] = {}
    expected = 0  # offset of the next tensor in the data section
    last = ""
    for number in range(count):
        raw = cursor.string(f"the name of tensor {number}", _MAX_NAME - 1)
        last = raw.decode("utf-8", errors="replace")
        if raw in names:
            raise BadModelFile(f"The tensor {last!r} occurs twice.")
        names.add(raw)
        elements, n_bytes, format_name = _read_shape(cursor, f"tensor {last!r}")
        offset = cursor.u64(f"the offset of tensor {last!r}")
        if offset % alignment:
            raise BadModelFile(f"The tensor {last!r} lies at offset {offset:,}, which {alignment} does not divide.")
        if offset != expected:
            raise BadModelFile(
                f"The tensor {last!r} lies at offset {offset:,}, but the one before it ends at {expected:,}."
            )
        if offset + n_bytes > size:
            raise BadModelFile(_past_end(last, offset + n_bytes, size))
        expected = _padded(offset + n_bytes, alignment)
        elements_of[format_name] = elements_of.get(format_name, 0) + elements
    # The last tensor's padding may be missing, as llama.cpp allows.
    data_end = _padded(cursor.position, alignment) + offset + n_bytes
    if data_end > size:
        raise BadModelFile(_past_end(last, data_end, size))
    return sum(elements_of.values()), max(elements_of, key=lambda name: elements_of[name])


def _read_shape(cursor: Cursor, what: str) -> tuple[int, int, str]:
    """One tensor's (elements, bytes, format)."""
    n_dims = cursor.u32(f"the dimensions of {what}")
    if not 1 <= n_dims <= 4:
        raise BadModelFile(f"{what} has {n_dims} dimensions; 1 to 4 are possible.")
    dims = [cursor.u64(f"a dimension of {what}") for _ in range(n_dims)]
    elements = 1
    for dim in dims:
        elements *= dim
    if elements == 0:
        raise BadModelFile(f"{what} has a dimension of 0: {dims}.")
    if elements > _INT64_MAX:
        raise BadModelFile(f"{what} has more elements than 64 bits can count: {dims}.")
    kind = cursor.u32(f"the format of {what}")
    known = TENSOR_TYPES.get(kind)
    if known is None:
        raise BadModelFile(f"{what} has the unknown tensor format {kind}. A newer llama.cpp may know it.")
    if dims[0] % known.block:
        raise BadModelFile(f"{what} has rows of {dims[0]:,}, not a multiple of {known.name}'s block of {known.block}.")
    return elements, elements // known.block * known.size, known.name


def _padded(offset: int, alignment: int) -> int:
    return (offset + alignment - 1) // alignment * alignment


def _past_end(tensor: str, end: int, size: int) -> str:
    return (
        f"The tensor {tensor!r} ends at byte {end:,}, but the file has {size:,} bytes: it is truncated. "
        "Download it again."
    )
