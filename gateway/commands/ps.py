"""`outstation ps`: what the gateway's models are doing now."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import click

from gateway.commands.client import Gateway, gateway_options
from gateway.commands.common import echo_json, echo_table, json_option, printable, size_text

_COLUMNS = ("NAME", "STATE", "MEMORY", "CONTEXT", "KV", "QUEUE", "RUNNING", "TOK/S")


@click.command()
@json_option
@gateway_options
def ps(as_json: bool, url: str) -> None:
    """Show the models of a running gateway (state, memory, KV cache, queue, tokens/s) and its providers."""
    status = Gateway(url, os.environ.get("OUTSTATION_API_KEY")).get("/outstation/status")
    if as_json:
        echo_json(status)
        return
    models, providers = status.get("models", []), status.get("providers", [])
    if models:
        echo_table(_COLUMNS, [_row(model) for model in models])
    elif not providers:
        click.echo("The gateway has no models. `outstation pull smollm2-135m-instruct` fetches one.")
    for model in models:
        if model.get("detail"):
            click.echo(printable(f"{model['name']}: {model['detail']}"))
    if providers:
        click.echo()
        echo_table(("PROVIDER", "STATE", "CONTEXT", "TTFT", "TOK/S"), [_provider_row(route) for route in providers])


def _row(model: Mapping[str, Any]) -> tuple[str, ...]:
    cells, kept = model["kv_cells"], model["kv_cells_kept"]
    # A small model writes no tokens: what it reads is its rate.
    rate = model["decode_rate"] or (0.0 if cells else model.get("prefill_rate", 0.0))
    return (
        printable(model["name"]),
        model["status"],
        size_text(model["memory_bytes"]) if model["memory_bytes"] else "-",
        str(model["context_length"]),
        f"{model['kv_cells_used'] - kept}/{cells}, {kept} kept" if cells else "-",
        str(model["waiting"]),
        f"{model['running']}/{model['max_sequences']}",
        f"{rate:.1f}" if rate else "-",
    )


def _provider_row(route: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        printable(route["route"]),
        printable(route["reason"]) or "reachable",
        str(route["context_length"]),
        f"{route['ttft_s']:.2f} s" if route["ttft_s"] else "-",
        f"{route['tokens_per_s']:.1f}" if route["tokens_per_s"] else "-",
    )
