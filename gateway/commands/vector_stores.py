"""How commands name a vector store: by its id, by its name, or not at all where there is only one."""

from __future__ import annotations

from typing import Any

import click

from gateway.commands.client import Connection
from gateway.commands.common import printable


def find_store(link: Connection, wanted: str) -> Any | None:
    """The store with that id or name; None: there is none. Several of that name raise `click.ClickException`."""
    stores = list(link.every("/v1/vector_stores", limit=100, order="asc"))
    for store in stores:
        if store["id"] == wanted:
            return store
    named = [store for store in stores if store["name"] == wanted]
    # One that has expired is empty for good: it is meant only if there is no other.
    named = [store for store in named if store["status"] != "expired"] or named[:1]
    if len(named) > 1:
        ids = ", ".join(store["id"] for store in named)
        raise click.ClickException(
            printable(f"Several vector stores have the name {wanted}: {ids}. Name one by its id.")
        )
    return named[0] if named else None


def the_store(link: Connection, wanted: str | None) -> Any:
    """The store with that id or name; the only one, if none is named. Raises `click.ClickException`."""
    if wanted is not None:
        store = find_store(link, wanted)
        if store is None:
            raise click.ClickException(printable(f"There is no vector store {wanted}. {_there_are(link)}"))
        return store
    stores = list(link.every("/v1/vector_stores", limit=100, order="asc"))
    if len(stores) != 1:
        raise click.ClickException(printable(f"Which vector store? {_there_are(link)}"))
    return stores[0]


def _there_are(link: Connection) -> str:
    stores = [f"{store['name']} ({store['id']})" for store in link.every("/v1/vector_stores", limit=100, order="asc")]
    return f"There are: {', '.join(stores)}." if stores else "There is none yet: `outstation ingest DIR` makes one."
