"""From a file to its text: each kind by a library that is well kept, in a process with limits of its own."""

from __future__ import annotations

from rag.extract.errors import ExtractionError
from rag.extract.limits import Cutting, Limits
from rag.extract.process import Extractor, extract

__all__ = ["Cutting", "ExtractionError", "Extractor", "Limits", "extract"]
