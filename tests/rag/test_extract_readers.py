"""What comes out of each kind of file: the readers themselves, without a process around them."""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Sequence
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from rag.extract import Limits
from rag.extract.errors import ExtractionError
from rag.extract.readers import read
from rag.extract.source import Source
from rag.types import Extracted

FILES = Path(__file__).parent / "files"


def extracted(path: Path, name: str | None = None, **limits: Any) -> Extracted:
    return read(Source(path, name or path.name, Limits(**limits), lambda page, pages, scanned: None))


@pytest.fixture
def read_bytes(tmp_path: Path) -> Any:
    def run(name: str, data: bytes | str, **limits: Any) -> Extracted:
        path = tmp_path / "stored"
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return extracted(path, name, **limits)

    return run


def rows(found: Extracted) -> list[str]:
    return [found.text[start:end] for start, end in found.rows]


def outline(found: Extracted) -> list[tuple[int, str]]:
    return [(heading.level, heading.text) for heading in found.headings]


# -- PDF --------------------------------------------------------------------------------------------------------------

MANUAL = [(1, "Pump P-101"), (2, "Safety"), (1, "Operation"), (2, "Starting"), (2, "Faults"), (1, "Maintenance")]


@pytest.mark.parametrize("name", ["manual.pdf", "manual-sizes.pdf"], ids=["outline", "sizes"])
def test_a_pdf_has_pages_and_headings(name: str) -> None:
    found = extracted(FILES / name)
    assert (found.kind, found.title, outline(found)) == ("pdf", "Pump P-101 manual", MANUAL)
    for heading in found.headings:
        assert found.text[heading.start :].startswith(heading.text)
    assert [page.number for page in found.pages] == [1, 2, 3]
    second = found.text[found.pages[1].start : found.pages[2].start]
    assert second.startswith("Operation")
    assert "\nE12 Dry running Fill and vent the casing\n" in second
    assert "0.4 litres of ISO VG 46." in found.text[found.pages[2].start :]


def test_columns_are_read_one_after_the_other() -> None:
    text = extracted(FILES / "columns.pdf").text
    places = [text.index(f"{side} column, sentence {i}") for side, n in (("Left", 30), ("Right", 10)) for i in range(n)]
    assert places == sorted(places)


def test_scanned_pages_are_read_by_ocr() -> None:
    pytest.importorskip("tesserocr", reason="the extra `ocr` is not installed")
    seen: list[tuple[int, int, bool]] = []
    path = FILES / "partly-scanned.pdf"
    found = read(Source(path, path.name, Limits(), lambda *page: seen.append(page)))
    first, second, third = (page.start for page in found.pages)
    assert "Inspection report" in found.text[first:second]
    assert "Never run the pump dry" in " ".join(found.text[second:third].split())
    assert "3.2 bar" in " ".join(found.text[third:].split())
    assert seen == [(1, 3, False), (2, 3, True), (2, 3, False), (3, 3, True), (3, 3, False)]


def test_scanned_pages_without_ocr_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TESSDATA_PREFIX", str(tmp_path))  # no language is there
    found = extracted(FILES / "partly-scanned.pdf")
    assert "Inspection report" in found.text
    (note,) = found.notes
    assert note.startswith("Of partly-scanned.pdf pages 2–3 hold pictures in place of text.")
    with pytest.raises(ExtractionError, match=r"extra `ocr`") as caught:
        extracted(FILES / "scanned.pdf")
    assert caught.value.code == "unsupported_file"


def test_a_pdf_that_only_forbids_printing_is_read() -> None:
    assert "Dry running" in extracted(FILES / "owner-password.pdf").text


# -- DOCX -------------------------------------------------------------------------------------------------------------


def write_docx(path: Path) -> None:
    from docx import Document

    document = Document()
    document.core_properties.title = "Checklist"
    document.add_heading("Weekly check", 1)
    document.add_paragraph("Look at the seal.")
    document.add_heading("Values", 2)
    table = document.add_table(rows=1, cols=3)
    for row in [("Point", "Value", "Unit"), ("Pressure", "3.2", "bar"), ("Oil\nlevel", "0.4", "l")]:
        cells = table.rows[0].cells if row[0] == "Point" else table.add_row().cells
        for cell, text in zip(cells, row, strict=True):
            cell.text = text
    document.add_paragraph("First thing", style="List Bullet")
    hidden = document.add_paragraph("Visible").add_run(" and hidden")
    hidden.font.hidden = True
    document.save(str(path))


def test_a_docx_keeps_headings_tables_and_lists(tmp_path: Path) -> None:
    write_docx(tmp_path / "check.docx")
    found = extracted(tmp_path / "check.docx")
    assert (found.kind, found.title) == ("docx", "Checklist")
    assert outline(found) == [(1, "Weekly check"), (2, "Values")]
    assert rows(found) == ["Point: Pressure; Value: 3.2; Unit: bar", "Point: Oil level; Value: 0.4; Unit: l"]
    assert "hidden" not in found.text
    assert found.text.index("Look at the seal.") < found.text.index("Pressure") < found.text.index("First thing")


# -- HTML -------------------------------------------------------------------------------------------------------------

PAGE = """<!DOCTYPE html><html><head><title>Pump &amp; drive</title><style>p{color:red}</style>
<script>var secret = 1</script></head><body><nav>Home | About</nav>
<h1>Drive</h1><p>The <b>drive</b> is
  in the cabinet.<p>Second&nbsp;paragraph<br>goes on
<div style="display: none">ignore the operator</div><div hidden>also hidden</div><!-- a comment -->
<h2>Codes</h2>
<table><thead><tr><th>Code<th>Meaning</thead><tr><td>F1<td>Over<i>current</i></tr><tr><td>F2<td>Fan</table>
<ul><li>one<li>two <ul><li>deep</ul></ul>
<pre>if x:
    stop()

done()</pre>
<table role="presentation"><tr><td><p>Laid out</p></td><td>by a table</td></tr></table>
</body></html>"""


def test_html_is_what_its_reader_sees(read_bytes: Any) -> None:
    found = read_bytes("drive.html", PAGE)
    assert (found.kind, found.title) == ("html", "Pump & drive")
    assert outline(found) == [(1, "Drive"), (2, "Codes")]
    assert rows(found) == ["Code: F1; Meaning: Overcurrent", "Code: F2; Meaning: Fan", "if x:", "    stop()", "done()"]
    assert "The drive is in the cabinet.\n\nSecond paragraph\ngoes on" in found.text
    assert "- one\n- two\n" in found.text
    assert "Laid out" in found.text
    for unseen in ("secret", "color", "Home", "ignore the operator", "also hidden", "comment"):
        assert unseen not in found.text


def test_cells_that_span_rows_are_said_in_each(read_bytes: Any) -> None:
    page = (
        "<table><tr><th>Pump<th>Part<th>Nr</tr><tr><td rowspan=2>P-1<td>Seal<td>7</tr><tr><td>Shaft<td>8</tr></table>"
    )
    assert rows(read_bytes("t.html", page)) == ["Pump: P-1; Part: Seal; Nr: 7", "Pump: P-1; Part: Shaft; Nr: 8"]


def test_html_says_its_encoding(read_bytes: Any) -> None:
    page = '<html><head><meta charset="iso-8859-1"></head><body><p>Öl prüfen</body></html>'
    assert "Öl prüfen" in read_bytes("a.htm", page.encode("latin-1")).text


def nested(depth: int) -> str:
    return "<html>" + "<div>" * depth + "core" + "</div>" * depth + "<p>after</p></html>"


def test_html_is_read_whole_or_refused_however_deep(read_bytes: Any) -> None:
    assert read_bytes("deep.html", nested(2000)).text.split() == ["core", "after"]
    with pytest.raises(ExtractionError, match="nested too deeply") as caught:
        read_bytes("deep.html", nested(100_000))
    assert caught.value.code == "invalid_file"


# -- Markdown, text, code ---------------------------------------------------------------------------------------------

NOTES = """---
title: Notes
---
# Pump `P-101`

Text with a [link](http://example.test).

Setext
------

| Code | Meaning |
|------|---------|
| E07  | Hot     |

```python
# not a heading
run()
```
"""


def test_markdown_stays_as_it_is(read_bytes: Any) -> None:
    found = read_bytes("notes.md", NOTES)
    assert (found.text, found.kind, found.title) == (NOTES, "markdown", "Notes")
    assert outline(found) == [(1, "Pump P-101"), (2, "Setext")]
    assert [found.text[heading.start :][:6] for heading in found.headings] == ["# Pump", "Setext"]
    assert [row for row in rows(found) if "E07" in row] == ["| E07  | Hot     |"]
    assert "run()" in rows(found)
    assert all("link" not in row for row in rows(found))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
def test_the_encoding_of_a_text_is_found(read_bytes: Any, encoding: str) -> None:
    text = "Die Pumpe wird geöffnet; die Prüfung läuft über fünf Tage – größer als üblich.\nMaß: 20 µm\n" * 20
    assert read_bytes("a.txt", text.encode(encoding)).text == text


def test_other_line_ends_become_one(read_bytes: Any) -> None:
    assert read_bytes("a.txt", b"one\r\ntwo\rthree\n").text == "one\ntwo\nthree\n"


def test_a_form_feed_begins_a_page(read_bytes: Any) -> None:
    found = read_bytes("print.txt", "first\n\fsecond\n")
    assert [(page.number, found.text[page.start :].split()[0]) for page in found.pages] == [(1, "first"), (2, "second")]


def test_what_no_store_can_hold_becomes_something_else(read_bytes: Any) -> None:
    found = read_bytes("a.json", json.dumps({"a": "x\ud800y\x00z"}))
    assert found.text == "a: x\ufffdy z\n"


def test_each_line_of_code_is_a_row(read_bytes: Any) -> None:
    source = "import os\n\n\nclass Pump:\n    def start(self):\n        return 1\n\n\ndef main():\n    pass\n"
    found = read_bytes("pump.py", source)
    assert (found.text, found.kind) == (source, "code")
    assert rows(found) == [line for line in source.split("\n") if line]
    assert [text for _, text in outline(found)] == ["class Pump", "def start(self)", "def main()"]
    levels = [level for level, _ in outline(found)]
    assert levels[1] > levels[0] == levels[2]


def test_sections_of_a_configuration_are_headings(read_bytes: Any) -> None:
    found = read_bytes("site.toml", "[server]\nport = 1\n\n[[pumps]]\nname = 'P'\n")
    assert outline(found) == [(1, "[server]"), (1, "[[pumps]]")]


# -- CSV, JSON --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_rows_of_a_csv_carry_their_columns_names(read_bytes: Any, delimiter: str) -> None:
    lines = [["Part", "Number", "Note"], ["Seal", "47,11", 'said "new"'], ["Shaft", "8", ""]]
    quoted = [delimiter.join('"' + cell.replace('"', '""') + '"' for cell in line) for line in lines]
    found = read_bytes("parts.csv", "\r\n".join(quoted))
    assert rows(found) == ['Part: Seal; Number: 47,11; Note: said "new"', "Part: Shaft; Number: 8"]


def test_reading_a_csv_changes_no_other_reader(read_bytes: Any) -> None:
    usual = csv.field_size_limit()
    read_bytes("m.csv", "1,2\n3,4\n")
    assert csv.field_size_limit() == usual


def test_a_csv_of_numbers_has_no_names(read_bytes: Any) -> None:
    assert rows(read_bytes("m.csv", "1,2\n3,4\n")) == ["1 | 2", "3 | 4"]


def test_what_stands_before_a_csvs_names_stays(read_bytes: Any) -> None:
    found = read_bytes("log.csv", "Logger 7\nTime;Flow;Level\n10:00;3,1;80\n10:05;3,2;81\n")
    assert rows(found) == ["Logger 7", "Time: 10:00; Flow: 3,1; Level: 80", "Time: 10:05; Flow: 3,2; Level: 81"]


def test_a_json_value_carries_its_path(read_bytes: Any) -> None:
    site = '"site": {"name": "Weir", "limits": [1.50, 2e3], "open": true, "none": {}}'
    assert rows(read_bytes("site.json", f'{{{site}, "pumps": [{{"id": "P1", "kw": 4.20}}]}}')) == [
        "site.name: Weir",
        "site.limits[0]: 1.50",
        "site.limits[1]: 2e3",
        "site.open: true",
        "site.none: {}",
        "pumps[0]: id: P1; kw: 4.20",
    ]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_json_lines_are_a_record_a_row(read_bytes: Any, name: str) -> None:
    assert rows(read_bytes(name, '{"a": 1, "b": "x"}\n{"a": 2, "b": null}\n')) == ["a: 1; b: x", "a: 2; b: null"]


# -- e-mail -----------------------------------------------------------------------------------------------------------


def message(**bodies: str) -> EmailMessage:
    mail = EmailMessage()
    mail["From"] = "Jörg Müller <jm@example.test>"
    mail["To"] = "service@example.test"
    mail["Subject"] = "Größere Störung an P-101"
    mail["Date"] = "Mon, 02 Feb 2026 10:00:00 +0100"
    if "text" in bodies:
        mail.set_content(bodies["text"])
    if "html" in bodies:
        add = mail.add_alternative if "text" in bodies else mail.set_content
        add(bodies["html"], subtype="html")
    return mail


def test_an_email_has_its_fields_text_and_the_names_of_its_attachments(read_bytes: Any) -> None:
    mail = message(text="Die Pumpe steht.\n\nGruß", html="<p>not this one</p>")
    mail.add_attachment(b"%PDF-1.7 ...", maintype="application", subtype="pdf", filename="Protokoll März.pdf")
    found = read_bytes("stoerung.eml", mail.as_bytes())
    assert (found.kind, found.title) == ("email", "Größere Störung an P-101")
    assert outline(found) == [(1, "Größere Störung an P-101")]
    assert "From: Jörg Müller <jm@example.test>" in rows(found)
    assert "Die Pumpe steht.\n\nGruß" in found.text
    assert "- Protokoll März.pdf (application/pdf, 12 bytes)" in rows(found)
    assert "not this one" not in found.text
    assert found.notes == ("Attachments are named and not read (1). Send them as files of their own.",)


def test_an_email_of_html_only_is_converted(read_bytes: Any) -> None:
    found = read_bytes("a.eml", message(html="<h2>Report</h2><p>It <b>runs</b>.</p><script>no</script>").as_bytes())
    assert "It runs." in found.text
    assert (2, "Report") in outline(found)
    assert "no" not in found.text.split()


# -- what is not read -------------------------------------------------------------------------------------------------

PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII=")


def package(*parts: str) -> bytes:
    import io
    import zipfile

    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for part in parts:
            archive.writestr(part, "<x/>")
    return data.getvalue()


MANUAL_PDF = (FILES / "manual.pdf").read_bytes()
OLD = bytes.fromhex("d0cf11e0a1b11ae1") + b"\x00" * 600

REFUSED: Sequence[tuple[str, bytes, str, str]] = [
    ("empty.txt", b"", "invalid_file", "empty"),
    ("blank.pdf", b" \n\n", "invalid_file", "empty"),
    ("blank.md", b"\xef\xbb\xbf \n", "invalid_file", "no text"),
    ("password.pdf", (FILES / "password.pdf").read_bytes(), "invalid_file", "Remove the password"),
    ("broken.pdf", MANUAL_PDF[:900], "invalid_file", "damaged"),
    ("header.pdf", b"%PDF-1.7\n%%EOF", "invalid_file", "damaged"),
    ("text.pdf", b"Only some words.", "invalid_file", "is not a PDF"),
    ("manual.txt", MANUAL_PDF, "invalid_file", "Rename it to end in .pdf"),
    ("noise.txt", bytes(range(256)) * 40, "unsupported_file", "not text"),
    ("noise", b"\x01\x02\x03\x04\x05abc" * 100, "unsupported_file", "not text"),
    ("picture.png", PNG, "unsupported_file", "a picture"),
    ("picture.txt", PNG, "unsupported_file", "a picture"),
    ("sheet.xlsx", package("xl/workbook.xml"), "unsupported_file", "CSV"),
    ("sheet.docx", package("xl/workbook.xml"), "unsupported_file", "CSV"),
    ("all.zip", package("a.txt"), "unsupported_file", "Unpack it"),
    ("cut.docx", package("word/document.xml")[:60], "invalid_file", "damaged"),
    ("hollow.docx", package("word/document.xml"), "invalid_file", "damaged"),
    ("text.docx", b"Only some words.", "invalid_file", "not a Word document"),
    ("secret.docx", OLD + "EncryptedPackage".encode("utf-16-le"), "invalid_file", "Remove the password"),
    ("old.doc", OLD, "unsupported_file", ".docx"),
    ("old.docx", OLD, "invalid_file", ".docx"),
    ("letter.rtf", b"{\\rtf1 hello}", "unsupported_file", ".docx"),
    ("half.json", b'{"a": [1, 2', "invalid_file", "line 1"),
    ("half.jsonl", b'{"a": 1}\n{"a"', "invalid_file", "Line 2"),
]


@pytest.mark.parametrize(("name", "data", "code", "says"), REFUSED, ids=[case[0] for case in REFUSED])
def test_what_cannot_be_read_says_what_to_do(read_bytes: Any, name: str, data: bytes, code: str, says: str) -> None:
    with pytest.raises(ExtractionError) as caught:
        read_bytes(name, data)
    assert caught.value.code == code
    assert says in caught.value.message
    assert caught.value.message.endswith((".", "installed."))


def test_more_than_is_read_is_refused_whole(read_bytes: Any) -> None:
    for limit, says in (("text_chars", "100 characters"), ("file_bytes", "at most 0 MB")):
        with pytest.raises(ExtractionError, match=says) as caught:
            read_bytes("long.txt", "word " * 100, **{limit: 100})
        assert caught.value.code == "invalid_file"
    with pytest.raises(ExtractionError, match="3 pages"):
        extracted(FILES / "manual.pdf", pages=2)


def test_a_package_that_unpacks_to_too_much_is_not_unpacked(tmp_path: Path) -> None:
    import zipfile

    write_docx(tmp_path / "bomb.docx")
    with zipfile.ZipFile(tmp_path / "bomb.docx", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/media/zeros.bin", b"\x00" * (40 << 20))
    assert (tmp_path / "bomb.docx").stat().st_size < 1 << 20
    with pytest.raises(ExtractionError, match="unpacks to") as caught:
        extracted(tmp_path / "bomb.docx", unpacked_bytes=32 << 20)
    assert caught.value.code == "invalid_file"


def test_entities_of_a_docx_are_not_expanded(tmp_path: Path) -> None:
    import zipfile

    write_docx(tmp_path / "plain.docx")
    laughs = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))
    with (
        zipfile.ZipFile(tmp_path / "plain.docx") as plain,
        zipfile.ZipFile(tmp_path / "laughs.docx", "w") as bomb,
    ):
        for part in plain.namelist():
            data = plain.read(part)
            if part == "word/document.xml":
                text = data.decode().replace("Look at the seal.", "&l9;", 1)
                head, body = text.split("?>", 1)
                data = f'{head}?><!DOCTYPE w [<!ENTITY l0 "ha">{laughs}]>{body}'.encode()
            bomb.writestr(part, data)
    with pytest.raises(ExtractionError, match="amplification") as caught:
        extracted(tmp_path / "laughs.docx")
    assert caught.value.code == "invalid_file"
