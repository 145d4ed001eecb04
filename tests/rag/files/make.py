"""Writes the PDFs beside it, all of our own words. Not run by the tests: it needs reportlab, pikepdf and Pillow.

python tests/rag/files/make.py
"""

from __future__ import annotations

import io
import random
from pathlib import Path

import pikepdf
from PIL import Image, ImageDraw, ImageFont
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import getSampleStyleSheet
from reportlab.lib.units import mm
from reportlab.lib.utils import ImageReader
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import BaseDocTemplate, Frame, PageBreak, PageTemplate, Paragraph, Spacer, Table

HERE = Path(__file__).parent
STYLES = getSampleStyleSheet()

SAFETY = (
    "Disconnect the pump from the mains before any work on it. Wait five minutes until the capacitors of the drive "
    "have discharged. Never run the pump dry: the shaft seal is cooled by the liquid and fails within one minute."
)
START = (
    "Open the suction valve fully. Vent the casing at plug V2 until liquid comes without bubbles. Start the motor and "
    "check the direction of rotation against the arrow. Open the discharge valve slowly until 3.2 bar are reached."
)
FAULTS = [
    ["Code", "Meaning", "Remedy"],
    ["E07", "Motor overheated", "Let it cool for 30 minutes, clean the fan cover"],
    ["E12", "Dry running", "Fill and vent the casing"],
    ["E31", "No signal from the pressure sensor", "Check plug X4"],
]


class Manual(BaseDocTemplate):
    """Its headings become the outline."""

    def __init__(self, path: Path, outline: bool, columns: int = 1) -> None:
        super().__init__(str(path), pagesize=A4, title="Pump P-101 manual", author="Outstation", invariant=1)
        width = (A4[0] - 40 * mm) / columns
        frames = [Frame(20 * mm + i * width, 20 * mm, width, A4[1] - 40 * mm, id=f"c{i}") for i in range(columns)]
        self.addPageTemplates(PageTemplate(frames=frames))
        self._outline = outline

    def afterFlowable(self, flowable: object) -> None:  # noqa: N802 - reportlab's name
        if self._outline and isinstance(flowable, Paragraph) and flowable.style.name.startswith("Heading"):
            key = f"h{self.seq.nextf('h')}"
            self.canv.bookmarkPage(key)
            self.canv.addOutlineEntry(flowable.getPlainText(), key, int(flowable.style.name[-1]) - 1)


def story() -> list[object]:
    heading, sub, text = STYLES["Heading1"], STYLES["Heading2"], STYLES["BodyText"]
    return [
        Paragraph("Pump P-101", heading),
        Paragraph("Safety", sub),
        Paragraph(SAFETY, text),
        PageBreak(),
        Paragraph("Operation", heading),
        Paragraph("Starting", sub),
        Paragraph(START, text),
        Spacer(1, 5 * mm),
        Paragraph("Faults", sub),
        Table(FAULTS),
        PageBreak(),
        Paragraph("Maintenance", heading),
        Paragraph("Change the oil every 2000 hours of operation. Use 0.4 litres of ISO VG 46.", text),
    ]


def columns() -> list[object]:
    left = [
        Paragraph(f"Left column, sentence {i}: the valve V{i} belongs to line {i}.", STYLES["BodyText"])
        for i in range(30)
    ]
    right = [
        Paragraph(f"Right column, sentence {i}: sensor S{i} is on line {i}.", STYLES["BodyText"]) for i in range(10)
    ]
    return [*left, *right]


def scan(words: str, seed: int) -> ImageReader:
    """A page as a scanner sees it: grey, a little skewed, with noise."""
    picture = Image.new("L", (1240, 1754), 245)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=32)
    y, line = 200, ""
    for word in [*words.split(), ""]:
        if not word or draw.textlength(f"{line} {word}", font=font) > 980:
            draw.text((130, y), line.strip(), font=font, fill=25)
            y, line = y + 46, ""
        line += f" {word}"
    picture = picture.rotate(0.4, fillcolor=245, resample=Image.Resampling.BICUBIC)
    noise = random.Random(seed)
    for _ in range(600):
        picture.putpixel((noise.randrange(1240), noise.randrange(1754)), 90)
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=55)
    return ImageReader(data)


def write_scans(path: Path, with_text: bool) -> None:
    canvas = Canvas(str(path), pagesize=A4, invariant=1)
    if with_text:
        canvas.drawString(60, 760, "Inspection report of the station at the weir, with two scanned pages.")
        canvas.showPage()
    for seed, words in enumerate([SAFETY, START]):
        canvas.drawImage(scan(words, seed), 0, 0, *A4)
        canvas.showPage()
    canvas.save()


def main() -> None:
    Manual(HERE / "manual.pdf", outline=True).build(story())
    Manual(HERE / "manual-sizes.pdf", outline=False).build(story())
    Manual(HERE / "columns.pdf", outline=False, columns=2).build(columns())
    write_scans(HERE / "scanned.pdf", with_text=False)
    write_scans(HERE / "partly-scanned.pdf", with_text=True)
    with pikepdf.open(HERE / "manual.pdf") as pdf:
        pdf.save(HERE / "password.pdf", encryption=pikepdf.Encryption(owner="owner", user="secret", R=6))
        # Opens without a password, though printing is forbidden.
        pdf.save(HERE / "owner-password.pdf", encryption=pikepdf.Encryption(owner="owner", user="", R=6))


if __name__ == "__main__":
    main()
