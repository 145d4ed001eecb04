"""Why a file has no text for us."""

from __future__ import annotations

from typing import Literal

Code = Literal["unsupported_file", "invalid_file", "server_error"]


class ExtractionError(Exception):
    """A file that was not read.

    Attributes:
        code: OpenAI's, of `last_error`. `unsupported_file`: of a kind that is not read here; `invalid_file`: of a kind
            that is, but not readable; `server_error`: ours, and worth another try.
        message: a sentence for whoever sent the file; it says what to do.
    """

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class ReaderEnded(ExtractionError):
    """The process that read it has ended before it was done."""

    def __init__(self, message: str) -> None:
        super().__init__("server_error", message)


def unsupported(message: str) -> ExtractionError:
    """The kind of file is not read here."""
    return ExtractionError("unsupported_file", message)


def invalid(message: str) -> ExtractionError:
    """The file cannot be read."""
    return ExtractionError("invalid_file", message)
