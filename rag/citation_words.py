"""A text's words, as quotes are compared by them: what a writer or a PDF may change is gone, numbers and units are not.

Case, blanks, punctuation, emphasis, typographic quotes, ligatures, wide letters, soft hyphens and hyphens at a line's
end do not count. Signs, decimals, ranges, `≤`, `°`, `%` and the case of short units (`mW` is not `MW`) do. Where a
script has no blanks between words, each of its signs is a word. Linear in the text's length.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

# Thai, Lao, Burmese, Khmer; Japanese, Chinese.
_DENSE: Final = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3041-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff66-\uff9d\U00020000-\U0003ffff"
)
_ACCENTS: Final = "\u0300-\u036f"
_UNSEEN: Final = "\u200b-\u200d\u2060\ufeff"
_L: Final = rf"[^\W_{_DENSE}]"
_NUMBER: Final = (
    r"(?:(?:(?<![^\W_])[-−+±~≈]|[≤≥][ \xa0]?|(?<=[^\n])[<>]=?[ \xa0]?))?"
    r"\d+(?:[.,:/'’]\d+|[-–−]\d+|[ ][-–−][ ]\d+|[\xa0\u2009\u202f]\d{3}(?!\d))*"
)
_UNIT: Final = rf"(?:°[ \xa0]?[CFK]?|[%‰]|[^\W\d_{_DENSE}]{{1,5}}(?:[/·⋅][^\W\d_{_DENSE}]{{1,5}})*)(?!{_L})"
_JOINT: Final = rf"(?:['’ʼ]|_+|[-‐‑\xad](?:[ \t]*\r?\n[ \t]*)?|(?<=\d)\.(?=\d)|[{_UNSEEN}]+)"
_PIECE: Final = re.compile(
    rf"(?P<unit>(?:(?<=\d)|(?<=\d[ \xa0\u202f])){_UNIT})"
    # `3f9a` and `2024a` are one word.
    rf"|(?P<number>{_NUMBER})(?=(?:{_UNIT})?(?!{_L}))"
    rf"|(?P<word>{_L}+(?:{_JOINT}{_L}+|[{_ACCENTS}]+{_L}*)*)"
    rf"|(?P<dense>[{_DENSE}])"
    r"|(?P<sign>[≤≥±×÷°%‰€$£¥≠√+])"
)
_DASHES: Final = str.maketrans({"–": "-", "−": "-", "‐": "-", "‑": "-", "’": "'", "ʼ": "'"})
_GONE: Final = re.compile(rf"[{_UNSEEN}\s]+")
# Between letters a hyphen may be the line's; `P-101` keeps its own.
_HYPHEN: Final = re.compile(r"(?<=[^\W\d_])[-\xad](?=[^\W\d_])|\xad")
_SAME: Final = ("<compat>", "<wide>", "<narrow>", "<noBreak>")
_SHORT_UNIT: Final = 2
_IS_DENSE: Final = re.compile(rf"[{_DENSE}]")
_DENSE_WORD: Final = 0.5
_TELLING_CHARS: Final = 4
_NAME_CHARS: Final = 3
# Longer ones that tell nothing, in English and German.
_EMPTY: Final = frozenset(
    "about also because been before being both cannot could does done each else from have having here into just like "
    "made make many more most much must only other over same shall should some such than that their them then there "
    "these they this those through under until upon used using very want well were what when where whether which while "
    "will with within without would your "
    "aber alle allen aller alles auch beim dann dass deren dessen dich diese diesem diesen dieser dieses doch "
    "durch eine einem einen einer eines haben hatte hier ihre ihrem ihren ihrer jede jeden jeder kann kein "
    "keine keinen können mehr muss müssen nach nicht noch oder ohne schon sehr sein seine seinen seiner selbst "
    "sich sind soll sollte sowie über unter viel wann wenn werden wird wurde wurden zwischen".split()
)


@dataclass(frozen=True, slots=True)
class Words:
    """Of a text, in its order.

    Attributes:
        keys: equal for what counts as the same word.
        starts, ends: in characters of the text.
    """

    keys: Sequence[str]
    starts: Sequence[int]
    ends: Sequence[int]


class Reader:
    """Reads words. Texts on one matter have most of theirs in common, so it keeps what it knows of each: one for a
    comparison, not for longer."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}
        self._units: dict[str, str] = {}

    def words(self, text: str) -> Words:
        """Of a text."""
        found = [(match.lastgroup == "unit", match[0], match.start()) for match in _PIECE.finditer(text)]
        keys = [self._unit(raw) if unit else self._word(raw) for unit, raw, _ in found]
        return Words(keys, [start for _, _, start in found], [start + len(raw) for _, raw, start in found])

    def _word(self, raw: str) -> str:
        key = self._known.get(raw)
        if key is None:
            key = self._known[raw] = _plain(raw).casefold()
        return key

    def _unit(self, raw: str) -> str:
        key = self._units.get(raw)
        if key is None:
            plain = _plain(raw)
            # `mW` and `MW`, `MPa` and `mPa` differ by case alone; `RPM`, `Bar` and `bar` do not differ.
            exact = len(plain) <= _SHORT_UNIT or not (plain.isupper() or plain.islower() or plain.istitle())
            key = self._units[raw] = plain if exact else plain.casefold()
        return key


def weights(key: str) -> tuple[float, float]:
    """How many words it counts as, and how many that tell something: not `of the`, but a number or a longer word. In a
    script without blanks about two signs make a word."""
    if len(key) == 1 and _IS_DENSE.match(key):
        return _DENSE_WORD, 0.0 if "\u3041" <= key <= "\u309f" else _DENSE_WORD
    return 1.0, float(has_digit(key) or (len(key) >= _TELLING_CHARS and key not in _EMPTY and "'" not in key))


def has_digit(key: str) -> bool:
    """Whether it is a number, or a name with one: `E07`."""
    return not key.isalpha() and any(map(str.isdigit, key))


def is_name(key: str) -> bool:
    """Whether it has letters and digits, and is hardly there by chance: `E07`, `libusb-1.0`."""
    return len(key) >= _NAME_CHARS and has_digit(key) and any(map(str.isalpha, key))


def _plain(raw: str) -> str:
    if raw.isascii() and raw.isalnum():
        return raw
    text = raw if raw.isascii() else "".join(map(_compatible, unicodedata.normalize("NFC", raw)))
    return _HYPHEN.sub("", _GONE.sub("", text.translate(_DASHES)))


def _compatible(char: str) -> str:
    """`ﬁ` as `fi`, `Ａ` as `A`; but never `²` as `2`."""
    if unicodedata.decomposition(char).startswith(_SAME):
        return unicodedata.normalize("NFKC", char)
    return char
