"""Gathers a file's text, and remembers where its parts begin."""

from __future__ import annotations

import re

from rag.extract.errors import invalid
from rag.types import Extracted, Heading, Page

# Characters that no store or JSON can hold (a lone half of a pair), or that no text means; each becomes one other
# character, so that places stay true.
_SURROGATES = re.compile("[\ud800-\udfff\ufffe\uffff]")
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_BLANKS = re.compile(r"\s+")

MOST_HEADING_CHARS = 200
DEEPEST_HEADING = 9


class Builder:
    """The text so far. Raises `ExtractionError` where it grows over its limit."""

    def __init__(self, kind: str, most_chars: int) -> None:
        self.kind = kind
        self.title = ""
        self.notes: list[str] = []
        self._most = most_chars
        self._parts: list[str] = []
        self._end = ""  # the last two characters
        self._pages: list[Page] = []
        self._headings: list[Heading] = []
        self._rows: list[tuple[int, int]] = []
        self.length = 0

    def add(self, text: str) -> None:
        """As it is."""
        if not text:
            return
        self.length += len(text)
        if self.length > self._most:
            raise invalid(f"The file holds more than {self._most:,} characters of text. Split it into several files.")
        self._parts.append(text)
        self._end = (self._end + text)[-2:]

    def line(self, text: str = "") -> None:
        """On a line of its own."""
        if self._end and not self._end.endswith("\n"):
            self.add("\n")
        self.add(text)

    def gap(self) -> None:
        """What comes next stands after a blank line."""
        if self._end and self._end != "\n\n":
            self.add("\n" if self._end.endswith("\n") else "\n\n")

    def paragraph(self, text: str) -> None:
        """Between blank lines."""
        self.gap()
        self.add(text)
        self.gap()

    def heading(self, level: int, text: str) -> None:
        """A paragraph that the following stands under."""
        text = squeeze(text)
        if text:
            self.gap()
            self.mark_heading(level, text, self.length)
            self.add(text)
            self.gap()

    def mark_heading(self, level: int, text: str, start: int) -> None:
        """A heading that is in the text already, or will be."""
        name = squeeze(text)[:MOST_HEADING_CHARS]
        if name:
            self._headings.append(Heading(max(1, min(level, DEEPEST_HEADING)), scrub(name), start))

    def row(self, text: str) -> None:
        """A line that no chunk may cut."""
        self.line()
        start = self.length
        self.add(text)
        self.mark_row(start, self.length)
        self.add("\n")

    def mark_row(self, start: int, end: int) -> None:
        """The same, of what is in the text already."""
        if end > start:
            self._rows.append((start, end))

    def page(self, number: int) -> None:
        """What comes next stands on this page."""
        self.gap()
        self._pages.append(Page(number, self.length))

    def finish(self) -> Extracted:
        """Raises `ExtractionError` where there is no text at all."""
        text = scrub("".join(self._parts))
        if not text or text.isspace():
            raise invalid("; ".join(self.notes) or "The file holds no text.")
        headings = sorted(self._headings, key=lambda heading: heading.start)
        return Extracted(
            text=text,
            kind=self.kind,
            title=scrub(squeeze(self.title)[:MOST_HEADING_CHARS]),
            pages=tuple(self._pages),
            headings=tuple(headings),
            rows=tuple(self._rows),
            notes=tuple(self.notes),
        )


def scrub(text: str) -> str:
    """Without characters that no store can hold; of the same length."""
    return _CONTROLS.sub(" ", _SURROGATES.sub("\ufffd", text))


def squeeze(text: str) -> str:
    """On one line, with single spaces."""
    return _BLANKS.sub(" ", text).strip()
