"""PDF by PDFium: text page by page in the order in which it was set; headings from the outline, or by their size."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from rag.extract.builder import Builder, squeeze
from rag.extract.errors import invalid, unsupported
from rag.extract.ocr import Reader, open_reader, render
from rag.extract.source import Source
from rag.types import Extracted

if TYPE_CHECKING:
    from pypdfium2 import PdfDocument, PdfPage, PdfTextPage

FEW_CHARS = 32  # a stamp or a page number: of a scanned page all the text that there may be
SCAN_SHARE = 0.4  # of a page's area, from which a picture is the page
HEADING_SIZE = 1.15  # times the text's own
MOST_HEADING_SHARE = 0.3  # of a file's text: where more is large, size says nothing
MOST_HEADING_CHARS = 150
PARAGRAPH_GAP = 1.35  # times the usual distance of lines
HEADING_LEVELS = 4
NO_TITLES = ("untitled", "untitled document", "document1")  # what programs write where nobody gave one
MOST_OUTLINE = 10_000

_PASSWORD, _SECURITY = 4, 5  # FPDF_ERR_PASSWORD, FPDF_ERR_SECURITY
# PDFium's sign for a hyphen at the end of a line that is none in the word.
_HYPHEN = re.compile("(?:\ufffe|\u00ad|\x02)[ \t]*(?:\r\n?|\n)?")
_LINE = re.compile(r"[^\r\n]+")


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of a page: the height of its letters, and where it stands on the page (in points, from below)."""

    text: str
    size: float = 0.0
    bottom: float = 0.0


@dataclass(frozen=True, slots=True)
class _Entry:
    """Of the outline."""

    level: int
    text: str
    page: int


def warm() -> None:
    """Load the library."""
    import pypdfium2  # noqa: F401


def read(source: Source) -> Extracted:
    """Raises `ExtractionError`."""
    document = _open(source)
    pages = len(document)
    if pages > source.limits.pages:
        raise invalid(f"{source.name} has {pages:,} pages; at most {source.limits.pages:,} are read. Split it.")
    builder = source.builder("pdf")
    title = squeeze(document.get_metadata_value("Title"))
    builder.title = title if title.lower() not in NO_TITLES else ""
    texts = list(_read_pages(source, document, builder))
    outline = _outline(document)
    sizes = {} if outline else _heading_sizes(line for lines in texts for line in lines)
    places = [_write_page(builder, number, lines, sizes) for number, lines in enumerate(texts, 1)]
    _mark_outline(builder, outline, places, texts)
    return builder.finish()


def _open(source: Source) -> PdfDocument:
    from pypdfium2 import PdfDocument, PdfiumError

    # Not by its path, which pypdfium2 resolves: a file that is in memory only has none then.
    file = source.path.open("rb")
    try:
        document = PdfDocument(file, autoclose=True)
        if len(document) > 0:
            return document
        document.close()
    except PdfiumError as error:
        file.close()
        if error.err_code in (_PASSWORD, _SECURITY):
            raise invalid(
                f"{source.name} is protected with a password. Remove the password and send it again."
            ) from None
    raise invalid(
        f"{source.name} is damaged: it is no PDF that can be opened. Send the original, or print it to PDF anew."
    )


# -- pages ----------------------------------------------------------------------------------------------------------


def _read_pages(source: Source, document: PdfDocument, builder: Builder) -> Iterator[list[_Line]]:
    reader: Reader | None = None
    unread: list[int] = []
    broken: list[int] = []
    pages = len(document)
    chars = 0
    for number in range(1, pages + 1):
        lines, page = _lines_of(document, number)
        if page is None:
            broken.append(number)
        elif _is_scan(page, lines):
            source.progress(number, pages, True)
            reader = reader or open_reader()
            if reader is None:
                unread.append(number)
            else:
                lines = [_Line(text) for text in reader.text(render(page)).splitlines()] or lines
        if page is not None:
            page.close()
        source.progress(number, pages, False)
        chars += sum(len(line.text) for line in lines)
        if chars > source.limits.text_chars:  # what is not gathered need not be written
            builder.add(" " * chars)
        yield lines
    _say_unread(source, builder, pages, unread, broken)


def _say_unread(source: Source, builder: Builder, pages: int, unread: list[int], broken: list[int]) -> None:
    if len(broken) == pages:
        raise invalid(f"{source.name} is damaged: none of its pages can be opened. Send the original.")
    if broken:
        builder.notes.append(f"Of {source.name} {_ranges(broken)} cannot be opened: damaged.")
    if unread:
        sentence = (
            f"Of {source.name} {_ranges(unread)} {'hold' if len(unread) > 1 else 'holds'} pictures in place of text. "
            "Scanned pages are read where the extra `ocr` is installed."
        )
        if len(unread) == pages:
            raise unsupported(sentence)
        builder.notes.append(sentence)


def _lines_of(document: PdfDocument, number: int) -> tuple[list[_Line], PdfPage | None]:
    from pypdfium2 import PdfiumError

    try:
        page = document[number - 1]
        textpage = page.get_textpage()
    except PdfiumError:
        return [], None
    text = textpage.get_text_range()
    lines = [_measured(textpage, match) for match in _LINE.finditer(text)]
    textpage.close()
    return _joined(lines), page


def _measured(textpage: PdfTextPage, match: re.Match[str]) -> _Line:
    import ctypes

    from pypdfium2 import raw

    text = match[0]
    at = match.start() + len(text) - len(text.lstrip())
    box = raw.FS_RECTF()
    index = raw.FPDFText_GetCharIndexFromTextIndex(textpage, at)
    if index < 0 or not raw.FPDFText_GetLooseCharBox(textpage, index, ctypes.byref(box)):
        return _Line(text.rstrip())
    return _Line(text.rstrip(), round(box.top - box.bottom, 1), box.bottom)


def _joined(lines: list[_Line]) -> list[_Line]:
    """Words that a line's end has cut are whole again."""
    whole: list[_Line] = []
    for line in lines:
        if whole and _HYPHEN.search(whole[-1].text[-1:]):
            last = whole[-1]
            whole[-1] = _Line(last.text[:-1] + line.text.lstrip(), last.size, line.bottom)
        elif line.text.strip():
            whole.append(line)
    return [_Line(_HYPHEN.sub("", line.text), line.size, line.bottom) for line in whole]


def _is_scan(page: PdfPage, lines: list[_Line]) -> bool:
    from pypdfium2 import raw

    chars = sum(len(line.text.strip()) for line in lines)
    if chars >= FEW_CHARS:
        return False
    width, height = page.get_size()
    covered, drawn = 0.0, False
    for item in page.get_objects(max_depth=3):
        drawn = drawn or item.type in (raw.FPDF_PAGEOBJ_IMAGE, raw.FPDF_PAGEOBJ_PATH)
        if item.type == raw.FPDF_PAGEOBJ_IMAGE:
            left, bottom, right, top = item.get_bounds()
            covered = max(covered, (right - left) * (top - bottom))
    return covered >= SCAN_SHARE * width * height or (chars == 0 and drawn)


# -- headings -------------------------------------------------------------------------------------------------------


def _heading_sizes(lines: Iterable[_Line]) -> dict[float, int]:
    """The level of each size of letters that only headings have."""
    weights: Counter[float] = Counter()
    for line in lines:
        weights[line.size] += len(line.text)
    if not weights:
        return {}
    body = weights.most_common(1)[0][0]
    large = sorted((size for size in weights if size >= body * HEADING_SIZE and body > 0), reverse=True)
    if sum(weights[size] for size in large) > MOST_HEADING_SHARE * weights.total():
        return {}
    return {size: min(n, HEADING_LEVELS) for n, size in enumerate(large, 1)}


def _write_page(builder: Builder, number: int, lines: list[_Line], sizes: dict[float, int]) -> list[int]:
    """Returns where each line begins, and where the page ends."""
    builder.page(number)
    places = []
    usual = _usual_distance(lines)
    before: _Line | None = None
    for line in lines:
        level = sizes.get(line.size) if len(line.text) <= MOST_HEADING_CHARS else None
        level = level if any(c.isalpha() for c in line.text) else None
        apart = before is not None and usual > 0 and before.bottom - line.bottom > PARAGRAPH_GAP * usual
        if apart or (before is not None and before.size != line.size and level is not None):
            builder.gap()
        builder.line()
        # A heading of two lines is one: its second line only follows.
        continued = before is not None and before.size == line.size and not apart
        if level is not None and not continued:
            builder.mark_heading(level, line.text, builder.length)
        places.append(builder.length)
        builder.add(line.text)
        before = line
    builder.line()
    return [*places, builder.length]


def _usual_distance(lines: list[_Line]) -> float:
    distances = [
        above.bottom - below.bottom
        for above, below in pairwise(lines)
        if above.size == below.size and above.bottom > below.bottom
    ]
    return statistics.median_low(distances) if distances else 0.0


def _outline(document: PdfDocument) -> list[_Entry]:
    found = []
    try:
        for item in document.get_toc():
            destination: Any = item.get_dest()
            index = destination.get_index() if destination else None
            if index is not None and 0 <= index < len(document):
                found.append(_Entry(item.level + 1, squeeze(item.get_title()), index))
            if len(found) == MOST_OUTLINE:
                break
    except (UnicodeError, RuntimeError):
        return []
    return [entry for entry in found if entry.text]


def _mark_outline(builder: Builder, outline: list[_Entry], places: list[list[int]], texts: list[list[_Line]]) -> None:
    """Each entry where its words stand on its page; at the page's beginning, if they do not."""
    joined: dict[int, str] = {}
    seen: dict[int, int] = {}  # from where to look on a page: entries come in their order
    for entry in outline:
        page = joined.setdefault(entry.page, "\n".join(line.text for line in texts[entry.page]))
        words = r"\s+".join(map(re.escape, entry.text.split()))
        found = re.compile(words, re.IGNORECASE).search(page, seen.get(entry.page, 0))
        starts = places[entry.page]
        if found is None or not starts[:-1]:
            builder.mark_heading(entry.level, entry.text, starts[-1] if not starts[:-1] else starts[0])
            continue
        seen[entry.page] = found.end()
        line = page.count("\n", 0, found.start())
        inside = found.start() - (page.rfind("\n", 0, found.start()) + 1)
        builder.mark_heading(entry.level, entry.text, starts[line] + inside)


def _ranges(numbers: list[int]) -> str:
    """Such as `pages 2–4 and 9`."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    shown = [str(a) if a == b else f"{a}–{b}" for a, b in spans]
    shown = [*shown[:20], f"{len(shown) - 20} more ranges"] if len(shown) > 20 else shown
    words = " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else shown[0]
    return f"page{'s' if len(numbers) > 1 else ''} {words}"
