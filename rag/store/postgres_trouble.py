"""What PostgreSQL's errors mean for whoever asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rag.store.errors import StoreTrouble

if TYPE_CHECKING:
    import psycopg

AGAIN_S: Final = 5.0
_SILENT: Final = "PostgreSQL does not answer"
# By the first characters of the SQLSTATE, the longest first.
_MEANINGS: Final = (
    ("57014", "a statement took too long"),
    ("55P03", "something else is being written for too long"),
    ("40", "two writers were in each other's way"),
    ("53100", "PostgreSQL's disk is full; free some space"),
    ("53300", "PostgreSQL has too many connections"),
    ("57P", _SILENT),
    ("08", _SILENT),
)


def trouble(error: psycopg.Error) -> StoreTrouble:
    """An error without a state is the connection's; others say themselves what is wrong, and may be for good."""
    import psycopg

    state = error.sqlstate or ("08" if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) else "")
    for begin, meaning in _MEANINGS:
        if state.startswith(begin):
            return StoreTrouble(f"The store of documents cannot be used: {meaning}.", retry_after=AGAIN_S)
    said = error.diag.message_primary or type(error).__name__
    return StoreTrouble(f"The store of documents cannot be used: PostgreSQL says: {said}.")
