"""Text as the recognisers see it: disguised characters made plain, with a way back to where they stood."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from dataclasses import dataclass
from itertools import chain


def _plain(char: str) -> str | None:
    """What a character stands for: nothing, one ASCII character, or (None) itself."""
    kind = unicodedata.category(char)
    if kind == "Cf" or char in _MARKS:
        return ""
    if kind == "Zs":
        return " "
    if kind == "Pd":
        return "-"
    if kind == "Nd":
        return str(unicodedata.digit(char))
    same = unicodedata.normalize("NFKC", char)
    return same if same != char and len(same) == 1 and same.isascii() else None


_MARKS = frozenset(
    map(chr, chain(range(0x300, 0x370), range(0x20D0, 0x2100), range(0xFE00, 0xFE10), range(0xE0000, 0xE01F0)))
) | frozenset("\u115f\u1160\u2800\u3164\uffa0")
# Where such characters live: the Han and Hangul blocks between have none, and looking there makes the start slow.
_BLOCKS = chain(
    range(0x80, 0x3100),
    range(0xA600, 0xAC00),
    range(0xFB00, 0x10000),
    range(0x10480, 0x104B0),
    range(0x10D30, 0x10D40),
    range(0x11060, 0x11DB0),
    range(0x1D400, 0x1D800),
    range(0x1F100, 0x1F170),
    range(0x1FBF0, 0x1FBFA),
    range(0xE0000, 0xE01F0),
)
_CONTROLS = "".join(map(chr, (*range(9), 11, 12, *range(14, 32), 127)))
_PLAIN = {char: meant for char in map(chr, _BLOCKS) if (meant := _plain(char)) is not None}
_PLAIN |= {"\u2212": "-", "\u2028": "\n", "\u2029": "\n", "\u3002": ".", "\uff61": ".", "\u2043": "-", "\u30fb": "."}
_PLAIN |= dict.fromkeys(_CONTROLS, "")
# An escape of JSON or C however often escaped, one of Markdown, of a URL, of HTML.
_ESCAPES = (
    r"(?<!\\)\\++(?:u[0-9A-Fa-f]{4}|x[0-9A-Fa-f]{2}|[nrtbf\"/@._+\-])"
    r"|%(?:40|2[0bBdDeEfF]|3[aA])|&\#(?:[0-9]{1,6}|[xX][0-9A-Fa-f]{1,5});"
)


def _set(first: int, last: int) -> str:
    """A regular expression for the characters of that range which are not plain, as few ranges as may be."""
    ranges: list[list[int]] = []
    for code in sorted(ord(char) for char in _PLAIN if first <= ord(char) <= last):
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "[" + "".join(f"{re.escape(chr(low))}-{re.escape(chr(high))}" for low, high in ranges) + "]"


# A set with characters beyond the 16-bit ones is searched one range after the other, others by a table: kept apart.
_SETS = {"ascii": _set(0, 127), "bmp": _set(0, 0xFFFF), "all": f"(?:{_set(0, 0xFFFF)}|{_set(0x10000, 0x10FFFF)})"}
_ODD = {(kind, False): re.compile(chars) for kind, chars in _SETS.items()} | {
    (kind, True): re.compile(rf"(?:{_ESCAPES}|{chars})") for kind, chars in _SETS.items()
}
_ASTRAL = re.compile("[\U00010000-\U0010ffff]")
_LETTERS = {"n": "\n", "r": "\n", "t": " ", "b": " ", "f": " "}


@dataclass(frozen=True, slots=True)
class Plain:
    """A text to search, and where its characters stood in the original.

    Attributes:
        text: without disguises.
        lower: the same in small letters, of the same length.
    """

    text: str
    lower: str
    _starts: tuple[int, ...] = ()
    _origins: tuple[int, ...] = ()
    _widths: tuple[int, ...] = ()

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The place in the original of `text[start:end]` (at least one character)."""
        if not self._starts:
            return start, end
        first = bisect_right(self._starts, start) - 1
        last = bisect_right(self._starts, end - 1) - 1
        return (
            self._origins[first] + start - self._starts[first],
            self._origins[last] + end - 1 - self._starts[last] + self._widths[last],
        )


def plain(text: str) -> Plain:
    """Makes the text plain. Almost every text already is, and then it is not copied."""
    kind = "ascii" if text.isascii() else "all" if _ASTRAL.search(text) else "bmp"
    odd = _ODD[kind, "\\" in text or "%" in text or "&#" in text]
    first = odd.search(text)
    if first is None:
        return Plain(text, _lower(text))
    parts: list[str] = []
    starts, origins, widths = [0], [0], [1]
    length = last = 0
    for match in odd.finditer(text, first.start()):
        start, end = match.span()
        char = _meaning(match[0])
        parts.append(text[last:start])
        parts.append(char)
        length += start - last + len(char)
        last = end
        if end - start == len(char):
            continue  # all stands where it stood
        if char:
            _piece(starts, origins, widths, length - 1, start, end - start)
        _piece(starts, origins, widths, length, end, 1)
    parts.append(text[last:])
    joined = "".join(parts)
    return Plain(joined, _lower(joined), tuple(starts), tuple(origins), tuple(widths))


def _piece(starts: list[int], origins: list[int], widths: list[int], start: int, origin: int, width: int) -> None:
    starts.append(start)
    origins.append(origin)
    widths.append(width)


def _meaning(odd: str) -> str:
    if len(odd) == 1:
        return _PLAIN[odd]
    if odd[0] == "%":
        char = chr(int(odd[1:], 16))
    elif odd[0] == "&":
        code = int(odd[3:-1], 16) if odd[2] in "xX" else int(odd[2:-1])
        char = chr(code) if code < 0x110000 else " "
    else:
        mark = odd.lstrip("\\")
        char = chr(int(mark[1:], 16)) if len(mark) > 1 else _LETTERS.get(mark, mark)
    return _PLAIN.get(char, char)


def _lower(text: str) -> str:
    # This one letter alone becomes two.
    return text.lower() if text.isascii() else text.replace("\u0130", "I").lower()
