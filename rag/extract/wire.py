"""What the worker and its caller say to each other: JSON lines on one socket a file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any, cast

import orjson

from rag.chunks import Strategy
from rag.extract.errors import Code, ExtractionError
from rag.extract.limits import Cutting, Limits
from rag.types import Chunk, Document, Extracted, Heading, Page


def pack_path(path: Path) -> str:
    """As JSON: a name on the disk need not be text in any encoding."""
    return os.fsencode(path).hex()


def unpack_path(raw: str) -> Path:
    """The inverse."""
    return Path(os.fsdecode(bytes.fromhex(raw)))


def pack_limits(limits: Limits) -> dict[str, Any]:
    """As JSON."""
    return asdict(limits)


def unpack_limits(raw: Mapping[str, Any]) -> Limits:
    """The inverse."""
    return Limits(**raw)


def pack_cutting(cutting: Cutting) -> dict[str, Any]:
    """As JSON."""
    return {"embedder": pack_path(cutting.embedder), "strategy": asdict(cutting.strategy)}


def unpack_cutting(raw: Mapping[str, Any]) -> Cutting:
    """The inverse."""
    return Cutting(unpack_path(raw["embedder"]), Strategy(**raw["strategy"]))


def pack(extracted: Extracted, chunks: Sequence[Chunk] = ()) -> bytes:
    """One line. Places are flat lists: a file of code has a row a line."""
    return dumps(
        {
            "op": "done",
            "chunks": [_chunk(chunk) for chunk in chunks],
            "text": extracted.text,
            "kind": extracted.kind,
            "title": extracted.title,
            "notes": extracted.notes,
            "pages": list(chain.from_iterable((page.number, page.start) for page in extracted.pages)),
            "headings": [(heading.level, heading.text, heading.start) for heading in extracted.headings],
            "rows": list(chain.from_iterable(extracted.rows)),
        }
    )


def unpack(raw: Mapping[str, Any]) -> Extracted:
    """The inverse of `pack`."""
    pages, rows = raw["pages"], raw["rows"]
    return Extracted(
        text=raw["text"],
        kind=raw["kind"],
        title=raw["title"],
        pages=tuple(Page(number, start) for number, start in zip(pages[::2], pages[1::2], strict=True)),
        headings=tuple(Heading(level, text, start) for level, text, start in raw["headings"]),
        rows=tuple(zip(rows[::2], rows[1::2], strict=True)),
        notes=tuple(raw["notes"]),
    )


def unpack_document(raw: Mapping[str, Any]) -> Document:
    """The same, with its chunks."""
    extracted = unpack(raw)
    chunks = (
        Chunk(extracted.text[start:end], start, end, tokens, tuple(headings), page, tuple(Page(*one) for one in pages))
        for start, end, tokens, headings, page, pages in raw["chunks"]
    )
    return Document(extracted, tuple(chunks))


def pack_error(error: ExtractionError) -> bytes:
    """One line."""
    return dumps({"op": "failed", "code": error.code, "message": error.message})


def unpack_error(raw: Mapping[str, Any]) -> ExtractionError:
    """The inverse."""
    return ExtractionError(cast(Code, raw["code"]), str(raw["message"]))


def dumps(message: Mapping[str, Any]) -> bytes:
    """One line."""
    return orjson.dumps(message) + b"\n"


def _chunk(chunk: Chunk) -> tuple[Any, ...]:
    pages = [(page.number, page.start) for page in chunk.pages]
    return chunk.start, chunk.end, chunk.tokens, chunk.headings, chunk.page, pages
