"""What outlives a reload of the configuration: the books, the audit, the metrics, and the backends that stay the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from backends.types import ModelState
from gateway.audit import Audit
from gateway.books import Books
from gateway.config import Config
from gateway.egress import Boundary
from gateway.estimates import Estimates
from gateway.metrics import Metrics
from gateway.pool import Pool
from gateway.spending import Spending


@dataclass(slots=True)
class Shared:
    """One for the process."""

    metrics: Metrics
    audit: Audit
    books: Books
    boundary: Boundary
    pool: Pool = field(default_factory=Pool)
    running_ids: set[str] = field(default_factory=set)

    def start(self) -> None:
        """Opens the audit and reads back what was spent. A store that cannot be opened lets nothing leave."""
        self.audit.start()

    def close(self) -> None:
        """Writes what is still to be written."""
        self.audit.close()


def build_shared(config: Config, states: Callable[[], Iterable[ModelState]]) -> Shared:
    """Opens nothing yet."""
    books = Books(Spending(time.time), Estimates())
    audit = Audit(config.home / "audit.db", config.audit.keep_days, books.spending.load)
    return Shared(Metrics(states), audit, books, Boundary(audit))
