"""What kind of file it is, by its name and by its first bytes: where the two do not agree, it is refused."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path, PurePosixPath

from rag.extract.decoding import looks_like_text
from rag.extract.errors import ExtractionError, invalid, unsupported

HEAD_BYTES = 1 << 16
READERS = 1
"""To be raised when a file's text becomes another one: what was read before is then read anew when it is sent again."""

_BY_SUFFIX = {
    "pdf": "pdf",
    "docx": "docx",
    **dict.fromkeys(["html", "htm", "xhtml"], "html"),
    **dict.fromkeys(["md", "markdown", "mdown", "mdx"], "markdown"),
    **dict.fromkeys(["csv", "tsv", "tab"], "csv"),
    **dict.fromkeys(["json", "jsonl", "ndjson", "geojson"], "json"),
    "eml": "email",
    **dict.fromkeys(["txt", "text", "log", "rst", "adoc", "asciidoc", "org", "tex", "srt", "vtt"], "text"),
    **dict.fromkeys(
        "awk bash bat c cc cfg clj cmake cmd conf cpp cs css cxx dart diff ebnf el elm env erl ex exs f90 fish go "
        "gradle graphql groovy h hh hpp hs ini ino java jl js jsx kt kts less lisp lua m mjs ml nix pas patch php pl "
        "pm properties proto ps1 py pyi r rb rs sass scala scl scm scss sh sql st svelte swift tcl tf toml ts tsx "
        "vb vba vbs vhd vhdl v vue xml xsd xsl yaml yml zig zsh".split(),
        "code",
    ),
}
_BY_NAME = dict.fromkeys(["dockerfile", "containerfile", "makefile", "cmakelists.txt", "jenkinsfile", ".env"], "code")

# What people send, and what to do with it.
_ADVICE = {
    "doc": ("an old Word document", "Save it as .docx or PDF."),
    "rtf": ("an RTF document", "Save it as .docx or PDF."),
    "odt": ("an OpenDocument text", "Save it as .docx or PDF."),
    "xls": ("a spreadsheet", "Save its sheets as CSV."),
    "xlsx": ("a spreadsheet", "Save its sheets as CSV."),
    "ods": ("a spreadsheet", "Save its sheets as CSV."),
    "ppt": ("a presentation", "Save it as PDF."),
    "pptx": ("a presentation", "Save it as PDF."),
    "odp": ("a presentation", "Save it as PDF."),
    "epub": ("an e-book", "Save it as PDF or HTML."),
    "msg": ("an Outlook message", "Save it as .eml."),
    "zip": ("an archive", "Unpack it and send its files."),
    "image": ("a picture", "Put it into a PDF: its text is read there where the extra `ocr` is installed."),
    "media": ("a recording", "Send its transcript as text."),
    "program": ("a program", "Send a document."),
    "database": ("a database", "Export its tables as CSV."),
}
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "package"),
    (b"PK\x05\x06", "zip"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "ole"),
    (b"{\\rtf", "rtf"),
    (b"\x1f\x8b", "zip"),
    (b"BZh", "zip"),
    (b"7z\xbc\xaf\x27\x1c", "zip"),
    (b"\xfd7zXZ\x00", "zip"),
    (b"\x28\xb5\x2f\xfd", "zip"),
    (b"Rar!\x1a\x07", "zip"),
    (b"\x89PNG\r\n", "image"),
    (b"\xff\xd8\xff", "image"),
    (b"GIF8", "image"),
    (b"II*\x00", "image"),
    (b"MM\x00*", "image"),
    (b"RIFF", "media"),
    (b"ID3", "media"),
    (b"OggS", "media"),
    (b"fLaC", "media"),
    (b"\x7fELF", "program"),
    (b"MZ\x90\x00", "program"),
    (b"\xca\xfe\xba\xbe", "program"),
    (b"SQLite format 3\x00", "database"),
)
_PACKED = (
    ("word/document.xml", "docx"),
    ("xl/workbook.xml", "xlsx"),
    ("xl/workbook.bin", "xlsx"),
    ("ppt/presentation.xml", "pptx"),
    ("META-INF/container.xml", "epub"),
)
_WORDS = {"pdf": "a PDF", "docx": "a Word document (.docx)"}
_HTML = re.compile(
    rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.{0,2000}?-->\s*)*<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL
)
_MAIL = re.compile(rb"(?:[A-Za-z][A-Za-z0-9-]{1,40}:[^\n]*\n(?:[ \t][^\n]*\n)*){2,}\r?\n")
_MAIL_FIELDS = re.compile(rb"^(?:from|to|subject|date|message-id|received|mime-version):", re.IGNORECASE | re.MULTILINE)


def kind_of(path: Path, name: str) -> str:
    """What to read the file as.

    Raises `ExtractionError`: an empty file, one whose name promises another kind, one of a kind that is not read here.
    """
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head.strip(b"\x00 \t\r\n"):
        raise invalid(f"{name} is empty.")
    promised = _by_name(name)
    found = _by_content(path, head)
    if found in ("pdf", "docx"):
        if promised not in (found, None):
            raise invalid(f"{name} is {_WORDS[found]} by its content. Rename it to end in .{found} and send it again.")
        return found
    if found == "ole":
        raise _old_office(path, name)
    if found:
        raise _not_read(found, name)
    if promised in _WORDS:
        raise invalid(f"{name} is not {_WORDS[promised]}: it is damaged, or has a wrong ending. Send the original.")
    if not looks_like_text(head):
        raise unsupported(f"{name} is not text, nor any other kind of file that is read here. Send it as PDF or text.")
    suffix = _suffix(name)
    if suffix in _ADVICE and promised is None:
        raise _not_read(suffix, name)
    return promised or _kind_of_text(head)


def promised(name: str) -> str:
    """What the name says that the file is; empty: nothing."""
    return _by_name(name) or ""


def _suffix(name: str) -> str:
    return PurePosixPath(name.replace("\\", "/")).suffix.lower().lstrip(".")


def _by_name(name: str) -> str | None:
    plain = PurePosixPath(name.replace("\\", "/")).name.lower()
    return _BY_NAME.get(plain) or _BY_SUFFIX.get(_suffix(name))


def _by_content(path: Path, head: bytes) -> str | None:
    # Viewers take a PDF whose header stands within the first kilobyte; one that begins with text is a text about PDFs.
    at = head[:1024].find(b"%PDF-")
    if at == 0 or (at > 0 and not head[:at].strip(b"\x00\xef\xbb\xbf \r\n\t")):
        return "pdf"
    found = next((kind for magic, kind in _MAGIC if head.startswith(magic)), None)
    return _of_package(path) if found == "package" else found


def _of_package(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as package:
            names = set(package.namelist())
            kind = next((kind for part, kind in _PACKED if part in names), None)
            if kind is None and "mimetype" in names and package.getinfo("mimetype").file_size < 100:
                mimetype = package.read("mimetype").decode("ascii", "replace")
                kind = next((k for k in ("odt", "ods", "odp") if mimetype.endswith(_ODF[k])), None)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError):
        return "broken"
    return kind or "zip"


_ODF = {"odt": "opendocument.text", "ods": "opendocument.spreadsheet", "odp": "opendocument.presentation"}


def _old_office(path: Path, name: str) -> ExtractionError:
    with path.open("rb") as file:
        start = file.read(8 << 20)
    if "EncryptedPackage".encode("utf-16-le") in start:
        return invalid(f"{name} is protected with a password. Remove the password and send it again.")
    if _suffix(name) == "docx":
        return invalid(f"{name} is an old Office document by its content. Open it and save it as .docx.")
    return _not_read(_suffix(name) if _suffix(name) in ("doc", "xls", "ppt", "msg") else "doc", name)


def _not_read(kind: str, name: str) -> ExtractionError:
    if kind == "broken":
        return invalid(f"{name} is damaged: it begins as a package and cannot be unpacked. Send the original.")
    what, advice = _ADVICE[kind]
    return unsupported(f"{name} is {what}, which is not read here. {advice}")


def _kind_of_text(head: bytes) -> str:
    if _HTML.match(head.removeprefix(b"\xef\xbb\xbf")):
        return "html"
    start = _MAIL.match(head)
    if start and len(_MAIL_FIELDS.findall(start[0])) >= 2:
        return "email"
    return "text"
