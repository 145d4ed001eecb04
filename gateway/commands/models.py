"""`outstation models`: all models, language models and small ones, with what is known of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from gateway.commands.client import Gateway, gateway_options
from gateway.commands.common import echo_json, echo_table, json_option, open_store, printable, size_text

if TYPE_CHECKING:
    from backends.models.store import LocalModel

_COLUMNS = ("NAME", "TASK", "SIZE", "STATE", "FROM", "LICENCE", "METRICS")
_SHOWN = 2  # metrics; `show` has all
_ASK_S = 1.0  # a gateway that does not answer by then is not waited for


@click.group(invoke_without_command=True)
@json_option
@gateway_options
@click.pass_context
def models(context: click.Context, as_json: bool, url: str) -> None:
    """List all models on this box with their task, state, origin, licence and figures.

    STATE is what a running gateway says of it; `here`: none does.
    """
    if context.invoked_subcommand:
        return
    store = open_store()
    states = _states(url)
    rows = [_described(model, states.get(model.name, "here")) for model in store.list()]
    if as_json:
        echo_json(rows)
    elif rows:
        echo_table(_COLUMNS, [_row(row) for row in rows])
    else:
        click.echo(f"No models in {store.folder}. `outstation pull smollm2-135m-instruct` fetches one.")
    for problem in store.problems():
        click.echo(f"Warning: {problem}", err=True)


def _states(url: str) -> Mapping[str, str]:
    """By model; empty if no gateway answers."""
    try:
        status = Gateway(url, os.environ.get("OUTSTATION_API_KEY")).get("/outstation/status", wait_s=_ASK_S)
    except click.ClickException:
        return {}
    return {str(model["name"]): str(model["status"]) for model in status.get("models", ())}


def _described(model: LocalModel, state: str) -> dict[str, Any]:
    from backends.models.store import LLM
    from backends.onnx.manifest import read_manifest

    manifest = None if model.role == LLM else read_manifest(model.path)
    return {
        "name": model.name,
        "task": model.role,
        "version": manifest.version if manifest else "",
        "size": model.size,
        "state": state,
        "source": model.source,
        "licence": model.licence,
        "labels": list(manifest.labels) if manifest else [],
        "metrics": [metric.model_dump() for metric in manifest.metrics] if manifest else [],
        "path": str(model.path),
        "sha256": model.sha256,
        "created": model.created,
    }


def _row(model: Mapping[str, Any]) -> tuple[str, ...]:
    figures = [f"{metric['name']} {metric['value']:.4g}" for metric in model["metrics"]]
    metrics = "; ".join(figures[:_SHOWN]) + (f"; {len(figures) - _SHOWN} more" if len(figures) > _SHOWN else "")
    return (
        model["name"],
        model["task"],
        size_text(model["size"]),
        printable(model["state"]),
        printable(model["source"]) or "-",
        printable(model["licence"]) or "-",
        printable(metrics) or "-",
    )
