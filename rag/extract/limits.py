"""What one file may cost, and how it is to be cut."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from rag.chunks import Strategy


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one file's extraction.

    Attributes:
        seconds: of the clock, and of the CPU.
        ocr_seconds: the same for a file with scanned pages, all pages together.
        memory_bytes: of address space, with Python and the libraries (about 250 MB) in it.
        file_bytes: OpenAI's is 512 MB.
        text_chars: of the text that comes out; OpenAI takes 5,000,000 tokens a file.
        pages: of a PDF.
        unpacked_bytes: of what is packed into a DOCX.
    """

    seconds: float = 120.0
    ocr_seconds: float = 1800.0
    memory_bytes: int = 1536 << 20
    file_bytes: int = 512 << 20
    text_chars: int = 20_000_000
    pages: int = 20_000
    unpacked_bytes: int = 256 << 20


@dataclass(frozen=True, slots=True)
class Cutting:
    """How a file is cut.

    Attributes:
        embedder: the folder of the small model whose tokenizer counts.
    """

    embedder: Path
    strategy: Strategy = field(default_factory=Strategy)
