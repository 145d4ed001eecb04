"""Finds IBANs, payment cards and national ids: numbers that prove themselves, or that a word beside them names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import NamedTuple

from policies import checksums
from policies.detect_text import Plain

Named = tuple[tuple[str, ...], Callable[[str], bool]]
Span = tuple[str, int, int]
"""Data class, start and end in the plain text."""

NEAR = 48
"""Characters before a number in which a word may name it."""

CHUNK, OVERLAP = 1024, 24
"""Groups of digits that are held at once, and of them those that may begin a number which the next ones end."""

_NO_SEPARATORS = {ord(char): None for char in " .\t\n/+-"}
# The patterns begin with a digit: the regex engine then skips all else quickly.
_RUN = re.compile(r"[0-9](?:[ .\t\n/+\-]{0,3}[0-9]){5,}+")
_GROUP = re.compile(r"[0-9]++")
_CARD_SHAPES = frozenset(
    {(4, 4, 4, 4), (4, 4, 4, 4, 3), (4, 4, 4, 4, 2), (4, 4, 4, 4, 1), (4, 4, 4, 3), (4, 4, 4, 2), (4, 4, 4, 1)}
    | {(4, 4, 4), (4, 4, 5), (4, 3, 3, 3), (4, 6, 5), (4, 6, 4), (4, 5, 6), (4, 12), (8, 8), (4, 4, 8), (4, 8, 4)}
    | {(6, rest) for rest in range(6, 14)}
)
"""How people group a card's digits; besides not at all, and in ones or twos throughout."""

_CARD_LENGTHS = {"2": range(16, 20), "3": range(14, 20), "4": (13, 16, 19), "5": range(12, 20), "6": range(12, 20)}
_CARDS = {
    first: frozenset(shape for shape in _CARD_SHAPES if sum(shape) in lengths)
    for first, lengths in (_CARD_LENGTHS | {"8": range(16, 20)}).items()
}
_NO_SHAPES: frozenset[tuple[int, ...]] = frozenset()
"""The same by a card's first digit: no issuer has every length."""

_END = r"(?![A-Za-z0-9])"
_IDS: tuple[tuple[str, Callable[[str], bool]], ...] = (
    (r"[0-9]{3}(?P<a>[ -])[0-9]{2}(?P=a)[0-9]{4}", checksums.american_ssn),
    (r"[0-9]{3}[ .][0-9]{3}[ .][0-9]{3}[ /-][0-9]{2}", checksums.brazilian_cpf),
    (r"[0-9]{2}[ -][0-9]{3}[ -][0-9]{3}[ -][0-9]{3}", checksums.german_tax_id),
    (
        r"[1-478](?P<b>[ .-]?)[0-9]{2}(?P=b)[0-9]{2}(?P=b)[0-9][0-9ABab](?P=b)[0-9]{3}(?P=b)[0-9]{3}[ .-]?[0-9]{2}",
        checksums.french_nir,
    ),
    (
        r"(?:(?:18|19|20)[0-9]{2}|[0-9]{2})[0-9]{4}[+-][0-9]{4}",
        lambda text: checksums.swedish(text[-10:]) or checksums.finnish(text),
    ),
    (r"[0-9]{2}[. ][0-9]{2}[. ][0-9]{2}[ -][0-9]{3}[. -][0-9]{2}", checksums.belgian),
    (r"756(?P<c>[ .-])[0-9]{4}(?P=c)[0-9]{4}(?P=c)[0-9]{2}", checksums.swiss_ahv),
    (r"[0-9]{6}[ -][0-9]{5}", checksums.norwegian),
    (r"[0-9]{2}(?P<d>[ -]?)[0-9]{6}(?P=d)[A-Za-z](?P=d)[0-9]{2}[ -]?[0-9]", checksums.german_insurance),
    (r"(?:[0-9]{8}|[0-9]{2}\.[0-9]{3}\.[0-9]{3})-?[A-Za-z]", checksums.spanish_dni),
    (
        r"[0-9]{6}(?:[A-FU-Ya-fu-y]|[+-])[0-9]{3}[0-9A-FHJ-NPR-Ya-fhj-npr-y]",
        lambda text: checksums.finnish(text[:6] + text[-4:]),
    ),
)
_GROUPED = re.compile("(?:" + "|".join(f"(?P<i{i}>{pattern})" for i, (pattern, _) in enumerate(_IDS)) + f"){_END}")
_GROUPED_CHECKS = {f"i{i}": check for i, (_, check) in enumerate(_IDS)}
_NIE = re.compile(rf"[0-9]{{7}}[ -]?[A-Za-z]{_END}")
_NINO = re.compile(
    rf"(?<=[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z])[0-9]{{6}}[A-D]{_END}"
    rf"|(?<=[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] )[0-9]{{2}} [0-9]{{2}} [0-9]{{2}} ?[A-D]{_END}"
)
_FIRST_SIZES = frozenset({1, 2, 3, 6, 7, 8, 13, *checksums.BY_LENGTH})
"""How many digits the first group of an id has that needs no name."""

_NAMED: tuple[tuple[frozenset[tuple[int, ...]], tuple[str, ...], Callable[[str], bool]], ...] = (
    (frozenset({(9,), (4, 2, 3), (3, 3, 3)}), ("bsn", "burgerservice", "sofinummer"), checksums.dutch_bsn),
    (frozenset({(9,)}), ("ssn", "social security", "social_security"), checksums.american_ssn),
    (frozenset({(10,), (3, 3, 4)}), ("nhs",), checksums.british_nhs),
    (
        frozenset({(10,), (12,)}),
        ("personnummer", "personnr", "personal number", "samordning"),
        lambda text: checksums.swedish(text[-10:]),
    ),
)
_ALONE = frozenset({6, 7, 8})
_PAIRS = frozenset(
    {(1, 2), (2, 2), (2, 3), (2, 6), (3, 2), (3, 3), (3, 4), (4, 2), (4, 3), (4, 4), (4, 5), (4, 6), (4, 8), (4, 12)}
)
"""How many digits the first group of something has alone, or the first two."""

_BY_NAME = {
    shape: tuple((words, check) for shapes, words, check in _NAMED if shape in shapes)
    for shape in frozenset().union(*(shapes for shapes, _, _ in _NAMED))
}

_NAMES = tuple(word for _, words, _ in _NAMED for word in words)

_START = r"(?<![A-Za-z0-9])"
_AFTER_LETTERS = re.compile(
    r"[0-9](?<![0-9.:/,].)(?:"
    rf"(?:(?<={_START}[A-Za-z]{{2}}.)|(?<={_START}[A-Za-z]{{2}}[ -].)|(?<=[Ii][Bb][Aa][Nn][A-Za-z]{{2}}.))[ -]?[0-9]"
    r"|(?:(?<=[A-Za-z]{3}.)|(?<=[A-Za-z]{3} .))[0-9L-NP-Vl-np-v][A-EHLMPRSTa-ehlmprst])"
)
_IBANS = {
    length: re.compile(rf"[A-Za-z]{{2}}[ -]?[0-9](?:[ .\t\n\-]{{0,3}}+[A-Za-z0-9]){{{length - 3}}}")
    for length in frozenset(checksums.IBAN_LENGTHS.values())
}
_N = "[0-9LMNPQRSTUVlmnpqrstuv]"
_CF_TAIL = rf"{_N}{{2}}[A-EHLMPRSTa-ehlmprst]{_N}{{2}} ?[A-Za-z]{_N}{{3}}[A-Za-z]{_END}"
_CF = re.compile(_CF_TAIL)
_CF_LETTERS = re.compile(rf"[A-Z](?<![A-Za-z0-9].)[A-Z]{{2}} ?[A-Z]{{3}} ?(?=[LMNPQRSTUV])({_CF_TAIL})")
_CF_HEAD = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{3} ?[A-Za-z]{3} ?$")


def letters(plain: Plain) -> Iterator[Span]:
    """The one id that may be all letters: a codice fiscale whose digits were replaced, another's being the same."""
    for match in _CF_LETTERS.finditer(plain.text):
        if checksums.italian_tax_code(_bare(match[0])):
            yield "national_id", match.start(), match.end()


def numbers(plain: Plain) -> Iterator[Span]:
    """IBANs, payment cards and national ids, as they come; they may overlap."""
    text = plain.text
    for match in _AFTER_LETTERS.finditer(text):
        yield from _after_letters(text, match.start())
    yield from letters(plain)
    found: list[Span] = []
    # Hardly a text has such a name in it; then nothing is looked for beside its numbers.
    by_name = _BY_NAME if any(word in plain.lower for word in _NAMES) else {}
    for run in _RUN.finditer(text):
        start, more = run.start(), True
        while more:
            spans = [group.span() for group in islice(_GROUP.finditer(text, start, run.end()), CHUNK)]
            more = len(spans) == CHUNK
            sizes = [end - begin for begin, end in spans]
            groups = Groups(spans, sizes, by_name)
            if sizes[0] <= 2:
                _card(text, groups, 0, _NO_SHAPES, found)
            for i, pair in enumerate(zip(sizes[: CHUNK - OVERLAP] if more else sizes, [*sizes[1:], 0], strict=False)):
                if pair[0] in _ALONE or pair[0] > 8 or pair in _PAIRS:
                    _at(plain, groups, i, found)
            start = spans[-OVERLAP][0] if more else 0
    yield from found


class Groups(NamedTuple):
    """Some groups of digits of a run: where they are, how many digits each has, and what a name may make of them."""

    spans: list[tuple[int, int]]
    sizes: list[int]
    by_name: Mapping[tuple[int, ...], tuple[Named, ...]]


def _at(plain: Plain, groups: Groups, i: int, found: list[Span]) -> None:
    """What begins with the i-th group of digits of a run."""
    text, (start, end), size = plain.text, groups.spans[i], groups.sizes[i]
    before = text[start - 1] if start else " "
    if before == "." and start > 1 and text[start - 2] in "0123456789":
        return  # the fraction of a decimal number
    if shapes := _CARDS.get(text[start]):
        _card(text, groups, i, shapes, found)
    if before.isalnum() or before == "_":
        if before not in "XYZxyz":
            if nino := _NINO.match(text, start):
                found.append(("national_id", start - 2, nino.end()))
        elif not text[max(0, start - 2) : start - 1].isalnum() and (nie := _NIE.match(text, start)):
            _checked(text, start - 1, nie.end(), checksums.spanish_dni, found)
        return
    if size in _FIRST_SIZES:
        _id(text, start, end, before, found)
    for count in (1, 3) if groups.by_name else ():
        shape = tuple(groups.sizes[i : i + count])
        if len(shape) == count and (named := groups.by_name.get(shape)):
            _named(plain, start, groups.spans[i + count - 1][1], named, found)


def _id(text: str, start: int, end: int, before: str, found: list[Span]) -> None:
    """A national id that needs no name, and whose first group of digits is there."""
    size = end - start
    checks = () if text[end : end + 1].isalnum() else checksums.BY_LENGTH.get(size, ())
    if any(check(text[start:end]) for check in checks):
        found.append(("national_id", start, end))
    elif match := _GROUPED.match(text, start):
        _checked(text, start, match.end(), _GROUPED_CHECKS[match.lastgroup or ""], found)
    if size == 2 and before == " " and (nino := _NINO.match(text, start)):
        found.append(("national_id", start - 3, nino.end()))
    foreign = size == 7 and before in " -" and text[max(0, start - 2) : start - 1] in ("X", "Y", "Z")
    if foreign and (nie := _NIE.match(text, start)):
        _checked(text, start - 2, nie.end(), checksums.spanish_dni, found)


def _card(text: str, groups: Groups, i: int, shapes: frozenset[tuple[int, ...]], found: list[Span]) -> None:
    spans, size = groups.spans, groups.sizes[i]
    start, end = spans[i]
    if size >= 12:
        if size <= 19 and not text[end : end + 1].isalpha() and checksums.payment_card(text[start:end]):
            found.append(("payment_card", start, end))
    elif size > 2:
        sizes = groups.sizes[i : i + 5]
        for count in range(len(sizes), 1, -1):
            if tuple(sizes[:count]) in shapes:
                end = spans[i + count - 1][1]
                if checksums.payment_card(_bare(text[start:end])):
                    found.append(("payment_card", start, end))
    elif i == 0 and 6 <= len(spans) <= 19 and set(groups.sizes) <= {1, 2}:
        end = spans[-1][1]
        if checksums.payment_card(_bare(text[start:end])):
            found.append(("payment_card", start, end))


def _named(plain: Plain, start: int, end: int, named: tuple[Named, ...], found: list[Span]) -> None:
    if not plain.text[end : end + 1].isalnum():
        beside = plain.lower[max(0, start - NEAR) : start]
        for words, check in named:
            if any(word in beside for word in words):
                _checked(plain.text, start, end, check, found)


def _after_letters(text: str, digit: int) -> Iterator[Span]:
    """An IBAN or a codice fiscale whose first digit is there."""
    start = digit - (3 if text[digit - 1] in " -" else 2)
    length = checksums.IBAN_LENGTHS.get(text[start : start + 2].upper())
    if length and (match := _IBANS[length].match(text, start)) and checksums.iban(_bare(match[0])):
        yield "iban", start, match.end()
    tail = _CF.match(text, digit)
    head = tail and _CF_HEAD.search(text[max(0, digit - 9) : digit])
    if tail and head and checksums.italian_tax_code(_bare(head[0] + tail[0])):
        yield "national_id", digit - len(head[0]), tail.end()


def _checked(text: str, start: int, end: int, check: Callable[[str], bool], found: list[Span]) -> None:
    if check(_bare(text[start:end])):
        found.append(("national_id", start, end))


def _bare(text: str) -> str:
    """Letters and digits alone, in capitals."""
    return text.translate(_NO_SEPARATORS).upper()
