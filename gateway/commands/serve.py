"""`outstation serve`: the gateway, until it is stopped."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.commands.common import config_option, read_config

if TYPE_CHECKING:
    from gateway.config import Config


@click.command()
@config_option
@click.option("--host", help="The address to listen on. Any other than loopback needs a key.")
@click.option("--port", type=click.IntRange(0, 65535), help="The port to listen on (8484).")
def serve(config_path: Path | None, host: str | None, port: int | None) -> None:
    """Run the gateway in the foreground."""
    config = read_config(config_path, host, port)
    _hint_at_models(config)
    from gateway.config import load_config
    from gateway.server import serve as run_gateway

    # The same file and the same options, whatever the working directory is by then.
    run_gateway(config, partial(load_config, config.source, host=host, port=port))


def _hint_at_models(config: Config) -> None:
    from backends.models.store import LLM, Store

    store = Store(config.home)
    for problem in store.problems():
        click.echo(f"Warning: {problem}", err=True)
    here = store.list()
    if not config.models and all(model.role != LLM for model in here):
        click.echo(
            "No language model is on this box yet: `outstation pull smollm2-135m-instruct` fetches one.", err=True
        )
    names = {model.name for model in here}
    wanted = dict.fromkeys(config.small_models.defaults.values())
    if missing := [name for name in wanted if "/" not in name and name not in names]:
        click.echo(
            f"Not on this box: {', '.join(missing)}. `outstation pull {' '.join(missing)}` fetches them.", err=True
        )
