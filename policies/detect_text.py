"""Text as the recognisers see it: disguised characters made plain, with a way back to where they stood."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator
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
_ODD = re.compile(f"{_ESCAPES}|[{re.escape(''.join(_PLAIN))}]")
_ODD_ASCII = re.compile(f"{_ESCAPES}|[{re.escape(_CONTROLS)}]")
_CONTROL = re.compile(f"[{re.escape(_CONTROLS)}]")
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
    odd = _first_odd(text)
    if odd is None:
        return Plain(text, _lower(text))
    parts: list[str] = []
    starts, origins, widths = [0], [0], [1]
    length = 0
    for start, end, char in _odds(text, odd):
        parts.append(text[origins[-1] : start])
        length += start - origins[-1]
        if char:
            _piece(starts, origins, widths, length, start, end - start)
            parts.append(char)
            length += 1
        _piece(starts, origins, widths, length, end, 1)
    parts.append(text[origins[-1] :])
    joined = "".join(parts)
    return Plain(joined, _lower(joined), tuple(starts), tuple(origins), tuple(widths))


def _first_odd(text: str) -> re.Match[str] | None:
    if not text.isascii():
        return _ODD.search(text)
    if "\\" in text or "%" in text or "&#" in text:
        return _ODD_ASCII.search(text)
    return _CONTROL.search(text)


def _piece(starts: list[int], origins: list[int], widths: list[int], start: int, origin: int, width: int) -> None:
    starts.append(start)
    origins.append(origin)
    widths.append(width)


def _odds(text: str, first: re.Match[str]) -> Iterator[tuple[int, int, str]]:
    """Start, end and meaning of every odd character or escape."""
    for match in (_ODD_ASCII if text.isascii() else _ODD).finditer(text, first.start()):
        yield match.start(), match.end(), _meaning(match[0])


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
