"""Which documents a filter takes, in SQLite: its comparisons by index, what joins them in memory."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Any, Final

from rag.filters import NEGATIONS, having
from rag.store.engine import Cursor
from rag.types import Comparison, Compound, Filter

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from rag.store.engine import Ids

    Mask = npt.NDArray[np.bool_]

MOST_CACHED: Final = 32


class Allowed:
    """Kept until any file in any store changes. Any thread may ask."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._files: dict[tuple[int, int], tuple[Ids, Ids]] = {}
        self._found: dict[tuple[int, int, str], Ids] = {}

    def of(self, cursor: Cursor, store: int, wanted: Filter | None) -> Ids:
        """The documents of a store's files that the filter takes, ascending, each once."""
        version = cursor.one("SELECT value FROM state WHERE name = 'members'")
        assert version is not None
        # By its text: 1.0 and True are equal in Python, and not in a filter.
        key = (version[0], store, repr(wanted))
        found = self._found.get(key)
        if found is None:
            found = self._looked_up(cursor, version[0], store, wanted)
            self._keep(self._found, key, found)
        return found

    def _looked_up(self, cursor: Cursor, version: int, store: int, wanted: Filter | None) -> Ids:
        import numpy as np

        key = (version, store)
        files = self._files.get(key)
        if files is None:
            files = _completed(cursor, store)
            self._keep(self._files, key, files)
        members, docs = files
        if wanted is not None:
            docs = docs[_mask(cursor, store, wanted, members)]
        return np.unique(docs)

    def _keep(self, kept: dict[Any, Any], key: Any, value: Any) -> None:
        with self._lock:
            while len(kept) >= MOST_CACHED:
                del kept[next(iter(kept))]
            kept[key] = value


def _completed(cursor: Cursor, store: int) -> tuple[Ids, Ids]:
    """The store's files that are completed, by their numbers; and for each its document."""
    sql = "SELECT group_concat(n), group_concat(doc) FROM members WHERE store = ? AND status = 'completed' AND doc > 0"
    row = cursor.one(sql, (store,))
    assert row is not None
    return _numbers(row[0]), _numbers(row[1])


def _mask(cursor: Cursor, store: int, wanted: Filter, members: Ids) -> Mask:
    """Which of the files the filter takes."""
    import numpy as np

    if isinstance(wanted, Compound):
        join = np.logical_and if wanted.op == "and" else np.logical_or
        mask: Mask = join.reduce([_mask(cursor, store, one, members) for one in wanted.filters])
        return mask
    return _compared(cursor, store, wanted, members)


def _compared(cursor: Cursor, store: int, wanted: Comparison, members: Ids) -> Mask:
    import numpy as np

    inner, values = having(wanted, store)
    row = cursor.one(f"SELECT group_concat(member) FROM ({inner})", values)  # noqa: S608
    assert row is not None
    return np.isin(members, _numbers(row[0]), invert=wanted.op in NEGATIONS)


def _numbers(text: str | None) -> Ids:
    """One text in place of thousands of rows."""
    import numpy as np

    # NumPy reads no empty text.
    return np.fromstring(text, np.int64, sep=",") if text else np.empty(0, np.int64)
