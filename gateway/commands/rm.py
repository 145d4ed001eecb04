"""`outstation rm`: delete models from this box."""

from __future__ import annotations

import click

from gateway.commands.common import open_store, size_text


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def rm(names: tuple[str, ...]) -> None:
    """Delete models, or what is left of an interrupted pull. A gateway that has one loaded keeps it until it stops."""
    store = open_store()
    for name in names:
        model = store.remove(name)
        click.echo(f"Removed {name}{f' ({size_text(model.size)})' if model else ', which was incomplete'}.")
