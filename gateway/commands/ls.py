"""`outstation ls`: the models on this box."""

from __future__ import annotations

from dataclasses import asdict

import click

from gateway.commands.common import count_text, echo_json, echo_table, json_option, open_store, size_text, time_text

_COLUMNS = ("NAME", "TASK", "SIZE", "PARAMETERS", "QUANTISATION", "CONTEXT", "PULLED")


@click.command()
@json_option
@click.option("--available", is_flag=True, help="What `pull` knows by name instead.")
def ls(as_json: bool, available: bool) -> None:
    """List the models on this box."""
    if available:
        _list_catalogue(as_json)
        return
    store = open_store()
    models = store.list()
    if as_json:
        echo_json([asdict(model) for model in models])
    elif models:
        rows = [
            (
                model.name,
                model.role,
                size_text(model.size),
                count_text(model.parameters) if model.parameters else "-",
                model.quantization or "-",
                str(model.context_length or "-"),
                time_text(model.created),
            )
            for model in models
        ]
        echo_table(_COLUMNS, rows)
    else:
        click.echo(f"No models in {store.folder}. `outstation pull smollm2-135m-instruct` fetches one.")
    for problem in store.problems():
        click.echo(f"Warning: {problem}", err=True)


def _list_catalogue(as_json: bool) -> None:
    from backends.models.catalogue import load_catalogue

    entries = load_catalogue().entries
    if as_json:
        echo_json([asdict(entry) for entry in entries])
        return
    rows = [
        (entry.name, entry.role, size_text(entry.size), entry.quantization or "-", entry.licence) for entry in entries
    ]
    echo_table(("NAME", "TASK", "SIZE", "QUANTISATION", "LICENCE"), rows)
