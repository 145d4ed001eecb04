"""Who reads which kind. Each reader's library is loaded when the first such file comes, or before a worker forks."""

from __future__ import annotations

from importlib import import_module

from rag.extract.errors import invalid
from rag.extract.kinds import kind_of
from rag.extract.source import Source
from rag.types import Extracted

_READERS = {
    "pdf": "rag.extract.pdf",
    "docx": "rag.extract.docx",
    "html": "rag.extract.html",
    "markdown": "rag.extract.markdown",
    "text": "rag.extract.plain",
    "code": "rag.extract.code",
    "csv": "rag.extract.rows",
    "json": "rag.extract.tree",
    "email": "rag.extract.mail",
}


def load_all() -> None:
    """Import every reader with its library."""
    for module in _READERS.values():
        import_module(module).warm()


def read(source: Source) -> Extracted:
    """Raises `ExtractionError`, and whatever a library raises of a file that is broken in a way of its own."""
    size = source.path.stat().st_size
    if size > source.limits.file_bytes:
        most = source.limits.file_bytes >> 20
        raise invalid(f"{source.name} has {size / (1 << 20):,.0f} MB; at most {most:,} MB are read. Split it.")
    reader = import_module(_READERS[kind_of(source.path, source.name)])
    extracted: Extracted = reader.read(source)
    return extracted
