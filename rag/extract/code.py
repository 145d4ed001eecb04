"""Source code and configuration: as it is; no line is cut, and what a line declares is a heading of what follows."""

from __future__ import annotations

import re

from rag.extract.source import Source
from rag.types import Extracted

# A declaration with a name, in most languages that have a keyword for it, PLC languages among them.
_DECLARATION = re.compile(
    r"^(?P<indent>[ \t]*)(?:(?:export|default|public|private|protected|internal|static|abstract|final|sealed|async|"
    r"pub(?:\([a-z]+\))?|open|override|partial|data|inline)[ \t]+)*"
    r"(?:def|class|func|fn|fun|function|interface|struct|enum|trait|impl|module|namespace|object|record|protocol|"
    r"sub|procedure|package|FUNCTION_BLOCK|FUNCTION|PROGRAM|ORGANIZATION_BLOCK|DATA_BLOCK)[ \t]+[\w\"'#:<~.]",
    re.MULTILINE,
)
_SECTION = re.compile(r"^\[{1,2}[\w .:\"'/-]{1,100}\]{1,2}[ \t]*$", re.MULTILINE)
_SECTIONED = (".ini", ".cfg", ".conf", ".toml", ".properties")
_LINE = re.compile(r"[^\n]+")
_DEEPEST = 6


def warm() -> None:
    """Nothing to load."""


def read(source: Source) -> Extracted:
    """Raises `ExtractionError`."""
    text = source.text().replace("\f", "\n")
    builder = source.builder("code")
    builder.add(text)
    for whole in _LINE.finditer(text):
        builder.mark_row(*whole.span())
    if source.name.lower().endswith(_SECTIONED):
        for found in _SECTION.finditer(text):
            builder.mark_heading(1, found[0].strip(), found.start())
        return builder.finish()
    for found in _DECLARATION.finditer(text):
        indent = found["indent"].expandtabs(4)
        line = text[found.start() : text.find("\n", found.end()) % (len(text) + 1)]
        name = line.strip().rstrip("{:").strip()
        builder.mark_heading(min(_DEEPEST, 1 + (len(indent) + 1) // 2), name, found.start())
    return builder.finish()
