"""Reading the audit, also while a gateway writes it: from a connection of one's own that can change nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.errors import Unavailable
from gateway.audit_rows import Decision, Departure, to_decision, to_departure
from gateway.audit_store import BUSY_MS, VERSION, Trouble, unavailable

if TYPE_CHECKING:
    import apsw

Spent = tuple[str, float, str]
"""(key, US dollars, UTC day as `2026-01-31`)."""


@contextmanager
def opened(path: Path) -> Iterator[apsw.Connection]:
    """The database, for reading. Raises `Unavailable` with what is wrong with it, also for errors inside the block."""
    import apsw

    if not path.exists():
        raise Unavailable(
            f"There is no audit at {path}. The gateway begins one when it starts.", code="audit_unavailable"
        )
    db = None
    try:
        db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        db.set_busy_timeout(BUSY_MS)
        ((version,),) = db.execute("PRAGMA user_version").fetchall()
        if version != VERSION:
            raise Trouble("another version of this program writes it" if version else "it has not been begun yet")
        yield db
    except (apsw.Error, OSError, Trouble) as error:
        raise unavailable(path, error) from error
    except (ValueError, TypeError, KeyError) as error:
        raise Unavailable(
            f"The audit {path} holds a row that is none. `outstation audit verify` finds it.", code="audit_unavailable"
        ) from error
    finally:
        if db is not None:
            db.close()


def decisions(path: Path, since: float, until: float = float("inf")) -> Iterator[Decision]:
    """Decisions of requests that arrived from `since` until before `until` (Unix s), the earliest first."""
    return _decisions(path, "at >= ? AND at < ? ORDER BY at, id", (since, until))


def last_decisions(path: Path, count: int, since: float = 0.0) -> list[Decision]:
    """The newest ones, the newest last, without what only `replay` needs."""
    newest = _decisions(path, "at >= ? ORDER BY id DESC LIMIT ?", (since, count), facts="x''")
    return list(newest)[::-1]


def _decisions(path: Path, what: str, values: Sequence[Any], facts: str = "facts") -> Iterator[Decision]:
    with opened(path) as db:
        sql = f"SELECT body, {facts} FROM rows WHERE kind = 'decision' AND {what}"  # noqa: S608 - constants of this file
        for body, its_facts in db.execute(sql, values):
            yield to_decision(body, its_facts)


def ledger(path: Path, since: float = 0.0) -> Iterator[Departure]:
    """Departures from `since` (Unix s) on, the earliest first."""
    with opened(path) as db:
        for (body,) in db.execute("SELECT body FROM rows WHERE kind = 'egress' AND at >= ? ORDER BY at, id", (since,)):
            yield to_departure(body)
