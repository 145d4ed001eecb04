"""Finds e-mail addresses, phone numbers and IP addresses."""

from __future__ import annotations

import re
from collections.abc import Iterator

from policies.detect_numbers import NEAR, Span
from policies.detect_text import Plain

LOCAL_PART = 128
"""Characters before an @ that are looked at; RFC 5321 allows 64."""

_LABEL = r"[^\W_](?:[\w-]{0,61}[^\W_])?"
_DOMAIN = re.compile(rf"@{_LABEL}(?:\.{_LABEL}){{1,12}}")
_LOCAL = re.compile(r"[\w.+%&'*/=?^{|}~!#$-]*")

_INTERNATIONAL = re.compile(r"\+ ?(?![0-9]+\.[0-9]{1,7}(?![0-9]))\(?[1-9][0-9 ()./\-]{5,28}")
_ZEROS = re.compile(r"00[1-9](?<![\w.,:+\-/]...)[0-9 ()./\-]{7,26}")
_AREA = re.compile(r"\((?:0[1-9][0-9]{1,4}|[1-9][0-9]{1,2})\)[ -]{0,2}[0-9]{2,8}(?:[ ./-]?[0-9]{2,5}){0,3}(?!\w)")
_NATIONAL = re.compile(
    r"[2-9][0-9]{2}(?<![\w.+/:-]...)(?P<s>[ .-])[0-9]{3}(?P=s)[0-9]{4}(?![\w-]|\.[0-9])"
    r"|0[1-9](?<![\w.,+/:-]..)(?P<t>[ .-])[0-9]{2}(?P=t)[0-9]{2}(?P=t)[0-9]{2}(?P=t)[0-9]{2}"
    r"(?!\w|(?:(?P=t)[0-9]{2}){2}\b(?!\.[0-9]))"
    r"|0[1-9](?<![\w.,+/:-]..)[0-9]{1,3}[ /-]{1,3}[0-9]{3,8}(?:[ -][0-9]{1,4}){0,3}(?![\w:-]|\.[0-9])"
)
_CALLED = re.compile(r"[0-9(](?<![\w.].)[0-9 ()./\-]{5,20}[0-9](?!\w)")
_CALLS = re.compile(
    r"(?:tel|tel[eé]fono?|telefoon|telephone|phone|mobile?|handy|fax|cell|call|ring|whatsapp|sms|m[oó]vil|t[eé]l|rufnummer)"
    r"(?:[ _.](?:number|no|nr|num|nummer|me|us|at|on|is))?[\"']?[ :.#=(]{1,4}[\"']?$"
)
_CALLS_SOON = ("phone", "tel", "mobil", "handy", "fax", "cell", "call", "ring", "sms", "vil", "tél", "whatsa", "rufn")
_FORMS = (("+", _INTERNATIONAL, 8, 15), ("(", _AREA, 9, 12), ("00", _ZEROS, 11, 15), ("", _NATIONAL, 9, 12))
"""What must be in the text, what a number then looks like, and how many digits it has at least and at most."""

_DATE = re.compile(r"(?:19|20)[0-9]{2}[-/.][0-9]{2}|[0-9]{1,2}[./-][0-9]{1,2}[./-](?:19|20)[0-9]{2}")

_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_V4_DOT = re.compile(r"\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]")
_V4 = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}(?![A-Za-z0-9_]|\.[0-9])")
_FIRST = re.compile(r"[0-9]{1,3}$")
_VERSION = re.compile(r"(?:version|release|firmware|build|revision|ver|rev|fw|sw)[\"']?[ .:=]{1,3}$")
_V6 = re.compile(r"[0-9A-Fa-f:]{2,45}+(?:\.[0-9]{1,3}){0,3}")
_V6_SOON = re.compile(r":[0-9A-Fa-f]{1,4}:[0-9A-Fa-f]{1,4}:[0-9A-Fa-f]{1,4}:")


def emails(plain: Plain) -> Iterator[Span]:
    """Addresses with a domain of two labels or more."""
    text = plain.text
    for domain in _DOMAIN.finditer(text):
        at, end = domain.span()
        local = _LOCAL.match(text[max(0, at - LOCAL_PART) : at][::-1])
        name = local[0][::-1].lstrip(".+%&'*/=?^{|}~!#$-") if local else ""
        last = domain[0].rpartition(".")[2]
        if name and len(last) > 1 and not last.isdigit():
            yield "email", at - len(name), end


def phones(plain: Plain) -> Iterator[Span]:
    """International numbers, national ones in the forms in which they are written, any beside `tel` and the like."""
    text = plain.text
    for trigger, form, least, most in _FORMS:
        if trigger in text:
            for match in form.finditer(text):
                if (span := _digits(match, least, most)) and not text[max(0, span[0] - 1) : span[0]].isalnum():
                    yield "phone", *span
    if any(word in plain.lower for word in _CALLS_SOON):
        for match in _CALLED.finditer(text):
            beside = _CALLS.search(plain.lower, max(0, match.start() - NEAR), match.start())
            if beside and not _DATE.match(match[0]) and (span := _digits(match, 7, 13)):
                yield "phone", *span


def _digits(match: re.Match[str], least: int, most: int) -> tuple[int, int] | None:
    """Where the number is, without what only looked like its end; None if it has too few or too many digits."""
    text = match[0].rstrip(" ()./-")
    count = sum(map(str.isdigit, text))
    while count > most:
        cut = max(text.rfind(char) for char in " ()./-")
        if cut < 0:
            return None
        text = text[:cut].rstrip(" ()./-")
        count = sum(map(str.isdigit, text))
    return (match.start(), match.start() + len(text)) if count >= least else None


def addresses(plain: Plain) -> Iterator[Span]:
    """IPv4 and IPv6; not version numbers, loopback, netmasks and `0.0.0.0`, which tell nothing of anybody."""
    text = plain.text
    for dot in _V4_DOT.finditer(text):
        first = _FIRST.search(text, max(0, dot.start() - 3), dot.start())
        match = first and _V4.match(text, first.start())
        if match and not match[0].startswith(("0.", "127.", "255.")):
            before = text[max(0, match.start() - 2) : match.start()]
            beside = plain.lower[max(0, match.start() - 16) : match.start()]
            number_before = before[-1:] == "." and before[:1].isdigit()
            if not before[-1:].isalnum() and before[-1:] != "_" and not number_before and not _VERSION.search(beside):
                yield "ip", match.start(), match.end()
    if "::" in text or _V6_SOON.search(text):
        for match in _V6.finditer(text):
            start, address = match.start(), match[0].rstrip(":")
            if _v6(address) and not text[max(0, start - 1) : start].isalnum():
                yield "ip", start, start + len(address)


def _v6(text: str) -> bool:
    """RFC 4291's text forms, but for `::` and `::1`."""
    head, double, tail = text.partition("::")
    if "." in text or "::" in tail or not any(map(str.isdigit, text)) or text == "::1":
        return False
    groups = [group for half in (head, tail) if half for group in half.split(":")]
    if not all(1 <= len(group) <= 4 for group in groups):
        return False
    return 2 <= len(groups) <= 7 if double else len(groups) == 8
