"""Finds personal data and secrets in a text and in a body: docs/privacy.md. Pure; linear in the length."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from policies.detect_body import MEDIA, Said, literals, said_in
from policies.detect_contacts import addresses, emails, phones
from policies.detect_custom import compiled, matches
from policies.detect_given import Given
from policies.detect_numbers import Span, letters, numbers
from policies.detect_secrets import named, secrets
from policies.detect_text import plain

BUILT_IN = ("secret", "payment_card", "iban", "national_id", "email", "phone", "ip")
"""The most severe first: where two findings overlap, that is what both together are called."""

LARGE = 1024
LONGEST_CLEAN = 8192
MOST_CLEAN = 256

_NUMBERS = frozenset({"payment_card", "iban", "national_id", "phone"})
_DIGIT = re.compile("[0-9]")
_KEY = re.compile(r"[A-Za-z0-9_ .\-]{2,64}")


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """A value of a data class at `text[start:end]`."""

    start: int
    end: int
    cls: str


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
