"""From bytes to text, where nothing says in which encoding it is."""

from __future__ import annotations

import codecs
import re

SAMPLE_BYTES = 1 << 16
# Of a text's characters; a form feed and an escape (terminal colours) are found in texts.
MOST_CONTROLS = 0.01
_CONTROL_BYTES = bytes(set(range(32)) - {8, 9, 10, 12, 13, 27}) + b"\x7f"
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_NEWLINES = re.compile("\r\n?|\u0085|\u2028")


def looks_like_text(head: bytes) -> bool:
    """Whether these first bytes of a file can be text in any encoding that is in use."""
    if any(head.startswith(bom) for bom, _ in _BOMS) or _wide(head):
        return True
    if b"\x00" in head:
        return False
    return len(head) - len(head.translate(None, _CONTROL_BYTES)) <= MOST_CONTROLS * len(head)


def decode(data: bytes, declared: str | None = None) -> str:
    """With `\\n` at the ends of lines. What cannot be decoded becomes U+FFFD; nothing is raised.

    Args:
        declared: the encoding that the file itself names, if it does.
    """
    return _NEWLINES.sub("\n", _decode(data, declared))


def _decode(data: bytes, declared: str | None) -> str:
    for bom, name in _BOMS:
        if data.startswith(bom):
            return data.decode(name, "replace")
    for candidate in (declared, "utf-8", _wide(data[:SAMPLE_BYTES])):
        if candidate:
            try:
                return data.decode(candidate)
            except (UnicodeError, LookupError):
                continue
    return data.decode(_guess(data), "replace")


def _wide(head: bytes) -> str | None:
    """UTF-16 without a mark: in a text of any language with spaces and line ends, one half of the pairs is often 0."""
    if len(head) < 8:
        return None
    even, odd = head[0::2].count(0), head[1::2].count(0)
    half = len(head) // 2
    for zeros, others, name in ((odd, even, "utf-16-le"), (even, odd, "utf-16-be")):
        if zeros > half * 0.3 and others < half * 0.01:
            return name
    return None


def _guess(data: bytes) -> str:
    """Of a sample around the first byte that is not ASCII: what stands before says nothing."""
    from charset_normalizer import from_bytes

    plain = re.match(rb"[\x00-\x7f]*", data)
    at = max(0, (plain.end() if plain else 0) - 1024)
    best = from_bytes(data[at : at + SAMPLE_BYTES], enable_fallback=False).best()
    if best is None:
        return "cp1252"
    # What is cut off in the midst of the sample's last character is no sign against an encoding that the sample is in.
    return best.encoding if best.encoding != "ascii" else "cp1252"
