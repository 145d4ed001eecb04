"""DOCX: paragraphs, headings by their styles, tables row by row. python-docx opens the package and knows its styles."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rag.extract.builder import Builder
from rag.extract.errors import invalid
from rag.extract.source import Source
from rag.extract.tables import looks_like_names, write_table
from rag.types import Extracted

if TYPE_CHECKING:
    from docx.document import Document
    from lxml.etree import _Element

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_MC = "{http://schemas.openxmlformats.org/markup-compatibility/2006}"
_HEADING = re.compile(r"heading (\d)$", re.IGNORECASE)
_MOST_PARTS = 10_000
_MOST_STYLES_DEEP = 20
# What is deleted, or said twice: the field's code beside its result, the drawing's older form.
_LEFT_OUT = frozenset(
    [f"{_W}{name}" for name in ("del", "moveFrom", "instrText", "delText", "pPr", "rPr", "sdtPr")] + [f"{_MC}Fallback"]
)
_TEXTS = {f"{_W}tab": "\t", f"{_W}br": "\n", f"{_W}cr": "\n", f"{_W}noBreakHyphen": "-", f"{_W}softHyphen": ""}


def warm() -> None:
    """Load the library."""
    import docx  # noqa: F401


def read(source: Source) -> Extracted:
    """Raises `ExtractionError`."""
    from docx import Document
    from docx.opc.exceptions import PackageNotFoundError
    from lxml import etree

    _refuse_bomb(source)
    try:
        document = Document(str(source.path))
    except (etree.XMLSyntaxError, PackageNotFoundError, zipfile.BadZipFile, KeyError, ValueError) as error:
        raise invalid(f"{source.name} is damaged ({error}). Open it and save it again as .docx.") from None
    builder = source.builder("docx")
    builder.title = document.core_properties.title or ""
    writer = _Writer(builder, _levels(document))
    writer.write(document.element.body)
    _write_notes(writer, document)
    return builder.finish()


def _refuse_bomb(source: Source) -> None:
    """zipfile takes no more from a part than its entry says: no more can come than the sum of what they say."""
    try:
        with zipfile.ZipFile(source.path) as package:
            parts = package.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise invalid(f"{source.name} is damaged ({error}). Send the original.") from None
    if any(part.flag_bits & 1 for part in parts):
        raise invalid(f"{source.name} is protected with a password. Remove the password and send it again.")
    unpacked = sum(part.file_size for part in parts)
    if len(parts) > _MOST_PARTS or unpacked > source.limits.unpacked_bytes:
        raise invalid(
            f"{source.name} unpacks to {len(parts):,} parts and {unpacked / (1 << 20):,.0f} MB, more than is read. "
            "Send it without its pictures, or in parts."
        )


def _levels(document: Document) -> dict[str, int]:
    """The heading's level of each style that is one, or is made after one; 0: the title."""
    styles = {
        str(style.style_id): style
        for style in document.styles
        if style.style_id  # a file may hold one without
    }
    levels: dict[str, int] = {}
    for key, style in styles.items():
        current: Any = style
        for _ in range(_MOST_STYLES_DEEP):
            level = _level(current)
            if level is not None:
                levels[key] = level
                break
            current = getattr(current, "base_style", None)
            if current is None:
                break
    return levels


def _level(style: Any) -> int | None:
    name = str(style.name or "")
    found = _HEADING.match(name)
    if found:
        return int(found[1])
    if name.lower() == "title":
        return 0
    outline = style.element.find(f"{_W}pPr/{_W}outlineLvl")
    return _outline(outline)


def _outline(element: _Element | None) -> int | None:
    value = element.get(f"{_W}val") if element is not None else None
    return int(value) + 1 if value and value.isdigit() and int(value) < 9 else None


def _write_notes(writer: _Writer, document: Document) -> None:
    """Footnotes and endnotes, at the end."""
    from docx.oxml import parse_xml

    for relation in document.part.rels.values():
        if relation.is_external or not relation.reltype.endswith(("/footnotes", "/endnotes")):
            continue
        for note in parse_xml(relation.target_part.blob):
            if note.get(f"{_W}type") is None:  # the others are the lines that separate them from the text
                writer.write(note)


class _Writer:
    """Writes a body's blocks."""

    def __init__(self, builder: Builder, levels: dict[str, int]) -> None:
        self._builder = builder
        self._levels = levels

    def write(self, body: _Element) -> None:
        for block in _blocks(body):
            if block.tag == f"{_W}tbl":
                self._table(block)
            else:
                self._paragraph(block)

    def _paragraph(self, paragraph: _Element) -> None:
        text = "".join(_texts(paragraph)).strip()
        if not text:
            return
        level = self._heading_level(paragraph)
        if level is not None:
            self._builder.heading(max(1, level), text)
            if level == 0 and not self._builder.title:
                self._builder.title = text
        elif paragraph.find(f"{_W}pPr/{_W}numPr") is not None:
            self._builder.line(f"- {text}")
            self._builder.add("\n")
        else:
            self._builder.paragraph(text)

    def _heading_level(self, paragraph: _Element) -> int | None:
        direct = _outline(paragraph.find(f"{_W}pPr/{_W}outlineLvl"))
        if direct is not None:
            return direct
        style = paragraph.find(f"{_W}pPr/{_W}pStyle")
        return self._levels.get(style.get(f"{_W}val") or "") if style is not None else None

    def _table(self, table: _Element) -> None:
        rows = []
        above: dict[int, str] = {}
        for row in _children(table, f"{_W}tr"):
            cells: list[str] = []
            for cell in _children(row, f"{_W}tc"):
                text = " ".join(t for t in ("".join(_texts(p)).strip() for p in cell.iter(f"{_W}p")) if t)
                merge = cell.find(f"{_W}tcPr/{_W}vMerge")
                if merge is not None and merge.get(f"{_W}val") != "restart":
                    text = text or above.get(len(cells), "")
                above[len(cells)] = text
                span = cell.find(f"{_W}tcPr/{_W}gridSpan")
                width = span.get(f"{_W}val") or "1" if span is not None else "1"
                cells += [text] + [""] * (min(100, int(width)) - 1 if width.isdigit() and len(width) < 6 else 0)
            if any(cells):
                rows.append(cells)
        if not rows:
            return
        first = table.find(f"{_W}tr/{_W}trPr/{_W}tblHeader") is not None
        named = len(rows) > 1 and (first or (max(len(rows[0]), len(rows)) > 2 and looks_like_names(rows[0])))
        write_table(self._builder, rows[1:] if named else rows, rows[0] if named else None)


def _blocks(body: _Element) -> Iterator[_Element]:
    """Paragraphs and tables, those in content controls too."""
    stack = [iter(body)]
    while stack:
        element = next(stack[-1], None)
        if element is None:
            stack.pop()
        elif element.tag in (f"{_W}p", f"{_W}tbl"):
            yield element
        elif element.tag not in _LEFT_OUT:
            stack.append(iter(element))


def _children(parent: _Element, tag: str) -> Iterator[_Element]:
    """Of this tag, directly or in a content control."""
    for child in parent:
        if child.tag == tag:
            yield child
        elif child.tag in (f"{_W}sdt", f"{_W}sdtContent", f"{_W}customXml", f"{_W}ins"):
            yield from _children(child, tag)


def _texts(paragraph: _Element) -> Iterator[str]:
    """What is shown of a paragraph, inserted text and text boxes too, hidden runs not."""
    stack = [iter(paragraph)]
    while stack:
        element = next(stack[-1], None)
        if element is None:
            stack.pop()
        elif element.tag == f"{_W}t":
            yield element.text or ""
        elif element.tag in _TEXTS:
            yield _TEXTS[element.tag]
        elif element.tag == f"{_W}r" and _vanished(element):
            continue
        elif element.tag == f"{_W}p":  # of a text box
            yield "\n"
            stack.append(iter(element))
        elif element.tag not in _LEFT_OUT:
            stack.append(iter(element))


def _vanished(run: _Element) -> bool:
    mark = run.find(f"{_W}rPr/{_W}vanish")
    return mark is not None and mark.get(f"{_W}val") not in ("0", "false", "off")
