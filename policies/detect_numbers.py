"""Finds IBANs, payment cards and national ids: numbers that prove themselves, or that a word beside them names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import islice

from policies import checksums
from policies.detect_text import Plain

Span = tuple[str, int, int]
"""Data class, start and end in the plain text."""

NEAR = 48
"""Characters before a number in which a word may name it."""

CHUNK, OVERLAP = 1024, 24
"""Groups of digits that are held at once, and of them those that may begin a number which the next ones end."""

# The patterns begin with a digit: the regex engine then skips all else quickly.
_RUN = re.compile(r"[0-9](?:[ .\t\n/+\-]{0,3}[0-9]){5,}+")
_GROUP = re.compile(r"[0-9]++")
_CARD_SHAPES = frozenset(
    {(4, 4, 4, 4), (4, 4, 4, 4, 3), (4, 4, 4, 4, 2), (4, 4, 4, 4, 1), (4, 4, 4, 3), (4, 4, 4, 2), (4, 4, 4, 1)}
    | {(4, 4, 4), (4, 4, 5), (4, 3, 3, 3), (4, 6, 5), (4, 6, 4), (4, 5, 6), (4, 12), (8, 8), (4, 4, 8), (4, 8, 4)}
    | {(6, rest) for rest in range(6, 14)}
)
"""How people group a card's digits; besides not at all, and in ones or twos throughout."""

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
    | {(1, 1)}
)
"""How many digits the first group of something has alone, or the first two."""

_NAMED_SIZES = frozenset(size for shapes, _, _ in _NAMED for size in [shape[0] for shape in shapes])

_START = r"(?<![A-Za-z0-9])"
_AFTER_LETTERS = re.compile(
    r"[0-9](?<![0-9.:/,].)(?:"
    rf"(?:(?<={_START}[A-Za-z]{{2}}.)|(?<={_START}[A-Za-z]{{2}}[ -].)|(?<=[Ii][Bb][Aa][Nn][A-Za-z]{{2}}.))[ -]?[0-9]"
    r"|(?:(?<=[A-Za-z]{3}.)|(?<=[A-Za-z]{3} .))[0-9L-NP-Vl-np-v][A-EHLMPRSTa-ehlmprst])"
)
_ALNUM = re.compile(r"[ .\t\n\-]{0,3}([A-Za-z0-9])")
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
    for run in _RUN.finditer(text):
        start, more = run.start(), True
        while more:
            groups = [group.span() for group in islice(_GROUP.finditer(text, start, run.end()), CHUNK)]
            more = len(groups) == CHUNK
            sizes = [end - begin for begin, end in groups]
            sizes.append(0)
            for i in range(CHUNK - OVERLAP if more else len(groups)):
                if sizes[i] in _ALONE or (sizes[i], sizes[i + 1]) in _PAIRS or sizes[i] > 8:
                    yield from _at(plain, groups, sizes, i)
            start = groups[-OVERLAP][0] if more else 0


def _at(plain: Plain, groups: list[tuple[int, int]], sizes: list[int], i: int) -> Iterator[Span]:
    """What begins with the i-th group of digits of a run."""
    text, (start, end), size = plain.text, groups[i], sizes[i]
    before = text[start - 1] if start else " "
    if before == "." and start > 1 and text[start - 2] in "0123456789":
        return  # the fraction of a decimal number
    if text[start] in "234568" or text[start : start + 4] == "0604":
        yield from _card(text, groups, sizes, i)
    if before.isalnum() or before == "_":
        if (
            before in "XYZxyz"
            and (nie := _NIE.match(text, start))
            and not text[max(0, start - 2) : start - 1].isalnum()
        ):
            yield from _checked(text, start - 1, nie.end(), checksums.spanish_dni)
        elif nino := _NINO.match(text, start):
            yield "national_id", start - 2, nino.end()
        return
    if 11 <= size <= 15 and not text[end : end + 1].isalnum():
        if any(check(text[start:end]) for check in checksums.BY_LENGTH.get(size, ())):
            yield "national_id", start, end
    elif (size < 10 or size == 12 or size == 13) and (match := _GROUPED.match(text, start)):
        yield from _checked(text, start, match.end(), _GROUPED_CHECKS[match.lastgroup or ""])
    if size == 2 and before == " " and (nino := _NINO.match(text, start)):
        yield "national_id", start - 3, nino.end()
    if (
        size == 7
        and before in " -"
        and text[max(0, start - 2) : start - 1] in ("X", "Y", "Z")
        and (nie := _NIE.match(text, start))
    ):
        yield from _checked(text, start - 2, nie.end(), checksums.spanish_dni)
    if size in _NAMED_SIZES:
        yield from _named(plain, groups, sizes, i)


def _card(text: str, groups: list[tuple[int, int]], sizes: list[int], i: int) -> Iterator[Span]:
    start, end = groups[i]
    size = sizes[i]
    if size >= 12:
        if size <= 19 and not text[end : end + 1].isalpha() and checksums.payment_card(text[start:end]):
            yield "payment_card", start, end
    elif size in (4, 6, 8):
        for count in (5, 4, 3, 2):
            if tuple(sizes[i : i + count]) in _CARD_SHAPES and len(groups) >= i + count:
                end = groups[i + count - 1][1]
                if checksums.payment_card(_bare(text[start:end])):
                    yield "payment_card", start, end
    elif size <= 2 and i == 0 and 6 <= len(groups) <= 19 and len(set(sizes)) == 2:
        end = groups[-1][1]
        if checksums.payment_card(_bare(text[start:end])):
            yield "payment_card", start, end


def _named(plain: Plain, groups: list[tuple[int, int]], sizes: list[int], i: int) -> Iterator[Span]:
    start = groups[i][0]
    for shapes, words, check in _NAMED:
        for count in (1, 3):
            if len(groups) >= i + count and tuple(sizes[i : i + count]) in shapes:
                end = groups[i + count - 1][1]
                beside = plain.lower[max(0, start - NEAR) : start]
                if not plain.text[end : end + 1].isalnum() and any(word in beside for word in words):
                    yield from _checked(plain.text, start, end, check)


def _after_letters(text: str, digit: int) -> Iterator[Span]:
    """An IBAN or a codice fiscale whose first digit is there."""
    start = digit - (3 if text[digit - 1] in " -" else 2)
    length = checksums.IBAN_LENGTHS.get(text[start : start + 2].upper())
    if length:
        end = start
        chars: list[str] = []
        while len(chars) < length and (match := _ALNUM.match(text, end)):
            chars.append(match[1])
            end = match.end()
        if checksums.iban("".join(chars).upper()):
            yield "iban", start, end
    tail = _CF.match(text, digit)
    if tail and (head := _CF_HEAD.search(text[max(0, digit - 9) : digit])):
        yield from _checked(text, digit - len(head[0]), tail.end(), checksums.italian_tax_code)


def _checked(text: str, start: int, end: int, check: Callable[[str], bool]) -> Iterator[Span]:
    if check(_bare(text[start:end])):
        yield "national_id", start, end


def _bare(text: str) -> str:
    """Letters and digits alone, in capitals."""
    return "".join([char for char in text if char.isalnum()]).upper()
