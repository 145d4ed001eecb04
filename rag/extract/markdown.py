"""Markdown: as it is, so that places are the file's own; headings, tables' rows and lines of code are marked."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rag.extract.builder import Builder
from rag.extract.source import Source
from rag.types import Extracted

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

_FRONT = re.compile(r"\A---[ \t]*\n(?P<fields>(?:.*\n)*?)(?:---|\.\.\.)[ \t]*(?:\n|\Z)")
_TITLE = re.compile(r"^title[ \t]*:[ \t]*[\"']?(?P<title>.*?)[\"']?[ \t]*$", re.MULTILINE | re.IGNORECASE)
_LINK = re.compile(r"!?\[([^\[\]]*)\]\([^()\s]*(?:\s+\"[^\"]*\")?\)")
_MARKS = re.compile(r"[*`]+|(?<!\w)_+|_+(?!\w)|[ \t]*\{#[\w-]+\}[ \t]*$")


def warm() -> None:
    """Load the library."""
    _parser()


def read(source: Source) -> Extracted:
    """Raises `ExtractionError`."""
    text = source.text().replace("\f", "\n")
    builder = source.builder("markdown")
    builder.add(text)
    front = _FRONT.match(text)
    if front:
        title = _TITLE.search(front["fields"])
        builder.title = title["title"] if title else ""
    # The parser shall not take the fields for a heading; their lines still count.
    blank = "\n" * front[0].count("\n") if front else ""
    tokens = _parser().parse(blank + text[front.end() :] if front else text)
    _mark(builder, text, tokens)
    return builder.finish()


def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark").enable("table")
    # Only blocks: what stands inside a line is of no use here, and is where the time goes.
    parser.core.ruler.enableOnly(["normalize", "block"])
    return parser


def _mark(builder: Builder, text: str, tokens: list[Token]) -> None:
    starts = [0, *(match.end() for match in re.finditer("\n", text)), len(text)]
    last = len(starts) - 1

    def mark_lines(first: int, end: int) -> None:
        for i in range(first, min(end, last)):
            builder.mark_row(starts[i], max(starts[i], starts[i + 1] - 1))

    for token, following in zip(tokens, [*tokens[1:], None], strict=False):
        if not token.map:
            continue
        first, end = token.map
        if token.type == "heading_open" and following:
            name = _MARKS.sub("", _LINK.sub(r"\1", following.content))
            level = int(token.tag[1])
            builder.mark_heading(level, name, starts[min(first, last)])
            if not builder.title and level == 1:
                builder.title = name
        elif token.type in ("tr_open", "fence", "code_block"):
            mark_lines(first, end)
