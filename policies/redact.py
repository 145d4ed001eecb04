"""Replaces values of data classes in a request by placeholders. Pure. `policies/restore.py` puts them back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from policies.detect import Detector
from policies.detect_body import LITERAL, NESTED, decoded, is_json, is_media, said_in

DEEPEST = 200
"""Levels of a body; a deeper one is not sent."""

STRUCTURE = frozenset(
    "model role type id name object tool_call_id url file_id data file_data format $ref pattern required".split()
)
"""Fields in which a placeholder would break the request: a value in one of them cannot be redacted."""

PLACEHOLDER = re.compile(r"\[[A-Za-z][A-Za-z0-9_]{0,40}_[0-9]{1,9}\]")
NEUTRAL = "\ufffc"
"""Stands for a placeholder when the result is searched: nothing can be found in it."""


class CannotRedact(ValueError):
    """The request must not be sent: a value of these classes cannot be taken out of it. The message names no value."""


@dataclass(frozen=True, slots=True)
class Redacted:
    """A body that may be sent, and what its placeholders stand for.

    Attributes:
        raw: shares nothing that was changed with the body it came from.
        originals: by placeholder.
    """

    raw: dict[str, Any]
    originals: Mapping[str, str]


def redact(raw: Mapping[str, Any], classes: frozenset[str], detector: Detector) -> Redacted:
    """Replaces every value of these classes; the same value by the same placeholder.

    Raises:
        CannotRedact: a value stands where it cannot be replaced, a class can be in what cannot be searched, or one
            was left in the end.
    """
    if unknown := classes - detector.findable:
        raise CannotRedact(f"values of the class {', '.join(sorted(unknown))} cannot be found, so not be replaced")
    work = _Redaction(detector, classes, _taken(raw))
    try:
        body = work.tree(raw, "", 0)
    except RecursionError as error:
        raise CannotRedact("the body is nested too deeply") from error
    left = detector.among(_neutral(body, work.originals), classes) & classes
    if left:
        raise CannotRedact(f"values of the class {', '.join(sorted(left))} are left")
    return Redacted(body, work.originals)


@dataclass(slots=True)
class _Redaction:
    """One body on its way. The only thing here that changes, and it lives as long as one call."""

    detector: Detector
    classes: frozenset[str]
    taken: set[str]
    originals: dict[str, str] = field(default_factory=dict)
    placeholders: dict[tuple[str, str], str] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)

    def tree(self, value: Any, key: str, depth: int, media: bool = False) -> Any:
        if depth > DEEPEST:
            raise CannotRedact("the body is nested too deeply")
        if isinstance(value, str):
            return self.field(value, key, media)
        if isinstance(value, Mapping):
            for name in value:
                self.untouched(name, "")
            media = media or is_media(value)
            return {name: self.tree(item, name, depth + 1, media) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.tree(item, key, depth + 1, media) for item in value]
        if isinstance(value, int | float) and not isinstance(value, bool):
            for said in said_in(value, set()):
                self.untouched(said.text, key)
        return value

    def field(self, text: str, key: str, media: bool) -> str:
        if media or text.startswith("data:") or key in STRUCTURE:
            searched = list(said_in(text, set(), media))
            if not searched:
                return text  # a file in base64
            if text.startswith("data:") or key in STRUCTURE:
                for said in searched:
                    self.untouched(said.text, key)
                return text
        return self.text(text, key, 0)

    def untouched(self, text: str, key: str) -> None:
        """For what the wire needs as it is."""
        if found := self.detector.find(text, self.classes, key):
            place = f"the field {key!r}" if key in STRUCTURE else "a name or a number"
            raise CannotRedact(f"a value of the class {found[0].cls} stands in {place}")

    def text(self, text: str, key: str, depth: int) -> str:
        as_json = is_json(text) and _valid(text)
        if as_json and "\\" in text and depth < NESTED:
            text = self.literals(text, depth)
        findings = self.detector.find(text, self.classes, key)
        if not findings:
            return text
        at = 0
        parts: list[str] = []
        for finding in findings:
            parts += (text[at : finding.start], self.placeholder(finding.cls, text[finding.start : finding.end]))
            at = finding.end
        replaced = "".join([*parts, text[at:]])
        if as_json and not _valid(replaced):
            raise CannotRedact(f"a value of the class {findings[0].cls} is a number in JSON, or part of its syntax")
        return replaced

    def literals(self, text: str, depth: int) -> str:
        """JSON text whose string literals with escapes are redacted as what they stand for; the rest stays as it is."""
        key = ""

        def literal(match: re.Match[str]) -> str:
            nonlocal key
            old, colon = match["literal"], match["colon"] or ""
            inner = decoded(old)
            name, key = key, (inner or "") if colon else ""
            if inner is None or "\\" not in old:
                return match[0]
            new = self.text(inner, "" if colon else name, depth + 1)
            return match[0] if new == inner else orjson.dumps(new).decode() + colon

        return LITERAL.sub(literal, text)

    def placeholder(self, cls: str, value: str) -> str:
        known = self.placeholders.get((cls, value))
        if known:
            return known
        number = self.numbers.get(cls, 0) + 1
        while f"[{cls}_{number}]" in self.taken:
            number += 1
        self.numbers[cls] = number
        name = self.placeholders[cls, value] = f"[{cls.upper()}_{number}]"
        self.originals[name] = value
        return name


def _taken(raw: Mapping[str, Any]) -> set[str]:
    """What looks like a placeholder in the body already, in small letters."""
    taken: set[str] = set()
    for said in said_in(raw, set()):
        if "[" in said.text or "\\u005" in said.text:
            taken.update(
                found.lower()
                for found in PLACEHOLDER.findall(said.text.replace("\\u005b", "[").replace("\\u005B", "["))
            )
    return taken


def _neutral(value: Any, originals: Mapping[str, str]) -> Any:
    if not originals:
        return value
    if isinstance(value, str):
        return (
            PLACEHOLDER.sub(lambda match: NEUTRAL if match[0] in originals else match[0], value)
            if "[" in value
            else value
        )
    if isinstance(value, dict):
        return {name: _neutral(item, originals) for name, item in value.items()}
    if isinstance(value, list):
        return [_neutral(item, originals) for item in value]
    return value


def _valid(text: str) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True
