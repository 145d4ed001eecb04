"""`outstation reindex`: give a vector store the vectors of another embedder, while the old ones serve."""

from __future__ import annotations

import os
import sys
import time
from typing import Any, Final

import click

from gateway.commands.client import Connection, Gateway, gateway_options
from gateway.commands.common import echo_json, json_option, printable
from gateway.commands.ingest_objects import Show
from gateway.commands.ingest_show import showing
from gateway.commands.vector_stores import the_store

_LOOK_S: Final = 0.5


@click.command()
@click.argument("store", metavar="[STORE]", required=False)
@click.option("--all", "all_stores", is_flag=True, help="Every vector store, one after the other.")
@click.option("--model", help="The embedder. Default: the one that new vector stores get.")
@click.option("--no-wait", is_flag=True, help="Begin it, and leave it to the gateway.")
@json_option
@gateway_options
def reindex(store: str | None, all_stores: bool, model: str | None, no_wait: bool, as_json: bool, url: str) -> None:
    """Rebuild STORE (its name or id) with another embedder. Searches find what they did until it is done.

    Ctrl-C only stops the waiting: the gateway goes on.
    """
    if store and all_stores:
        raise click.UsageError("Name a vector store, or say --all.")
    gateway = Gateway(url, os.environ.get("OUTSTATION_API_KEY"))
    try:
        with gateway.connected() as link, showing(history=True) as show:
            stores = _living(link) if all_stores else [the_store(link, store)]
            done = [_rebuild(link, one, model, show, wait=not no_wait) for one in stores]
    except KeyboardInterrupt:
        click.echo("\nStopped waiting. The gateway goes on with what was begun.", err=True)
        sys.exit(130)
    if as_json:
        echo_json(done)
    elif not done:
        click.echo("There is no vector store.")
    for one in () if as_json else done:
        click.echo(printable(_sentence(one)))
    if any(one["failed"] for one in done):
        sys.exit(1)


def _living(link: Connection) -> list[Any]:
    stores = link.every("/v1/vector_stores", limit=100, order="asc")
    return [store for store in stores if store["status"] != "expired"]


def _rebuild(link: Connection, store: Any, model: str | None, show: Show, *, wait: bool) -> dict[str, Any]:
    """Begins it, and follows it to its end unless told otherwise."""
    body = {"model": model} if model else {}
    now = link.post(f"/v1/outstation/vector_stores/{store['id']}/reindex", body)
    state = now["outstation"].get("reindex")
    wanted, failed = state["embedder"] if state else now["outstation"]["embedder"], 0
    while wait and state:
        failed = state["failed"]
        show.now(state["done"], state["total"], failed, f"{store['name']}, by {wanted}")
        time.sleep(_LOOK_S)
        now = link.get(f"/v1/vector_stores/{store['id']}")
        state = now["outstation"].get("reindex")
    has = now["outstation"]["embedder"]
    # Those that failed last are in no state that was seen.
    failed = max(failed, now["file_counts"]["failed"] - store["file_counts"]["failed"])
    if wait and has != wanted:
        raise click.ClickException(
            printable(f"{store['name']} still has the vectors of {has}: somebody ended the rebuild.")
        )
    known = {"id": store["id"], "name": store["name"], "embedder": has, "failed": failed}
    return {**known, "files": now["file_counts"]["total"], "reindex": state}


def _sentence(one: dict[str, Any]) -> str:
    if one["reindex"]:
        return f"{one['name']} ({one['id']}): is being rebuilt by {one['reindex']['embedder']}."
    failed = f"; {one['failed']} of them failed, and are found no more" if one["failed"] else ""
    return f"{one['name']} ({one['id']}): {one['files']} files, by {one['embedder']}{failed}."
