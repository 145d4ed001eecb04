"""Finds IBANs, payment cards and national ids: numbers that prove themselves, or that a word beside them names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from policies import checksums
from policies.detect_text import Plain

Named = tuple[tuple[str, ...], Callable[[str], bool]]
Span = tuple[str, int, int]
"""Data class, start and end in the plain text."""

NEAR = 48
"""Characters before a number in which a word may name it."""

_NO_SEPARATORS = {ord(char): None for char in " .\t\n/+-"}
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
# Between two groups of digits of one number. The patterns begin with a digit: the engine then skips all else quickly.
_S = r"[ .\t\n/+\-]{1,3}"


def _sizes(with_named: bool) -> re.Pattern[str]:
    """Where groups of digits begin that are as many, and of such sizes, as those of a card or an id: of one that needs
    no name, or of any. Digit by digit, so that no group is read twice."""
    more = "[0-9]{1,11}+(?![0-9])" if with_named else "[0-9]{3,11}+(?![0-9])"
    eight = rf"[0-9](?:-?[A-Za-z]|{_S}[0-9]{{4}}|{more})"
    six = rf"[0-9]{{2}}(?:[A-FU-Ya-fu-y]|{_S}[0-9]{{3}}|[0-9](?:[ -]?[A-Za-z]|{eight}))"
    after_four = (
        rf"(?:[0-9]{{4}}{_S}[0-9]{{4}}|[0-9]{{3}}{_S}[0-9]{{3}}(?![0-9])"
        rf"|(?:[0-9]{{5,6}}|[0-9]{{8}}){_S}[0-9]{{4}}|[0-9]{{12}}(?![0-9]))"
    )
    four = rf"[0-9](?:(?<=[2-68][0-9]{{3}}){_S}{after_four}|{six})"
    if with_named:
        four = rf"[0-9](?:{_S}(?:{after_four}|[0-9]{{2}}{_S}[0-9]{{3}}(?![0-9]))|{six})"
    three = rf"[0-9](?:{_S}(?:[0-9]{{2}}{_S}[0-9]{{4}}|[0-9]{{3}}{_S}[0-9]{{3}}|[0-9]{{4}}{_S}[0-9]{{4}})|{four})"
    after_two = rf"(?:[0-9]{{2}}{_S}[0-9]{{2}}(?![0-9])|[0-9]{{3}}{_S}[0-9]{{3}}(?![0-9])|[0-9]{{6}}(?![0-9]))"
    one = rf"(?<=[1-478]){_S}[0-9]{{2}}{_S}[0-9]{{2}}(?![0-9])"
    return re.compile(rf"[0-9](?<![0-9].)(?={one}|[0-9](?:{_S}{after_two}|{three}))")


_ALONE, _OR_NAMED = _sizes(False), _sizes(True)
_GROUPS = re.compile(rf"[0-9]++(?:{_S}[0-9]++){{0,4}}")
_BEFORE = "".join(rf"(?<![0-9][ .\t\n/+\-]{{{n}}}.)" for n in range(4))
_ONES_AND_TWOS = re.compile(rf"[0-9]{_BEFORE}[0-9]?(?:{_S}[0-9]{{1,2}}+(?![0-9])){{5,18}}+(?!{_S}[0-9])")
"""A card's digits one by one or two by two: nothing of another size stands among them."""

_BY_NAME = {
    shape: tuple((words, check) for shapes, words, check in _NAMED if shape in shapes)
    for shape in frozenset().union(*(shapes for shapes, _, _ in _NAMED))
}

_NAMES = tuple(word for _, words, _ in _NAMED for word in words)

_START = r"(?<![A-Za-z0-9])"
_AFTER_LETTERS = re.compile(
    r"[0-9](?<![0-9.:/,].)(?:(?<=[A-Za-z].)|(?<=[A-Za-z][ -].))(?:"
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
    for run in _ONES_AND_TWOS.finditer(text):
        if checksums.payment_card(_bare(run[0])):
            yield "payment_card", run.start(), run.end()
    found: list[Span] = []
    # Hardly a text has such a name in it; then nothing is looked for beside its numbers.
    by_name = _BY_NAME if any(word in plain.lower for word in _NAMES) else {}
    for start in (_OR_NAMED if by_name else _ALONE).finditer(text):
        _at(plain, start.start(), by_name, found)
    yield from found


def _at(plain: Plain, start: int, by_name: Mapping[tuple[int, ...], tuple[Named, ...]], found: list[Span]) -> None:
    """What begins with the group of digits there."""
    text = plain.text
    before = text[start - 1] if start else " "
    if before == "." and start > 1 and text[start - 2] in "0123456789":
        return  # the fraction of a decimal number
    together = _GROUPS.match(text, start)
    assert together
    spans = [group.span() for group in _GROUP.finditer(text, start, together.end())]
    sizes = tuple([end - begin for begin, end in spans])
    if shapes := _CARDS.get(text[start]):
        _card(text, spans, sizes, shapes, found)
    if before.isalnum() or before == "_":
        if before not in "XYZxyz":
            if nino := _NINO.match(text, start):
                found.append(("national_id", start - 2, nino.end()))
        elif not text[max(0, start - 2) : start - 1].isalnum() and (nie := _NIE.match(text, start)):
            _checked(text, start - 1, nie.end(), checksums.spanish_dni, found)
        return
    if sizes[0] in _FIRST_SIZES:
        _id(text, start, spans[0][1], before, found)
    for count in (1, 3) if by_name else ():
        if len(sizes) >= count and (named := by_name.get(sizes[:count])):
            _named(plain, start, spans[count - 1][1], named, found)


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


def _card(
    text: str,
    spans: list[tuple[int, int]],
    sizes: tuple[int, ...],
    shapes: frozenset[tuple[int, ...]],
    found: list[Span],
) -> None:
    start, end = spans[0]
    if sizes[0] >= 12:
        if sizes[0] <= 19 and not text[end : end + 1].isalpha() and checksums.payment_card(text[start:end]):
            found.append(("payment_card", start, end))
        return
    for count in range(len(sizes), 1, -1):
        if sizes[:count] in shapes:
            end = spans[count - 1][1]
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
    # In the midst of a word two letters are no country: what follows a codice fiscale's would pass by chance.
    begins = not text[max(0, start - 1) : start].isalnum() or text[max(0, start - 4) : start].lower() == "iban"
    if length and begins and (match := _IBANS[length].match(text, start)) and checksums.iban(_bare(match[0])):
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
