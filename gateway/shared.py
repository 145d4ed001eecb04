"""What outlives a reload of the configuration: books, audit, metrics, and the backends that stay the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from gateway.audit import Audit
from gateway.books import Books
from gateway.config import Config
from gateway.documents.library import Library
from gateway.egress import Boundary
from gateway.estimates import Estimates
from gateway.metrics import Metrics, RouteFigure
from gateway.pool import Pool
from gateway.responses.archive import Archive
from gateway.responses.background import Background
from gateway.spending import Spending
from gateway.state import Site


@dataclass(slots=True)
class Shared:
    """One for the process."""

    metrics: Metrics
    audit: Audit
    books: Books
    boundary: Boundary
    archive: Archive
    background: Background
    library: Library
    pool: Pool = field(default_factory=Pool)
    running_ids: set[str] = field(default_factory=set)

    def start(self) -> None:
        """Opens the audit and reads back what was spent. A store that cannot be opened lets nothing leave."""
        self.audit.start()

    def close(self) -> None:
        """Writes what is still to be written."""
        self.library.close()
        self.archive.close()
        self.audit.close()


def build_shared(config: Config, site: Callable[[], Site]) -> Shared:
    """Opens nothing yet."""
    books = Books(Spending(time.time), Estimates())
    audit = Audit(config.home / "audit.db", config.audit.keep_days, books.spending.load)

    def figures() -> Iterable[RouteFigure]:
        return (*books.estimates.figures(), *_own_figures(audit, books, site()))

    metrics = Metrics(lambda: site().states(), figures)
    archive = Archive(config.home / "responses.db", config.responses.keep_days, config.responses.max_mb << 20)
    return Shared(metrics, audit, books, Boundary(audit), archive, Background(archive), _library(config))


def _library(config: Config) -> Library:
    where = config.documents.store or str(config.home / "documents.db")
    if "://" not in where:
        where = str((config.source.parent if config.source else Path.cwd()) / Path(where).expanduser())
    return Library(where, config.document_key, config.home / "documents-work")


class Figure(NamedTuple):
    """A gauge of each route, for `/metrics`."""

    name: str
    help: str
    values: tuple[tuple[str, float], ...]


def _own_figures(audit: Audit, books: Books, site: Site) -> Iterable[Figure]:
    remote = [(route.name, site.health(route)) for route in site.routes() if route.location == "remote"]
    spent = books.spending.spent("")
    yield Figure(
        "outstation_route_reachable",
        "1 while a provider's model can be asked: link, breaker and the operator's switch.",
        tuple((name, float(not (health.reason or site.offline))) for name, health in remote),
    )
    yield Figure(
        "outstation_route_ttft_seconds",
        "A provider's time to the first token of late.",
        tuple((name, health.ttft_s) for name, health in remote if health.ttft_s),
    )
    yield Figure(
        "outstation_audit_healthy", "1 while decisions and departures can be recorded.", (("", audit.healthy),)
    )
    yield Figure("outstation_audit_lost", "Decisions that could not be recorded.", (("", audit.lost),))
    yield Figure("outstation_spent_usd_day", "Spent and reserved today (UTC), in US dollars.", (("", spent.site_day),))
    yield Figure("outstation_spent_usd_month", "The same of this month.", (("", spent.site_month),))
