"""`outstation search`: what the site's documents say about a question, as `file_search` would find it."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping
from typing import Any, Final

import click

from gateway.commands.client import Gateway, gateway_options
from gateway.commands.common import echo_json, json_option, printable
from gateway.commands.vector_stores import the_store

_WAIT_S: Final = 120.0  # models may have to be loaded


@click.command()
@click.argument("question")
@click.option("--store", metavar="NAME|ID", help="The vector store. Default: the only one.")
@click.option("-n", "--results", type=click.IntRange(1, 50), default=5, show_default=True, help="Passages at most.")
@json_option
@gateway_options
def search(question: str, store: str | None, results: int, as_json: bool, url: str) -> None:
    """Show the passages of a vector store that answer QUESTION, the best first, with file, page and score."""
    with Gateway(url, os.environ.get("OUTSTATION_API_KEY")).connected() as link:
        found = the_store(link, store)
        body = {"query": question, "max_num_results": results}
        answer = link.post(f"/v1/vector_stores/{found['id']}/search", body, wait_s=_WAIT_S)
    if as_json:
        echo_json(answer)
        return
    passages = answer["data"]
    if not passages or not (answer.get("outstation") or {}).get("answered", True):
        nearest = " What is nearest:\n" if passages else ""
        click.echo(printable(f"The documents in {found['name']} do not say.{nearest}"))
    for number, passage in enumerate(passages, start=1):
        if number > 1:
            click.echo()
        click.echo(click.style(printable(f"{number}. {_place(passage)}"), bold=True))
        text = "\n".join(part["text"] for part in passage["content"])
        click.echo(printable(textwrap.indent(text, "   ")))


def _place(passage: Mapping[str, Any]) -> str:
    """File, page and score."""
    attributes, own = passage.get("attributes") or {}, passage.get("outstation") or {}
    page = f", page {own['page']}" if own.get("page") else ""
    return f"{attributes.get('path') or passage['filename']}{page}  ({passage['score']:.2f})"
