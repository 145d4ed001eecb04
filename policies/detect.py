"""Finds personal data and secrets in a text and in a body: docs/privacy.md. Pure; linear in the length."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from policies.detect_contacts import addresses, emails, phones
from policies.detect_custom import compiled, matches
from policies.detect_given import Given
from policies.detect_numbers import Span, letters, numbers
from policies.detect_secrets import named, secrets
from policies.detect_text import plain

MEDIA = "media"
"""What cannot be searched: images, sound, files, and prompts given as token ids."""

BUILT_IN = ("secret", "payment_card", "iban", "national_id", "email", "phone", "ip")
"""The most severe first: where two findings overlap, that is what both together are called."""

NESTED = 8
"""JSON in a string in JSON, so deep is looked into; below, escapes are still read as what they stand for."""

MEDIA_TYPES = frozenset({"image_url", "input_audio", "file", "input_image", "input_file", "video_url", "audio_url"})
LITERAL = re.compile(r'(?P<literal>"(?P<body>(?:[^"\\]++|\\.)*+)(?:"|(?P<cut>\\?\Z)))(?P<colon>\s*+:)?', re.DOTALL)
"""A string of JSON, and the colon that makes it a key. One that was cut off goes on to the end: were it no string, each
quotation mark in it would be tried as the beginning of one."""

NAME = "\0"
"""What a name in a body stands under: no name of its own."""

STRUCTURAL = frozenset({NAME, "role", "type", "model", "object", "format", "detail", "tool_choice", "reasoning_effort"})
LARGE = 1024
LONGEST_CLEAN = 8192
CUT_ESCAPE = 12
"""More characters than two halves of a character take as escapes (`\\ud83d\\udd1`), the second cut off."""

MOST_CLEAN = 256

_NUMBERS = frozenset({"payment_card", "iban", "national_id", "phone"})
_DIGIT = re.compile("[0-9]")
_KEY = re.compile(r"[A-Za-z0-9_ .\-]{2,64}")
_DATA_URL = re.compile(r"data:[\w.+-]*+(?:/[\w.+-]*+)?(?:;(?!base64,)[\w.+=-]*+)*+;base64,")
_BASE64 = re.compile(r"[A-Za-z0-9+/_\-]{256,}+={0,2}\s*")


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """A value of a data class at `text[start:end]`."""

    start: int
    end: int
    cls: str


class Said(NamedTuple):
    """A string or whole number of a body, and the key that it stands under, if it does."""

    text: str
    key: str = ""


class Clean:
    """Strings in which nothing was found of late. A conversation brings all that was said before with every turn, and
    a kiosk the same system prompt all day: what was clean is not searched again.

    Two sets in turns: as cheap as one, and what was not seen for a while is forgotten. Threads may share it.
    """

    __slots__ = ("_before", "_now")

    def __init__(self) -> None:
        self._now: set[Said] = set()
        self._before: set[Said] = set()

    def __contains__(self, said: Said) -> bool:
        if said in self._now:
            return True
        if said not in self._before:
            return False
        self.add(said)
        return True

    def add(self, said: Said) -> None:
        """It was searched, and nothing found."""
        if len(said.text) > LONGEST_CLEAN:
            return
        if len(self._now) >= MOST_CLEAN:
            self._before, self._now = self._now, set()
        self._now.add(said)


class Detector:
    """Compiled once, never changed; safe to share.

    Args:
        custom: data classes of the operator's own and their regular expressions. One of a built-in class's name adds
            to that class.
        given: classes whose values are told for each request (`also`).

    Raises:
        ValueError: an expression that does not compile or may run for ever; the message names its class.
    """

    __slots__ = ("_clean", "_custom", "_given", "_rank", "findable")

    findable: frozenset[str]
    """The classes that `find` can find, so that they can be redacted."""

    def __init__(self, custom: Mapping[str, str] | None = None, given: Iterable[str] = ()) -> None:
        custom = custom or {}
        if reserved := {MEDIA, "default"} & set(custom):
            raise ValueError(f"the data class {min(reserved)!r} is built in: give yours another name")
        self._custom = tuple((name, compiled(name, pattern)) for name, pattern in custom.items())
        ranked = (*BUILT_IN[:4], *(name for name in custom if name not in BUILT_IN), *BUILT_IN[4:])
        ranked += tuple(name for name in given if name not in ranked)
        self._rank = {name: rank for rank, name in enumerate(ranked)}
        self.findable = frozenset(ranked)
        self._clean = Clean()
        self._given: tuple[Given, ...] = ()

    def also(self, cls: str, values: Iterable[str]) -> Detector:
        """One that finds these strings too, as whole words, wherever they stand. This one stays as it is."""
        values = tuple(values)
        if not values:
            return self
        other = Detector.__new__(Detector)
        other._custom, other._rank, other.findable = self._custom, self._rank, self.findable
        other._given = (*self._given, Given.of(cls, values))
        other._clean = Clean()  # what is clean for this one may hold one of them
        return other

    def find(self, text: str, classes: Iterable[str] | None = None, key: str = "") -> list[Finding]:
        """Where values of these classes (default: all) stand in the text, in order.

        Overlapping values are one finding that covers them all, called after the most severe of them.

        Args:
            key: what the text is called; `password` makes a secret of what nobody would take for one alone.
        """
        wanted = self.findable if classes is None else frozenset(classes)
        spans = [span for span in self._spans(text, key, wanted) if span[0] in wanted]
        return _merged(spans, self._rank) if spans else []

    def classes(self, raw: Mapping[str, Any]) -> frozenset[str]:
        """The classes of all values anywhere in a JSON body: keys, strings, whole numbers, JSON within strings."""
        return self.among(raw, self.findable)

    def among(self, raw: Mapping[str, Any], wanted: frozenset[str]) -> frozenset[str]:
        """Those of these classes (and `media`) that are in it, which are found sooner than all."""
        found: set[str] = set()
        for said in said_in(raw, found):
            if said in self._clean:
                continue
            spans = self._spans(said.text, said.key, wanted)
            for inner in self._unseen(said.text):
                spans += self._spans(inner.text, inner.key, wanted)
            if spans:
                found.update(span[0] for span in spans)
            elif wanted == self.findable:
                self._clean.add(said)
        return frozenset(found) & {*wanted, MEDIA}

    def _unseen(self, text: str) -> Iterator[Said]:
        """The string literals of a text that looks like JSON, but for large ones that read no otherwise than within it.

        JSON in a string in JSON, eight deep, would be searched nine times over. The operator's own expressions may
        ask for the beginning of a text: with those, all are searched.
        """
        large = len(text) if self._custom else max(LARGE, len(text) // 16)
        seen = ""
        for said in literals(text):
            if len(said.text) > large and not (said.key and named(said.key, said.text)):
                seen = seen or plain(text).text
                if plain(said.text).text in seen:
                    continue
            yield said

    def _spans(self, text: str, key: str, wanted: frozenset[str]) -> list[Span]:
        """All values of these classes (and some others), overlapping ones too, by their places in the original text."""
        before = f"{key}: " if key and _KEY.fullmatch(key) else ""
        seen = plain(before + text)
        # What is part of a secret is no address, what is part of an IBAN no other number: `_own`.
        with_secrets = "secret" in wanted or "email" in wanted
        with_numbers = not _NUMBERS.isdisjoint(wanted)
        spans = [*secrets(seen), *emails(seen)] if with_secrets else []
        if not _DIGIT.search(seen.text):  # in most texts, and then most of the search is over
            spans += letters(seen) if with_numbers else ()
        else:
            spans += addresses(seen) if "ip" in wanted else ()
            spans += [*phones(seen), *numbers(seen)] if with_numbers else ()
        for name, regex in self._custom:
            if name in wanted or name in ("secret", "iban"):
                spans.extend(matches(name, regex, seen))
        for given in self._given:
            if given.cls in wanted:
                spans.extend(given.find(seen))
        if key and with_secrets and named(key, text):
            spans.append(("secret", len(plain(before).text), len(seen.text)))
        if not spans:
            return spans
        shift = len(before)
        placed = [(cls, *seen.span(start, end)) for cls, start, end in _own(spans, seen.text)]
        return [(cls, max(0, start - shift), end - shift) for cls, start, end in placed if end > shift]


def said_in(raw: Any, opaque: set[str], media: bool = False) -> Iterator[Said]:
    """Every string and whole number of a body, or of a part of it that is in a picture, sound or a file (`media`).

    Adds `media` to `opaque` where something cannot be searched.
    """
    waiting: list[tuple[Any, str, bool]] = [(raw, "", media)]
    while waiting:
        value, key, media = waiting.pop()
        if isinstance(value, str):
            if value.startswith("data:") and (head := _DATA_URL.match(value)):
                opaque.add(MEDIA)
                value, media = value[head.end() :], True
            if not media or len(value) < 256 or not _BASE64.fullmatch(value):
                yield Said(value, key)
        elif isinstance(value, dict):
            if is_media(value):
                opaque.add(MEDIA)
                media = True
            for name, item in value.items():
                yield Said(name, NAME)
                waiting.append((item, name, media))
        elif isinstance(value, list | tuple):
            if key == "prompt" and any(not isinstance(item, str) for item in value):
                opaque.add(MEDIA)
            waiting.extend((item, key, media) for item in value)
        elif isinstance(value, int | float) and not isinstance(value, bool) and abs(value) >= 10_000_000:
            yield from _whole(abs(value), key)
        elif value is not None and not isinstance(value, bool | int | float):
            raise TypeError(f"no JSON: {type(value).__name__}")  # what is not looked into must not pass for clean


def is_media(value: Mapping[str, Any]) -> bool:
    """Whether it is a part of a message that holds a picture, sound or a file."""
    kind = value.get("type")  # in the schema of a tool it may be a list of types
    return isinstance(kind, str) and kind in MEDIA_TYPES


def _whole(value: float, key: str) -> Iterator[Said]:
    if value == value // 1:
        yield Said(str(int(value)), key)


def is_json(text: str) -> bool:
    """Whether it might be JSON: tool arguments, a tool's result."""
    return text.lstrip()[:1] in ("{", "[", '"')


def literals(text: str, depth: int = 0) -> Iterator[Said]:
    """What the string literals with escapes stand for in a text that looks like JSON, and the literals in those."""
    if depth == NESTED or "\\" not in text or not is_json(text):
        return
    key = ""
    for match in LITERAL.finditer(text):
        escaped = "\\" in match["body"]
        inner = _said_by(match) if escaped else match["body"]
        if inner is None:
            continue
        if escaped:
            yield Said(inner, "" if match["colon"] else key)
            yield from literals(inner, depth + 1)
        key = inner if match["colon"] else ""


def _said_by(match: re.Match[str]) -> str | None:
    """The text of a literal that `LITERAL` found; of one that was cut off, as much as there is."""
    if match["cut"] is None:
        return decoded(match["literal"])
    body = match["body"]
    ends = range(len(body), max(0, len(body) - CUT_ESCAPE), -1)
    return next((text for end in ends if (text := decoded(f'"{body[:end]}"')) is not None), None)


def decoded(literal: str) -> str | None:
    """The text of a JSON string literal; None if it is none."""
    try:
        return str(orjson.loads(literal))
    except orjson.JSONDecodeError:
        return None


def _own(spans: list[Span], text: str) -> list[Span]:
    """Without the numbers that an IBAN is made of, and the address that a URL's password and host look like."""
    ibans = [(start, end) for cls, start, end in spans if cls == "iban"]
    passwords = {end for cls, _, end in spans if cls == "secret" and text[end : end + 1] == "@"}
    if not ibans and not passwords:
        return spans
    starts = [start for start, _ in ibans]
    kept = []
    for cls, start, end in spans:
        if cls in ("payment_card", "national_id", "phone"):
            before = bisect_right(starts, start) - 1
            if before >= 0 and end <= ibans[before][1]:
                continue
        elif cls == "email" and passwords and text.find("@", start) in passwords:
            continue
        kept.append((cls, start, end))
    return kept


def _merged(spans: list[Span], rank: Mapping[str, int]) -> list[Finding]:
    spans.sort(key=lambda span: (span[1], -span[2]))
    merged: list[Finding] = []
    cls, start, end = spans[0]
    longest = end - start
    for other, begin, stop in spans[1:]:
        if begin >= end:
            merged.append(Finding(start, end, cls))
            cls, start, end, longest = other, begin, stop, stop - begin
            continue
        if (rank[other], longest - (stop - begin)) < (rank[cls], 0):
            cls, longest = other, stop - begin
        end = max(end, stop)
    merged.append(Finding(start, end, cls))
    return merged
