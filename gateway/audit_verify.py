"""Whether the audit is as it was written: every row against the hash of the row before it, and the totals of money."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import isclose
from pathlib import Path
from typing import Any

from gateway.audit_reader import opened
from gateway.audit_rows import Kind, chained, day_of, to_decision, to_departure


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found.

    Attributes:
        rows: that were read and found right.
        first_bad: id of the first row that is changed, missing or out of its place; None: none, or not one row's fault.
        why: what is wrong; empty: nothing.
        head: the hash of the last row, in hexadecimal. Kept elsewhere, it shows later that nothing before it changed.
        first, last: ids of the rows that are there.
    """

    rows: int
    ok: bool
    first_bad: int | None = None
    why: str = ""
    head: str = ""
    first: int = 0
    last: int = 0


@dataclass(slots=True)
class _Walk:
    """Along the chain, from the anchor on."""

    id: int
    hash: bytes
    rows: int = 0
    money: defaultdict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))
    found: bool = False

    def step(self, row: tuple[int, Kind, float, str, bytes, bytes]) -> str:
        """What is wrong with the next row; empty: nothing."""
        id_, kind, at, body, facts, hash_ = row
        if id_ <= self.id:
            return "preceded by others that were removed"
        if id_ != self.id + 1:
            return "missing" if id_ == self.id + 2 else f"missing, with all up to {id_ - 1}"
        try:
            expected = chained(self.hash, kind, body.encode(), facts)
            its_at = self._read(kind, body, facts)
        except (ValueError, TypeError, KeyError):
            return "not a row of the audit"
        if hash_ != expected or its_at != at:
            return "changed, or in another's place"
        self.id, self.hash, self.rows = id_, hash_, self.rows + 1
        return ""

    def _read(self, kind: Kind, body: str, facts: bytes) -> float:
        if kind == "egress":
            return to_departure(body).at
        decision = to_decision(body, facts)
        if decision.cost > 0:
            self.money[day_of(decision.at + decision.total_s), decision.key] += decision.cost
        return float(decision.at)


def verify(path: Path, known: str = "") -> Verification:
    """Reads the whole audit, as it is now: a gateway may go on writing.

    Args:
        known: a hash that was printed earlier; the chain must still have it.

    Raises:
        Unavailable: there is none, or it cannot be opened.
    """
    import apsw

    with opened(path) as db:
        db.execute("BEGIN").fetchall()
        chain: Any = db.execute("SELECT anchor_id, anchor_hash, head_id, head_hash FROM chain").fetchall()
        if len(chain) != 1:
            return Verification(0, False, None, "the end of the chain is not noted")
        anchor_id, anchor_hash, head_id, head_hash = chain[0]
        walk = _Walk(anchor_id, anchor_hash, found=not known or known == anchor_hash.hex())
        try:
            wrong = next(_problems(walk, db, known), "")
        except apsw.CorruptError:
            wrong = "unreadable: the file is damaged"
        if wrong:
            return _bad(walk, anchor_id, walk.id + 1, f"row {walk.id + 1} is {wrong}")
        if walk.id < head_id:
            return _bad(walk, anchor_id, walk.id + 1, f"rows {walk.id + 1} to {head_id} are missing at the end")
        if (walk.id, walk.hash) != (head_id, head_hash):
            return _bad(walk, anchor_id, walk.id, f"row {walk.id} is not the one that was written last")
        if not walk.found:
            return _bad(walk, anchor_id, None, f"no row has the hash {known}: the chain was begun or written anew")
        short = _short_day(walk, {(day, key): usd for day, key, usd in db.execute("SELECT * FROM spent")})
        if short:
            return _bad(walk, anchor_id, None, short)
        return Verification(walk.rows, True, None, "", walk.hash.hex(), anchor_id + 1, walk.id)


def _problems(walk: _Walk, db: Any, known: str) -> Iterator[str]:
    for row in db.execute("SELECT id, kind, at, body, facts, hash FROM rows ORDER BY id"):
        if problem := walk.step(row):
            yield problem
        walk.found = walk.found or walk.hash.hex() == known


def _short_day(walk: _Walk, spent: dict[tuple[str, str], float]) -> str:
    """Totals outlive the rows that they are made of, so they may be higher than what is left of those; never lower."""
    for (day, key), usd in sorted(walk.money.items()):
        total = spent.get((day, key), 0.0)
        if total < usd and not isclose(total, usd, rel_tol=1e-9):
            return f"the total of {day} for the key {key!r} is {total:.6f} USD, but its rows cost {usd:.6f} USD"
    return ""


def _bad(walk: _Walk, anchor_id: int, row: int | None, why: str) -> Verification:
    return Verification(walk.rows, False, row, why, walk.hash.hex(), anchor_id + 1, walk.id)
