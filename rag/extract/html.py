"""HTML: what a reader of the page sees; headings and tables keep their form, scripts and hidden text are left out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rag.extract.builder import Builder, squeeze
from rag.extract.decoding import decode
from rag.extract.errors import invalid
from rag.extract.source import Source
from rag.extract.tables import looks_like_names, write_table
from rag.types import Extracted

if TYPE_CHECKING:
    from lxml.etree import _Element

_DROPPED = frozenset(
    "script style template noscript svg canvas object embed iframe audio video map nav select datalist button input "
    "textarea meta link base title".split()
)
_HEADINGS = {"h1": 1, "h2": 2, "h3": 3, "h4": 4, "h5": 5, "h6": 6}
_PARAGRAPHS = frozenset(
    "p div section article header footer main aside figure figcaption blockquote ul ol dl table form fieldset hr "
    "address details summary caption center body".split()
)
_LINES = frozenset("li dt dd tr br option legend".split())
_HIDDEN = re.compile(
    r"display\s*:\s*none|visibility\s*:\s*hidden|font-size\s*:\s*0(?:px|pt|em|rem|%)?\s*(?:;|$)|opacity\s*:\s*0(?:\.0+)?\s*(?:;|$)",
    re.IGNORECASE,
)
_DECLARED = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_:.-]{2,40})", re.IGNORECASE)
_BLANKS = re.compile(r"[ \t\n\r\f\xa0]+")
_MOST_SPAN = 100


def warm() -> None:
    """Load the library."""
    import lxml.html  # noqa: F401


def read(source: Source) -> Extracted:
    """Raises `ExtractionError`."""
    data = source.data()
    declared = _DECLARED.search(data[:4096])
    builder = source.builder("html")
    write_html(builder, decode(data, declared[1].decode() if declared else None))
    return builder.finish()


def write_html(builder: Builder, text: str) -> None:
    """A page's or a message's text. Raises `ExtractionError`."""
    root = _parse(text)
    if root is None:
        return
    title = root.find(".//title")
    if title is not None and not builder.title:
        builder.title = squeeze("".join(title.itertext()))
    _Page(builder).walk(root)


def _parse(text: str) -> _Element | None:
    from lxml import etree

    parser = etree.HTMLParser(encoding="utf-8", huge_tree=True, remove_comments=True, remove_pis=True, no_network=True)
    try:
        root = etree.fromstring(text.encode("utf-8", "replace"), parser)
    except etree.XMLSyntaxError as error:
        if "empty" in str(error).lower():
            return None
        raise invalid(f"The HTML cannot be read ({error}). Save the page anew, or send it as text.") from None
    # Tags that do not match are mended; after this the parser has left out the rest.
    if any(entry.level == etree.ErrorLevels.FATAL for entry in parser.error_log):
        raise invalid("The HTML is nested too deeply to be read. Save the page in a plainer form, or send it as text.")
    return root


def _events(root: _Element) -> Iterator[tuple[str, Any]]:
    """Starts and ends of what a reader sees; without recursion, so that no nesting is too deep."""
    from lxml import etree

    walker = etree.iterwalk(root, events=("start", "end"))
    for event, element in walker:
        if event == "start" and _unseen(element):
            walker.skip_subtree()
            yield "skip", element
        else:
            yield event, element


def _unseen(element: _Element) -> bool:
    if element.tag in _DROPPED or "hidden" in element.attrib:
        return True
    style = element.get("style")
    return style is not None and _HIDDEN.search(style) is not None


class _Page:
    """Writes one page, element by element."""

    def __init__(self, builder: Builder) -> None:
        self._builder = builder
        self._line: list[str] = []  # of the line that is not written yet
        self._heading = 0
        self._pre = 0
        self._skipped: set[_Element] = set()
        self._table: _Element | None = None

    def walk(self, root: _Element) -> None:
        for event, element in _events(root):
            if event == "skip":
                # Its end comes all the same, and with it the text behind it.
                self._skipped.add(element)
            elif self._table is None:
                (self._start if event == "start" else self._end)(element)
            elif event == "end" and element is self._table:
                self._table = None
                self._tail(element)
        self._flush()

    def _start(self, element: _Element) -> None:
        tag = element.tag
        if tag == "table" and _is_data(element):
            self._flush()
            self._builder.gap()
            rows, names = _cells(element)
            write_table(self._builder, rows, names)
            self._table = element
            return
        self._break(tag)
        if tag in _HEADINGS:
            self._heading = _HEADINGS[tag]
        elif tag == "pre":
            self._builder.gap()
            self._pre += 1
        elif tag == "li":
            self._line.append("- ")
        elif tag == "img":
            self._line.append(f" {element.get('alt') or ''} ")
        self._text(element.text)

    def _end(self, element: _Element) -> None:
        if element in self._skipped:
            self._skipped.discard(element)
        else:
            tag = element.tag
            if tag in _HEADINGS:
                self._flush()
                self._heading = 0
            elif tag == "pre":
                self._flush()
                self._pre = max(0, self._pre - 1)
                self._builder.gap()
            elif tag in ("td", "th"):
                self._line.append(" ")
            elif tag != "br":
                self._break(tag)
        self._tail(element)

    def _tail(self, element: _Element) -> None:
        self._text(element.tail)

    def _text(self, text: str | None) -> None:
        if not text:
            return
        if not self._pre:
            self._line.append(text)
            return
        for piece in text.splitlines(keepends=True):
            self._line.append(piece.rstrip("\n"))
            if piece.endswith("\n"):
                self._flush()

    def _break(self, tag: Any) -> None:
        if tag in _PARAGRAPHS or tag in _HEADINGS or tag == "pre":
            self._flush()
            self._builder.gap()
        elif tag in _LINES:
            self._flush()

    def _flush(self) -> None:
        """Write the line."""
        text, self._line = "".join(self._line), []
        if self._pre:
            if text.strip():
                self._builder.row(text.rstrip())
            elif text or self._pre:
                self._builder.add("\n")
            return
        text = _BLANKS.sub(" ", text).strip()
        if not text or text == "-":
            return
        if self._heading:
            self._builder.heading(self._heading, text)
        else:
            self._builder.line(text)
            self._builder.add("\n")


def _is_data(table: _Element) -> bool:
    """A table that says something by its rows; many only lay out a page or a message."""
    if table.get("role") in ("presentation", "none"):
        return False
    if next(table.iterdescendants("table", *_HEADINGS), None) is not None:
        return False
    return any(sum(1 for cell in row if cell.tag in ("td", "th")) > 1 for row in table.iter("tr"))


def _cells(table: _Element) -> tuple[list[list[str]], list[str] | None]:
    """Rows of cells, each where its column is; and the columns' names, if the table has them."""
    rows: list[list[str]] = []
    heads: list[bool] = []
    below: dict[int, tuple[int, str]] = {}  # column: (how many more rows, text) of a cell that spans rows
    for row in table.iter("tr"):
        if _unseen(row):
            continue
        cells: list[str] = []
        kinds: list[bool] = []
        for cell in row:
            if cell.tag not in ("td", "th") or _unseen(cell):
                continue
            _fill(cells, below)
            text = _inline(cell)
            down = _span(cell, "rowspan")
            for n in range(_span(cell, "colspan")):
                if down > 1:
                    below[len(cells)] = (down - 1, text)
                cells.append(text if n == 0 or down > 1 else "")
            kinds.append(cell.tag == "th")
        _fill(cells, below)
        if any(cells):
            rows.append(cells)
            parent = row.getparent()
            heads.append(all(kinds) or (parent is not None and parent.tag == "thead"))
    if len(rows) > 1 and heads[0] and not heads[1]:
        return rows[1:], rows[0]
    if len(rows) > 2 and not any(heads) and len(rows[0]) > 2 and looks_like_names(rows[0]):
        return rows[1:], rows[0]
    return rows, None


def _fill(cells: list[str], below: dict[int, tuple[int, str]]) -> None:
    while len(cells) in below:
        left, text = below[len(cells)]
        if left > 1:
            below[len(cells)] = (left - 1, text)
        else:
            del below[len(cells)]
        cells.append(text)


def _span(cell: _Element, name: str) -> int:
    value = cell.get(name) or ""
    return min(_MOST_SPAN, max(1, int(value))) if value.isascii() and value.isdigit() and len(value) < 6 else 1


def _inline(cell: _Element) -> str:
    parts: list[str] = []
    for event, element in _events(cell):
        if event == "start":
            if element.tag in _PARAGRAPHS or element.tag in _LINES:
                parts.append(" ")
            if element.tag == "img":
                parts.append(element.get("alt") or "")
            parts.append(element.text or "")
        elif event == "end" and element is not cell:
            if element.tag in _PARAGRAPHS or element.tag in _LINES:
                parts.append(" ")
            parts.append(element.tail or "")
    return squeeze("".join(parts))
